"""Foreign keys of the legacy's table and to it, and orphans: rows that break a key which claims to be valid.

An apply worker does not fire the triggers of foreign keys, so rows that the reverse stream brings are not checked. A
row that others point at may be deleted without CASCADE or SET NULL, and a row may arrive that points nowhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg import errors

from migration_assets.domain.table_spec import QualifiedName
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import raw_sql

_ACTIONS = {"c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}
# The server writes the counting query, so that operators and quoting are its own.
_KEYS: LiteralString = """
SELECT k.conname::text, k.confrelid = t.oid, k.conrelid::regclass::text, k.confrelid::regclass::text,
       k.confdeltype::text, k.confupdtype::text, k.convalidated,
       format('ALTER TABLE %%s DROP CONSTRAINT %%I;', k.conrelid::regclass, k.conname),
       CASE WHEN coalesce((to_jsonb(k) ->> 'conperiod')::boolean, false) THEN NULL ELSE
       (SELECT format('SELECT count(*) FROM %%s c WHERE %%s AND NOT EXISTS (SELECT FROM %%s p WHERE %%s)',
                      k.conrelid::regclass, string_agg(format('c.%%I IS NOT NULL', a.attname), ' AND '),
                      k.confrelid::regclass,
                      string_agg(format('p.%%I OPERATOR(%%I.%%s) c.%%I', r.attname, n.nspname, o.oprname, a.attname),
                                 ' AND '))
        FROM unnest(k.conkey, k.confkey, k.conpfeqop) u(a, r, o)
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.a
        JOIN pg_attribute r ON r.attrelid = k.confrelid AND r.attnum = u.r
        JOIN pg_operator o ON o.oid = u.o JOIN pg_namespace n ON n.oid = o.oprnamespace) END
FROM pg_constraint k, (SELECT to_regclass(%(table)s)::oid AS oid) t
WHERE k.contype = 'f' AND k.conparentid = 0 AND t.oid IN (k.confrelid, k.conrelid) ORDER BY 3, 1
"""


@dataclass(frozen=True)
class ForeignKey:
    """One foreign key.

    Attributes:
        name: Of the constraint.
        incoming: Whether it points at the migrated table; true also for a key from that table to itself.
        child: The referencing table, as SQL.
        parent: The referenced table, as SQL.
        actions: What the key does to referencing rows, such as `ON DELETE CASCADE`; empty for most.
        validated: Whether the constraint claims to hold for every row.
        drop: The statement that drops it.
        counting: The query that counts orphans; None for a key over periods, which compares by more than equality.
    """

    name: str
    incoming: bool
    child: str
    parent: str
    actions: tuple[str, ...]
    validated: bool
    drop: str
    counting: str | None

    @property
    def label(self) -> str:
        """The key's name for people and the ledger; with the table, since names are unique within a table only."""
        return f"{self.name} on {self.child}"


@dataclass(frozen=True)
class Orphans:
    """How many rows of one key point nowhere; `rows` is None where they could not be counted, for the reason given."""

    key: str
    rows: int | None
    why_not: str = ""

    def __str__(self) -> str:
        return f"{self.key}: not counted ({self.why_not})" if self.rows is None else f"{self.key}: {self.rows:,}"


def read_foreign_keys(connection: Connected, table: QualifiedName) -> list[ForeignKey]:
    """Read all keys that point at the table or from it; every name in them is qualified."""
    with connection.transaction():
        connection.execute("SET LOCAL search_path = pg_catalog")
        rows = connection.execute(_KEYS, {"table": str(table)}).fetchall()
    return [
        ForeignKey(
            name,
            incoming,
            child,
            parent,
            tuple(
                f"ON {what} {_ACTIONS[action]}"
                for what, action in (("DELETE", deletes), ("UPDATE", updates))
                if action in _ACTIONS
            ),
            validated,
            drop,
            counting,
        )
        for name, incoming, child, parent, deletes, updates, validated, drop, counting in rows
    ]


def count_orphans(connection: Connected, keys: Sequence[ForeignKey], *, seconds: float) -> list[Orphans]:
    """Count the orphans of each key. The referencing table is read once a key, the referenced one is looked up.

    Args:
        connection: To the side that has the keys, in no transaction.
        keys: The keys to count.
        seconds: The longest that one key may take.

    Raises:
        psycopg.Error: The connection was lost. Any other error is noted in the result.
    """
    return [_count(connection, key, seconds) for key in keys]


def _count(connection: Connected, key: ForeignKey, seconds: float) -> Orphans:
    if key.counting is None:
        return Orphans(key.label, None, "it compares periods")
    try:
        with connection.transaction():
            connection.execute(
                "SELECT set_config('statement_timeout', %s, true), set_config('search_path', 'pg_catalog', true)",
                [f"{max(1, round(seconds * 1000))}ms"],
            )
            row = connection.execute(raw_sql(key.counting)).fetchone()
    except errors.QueryCanceled:
        return Orphans(key.label, None, f"it takes longer than {seconds:g} s")
    except psycopg.Error as error:
        if connection.broken:
            raise
        return Orphans(key.label, None, told(error))
    return Orphans(key.label, int(require_row(row, "a count")[0]))


def note_orphans(base: Connected, cutover: int, found: Sequence[Orphans], *, after: bool) -> None:
    """Write to the ledger the orphans that a rollback found before it began (`after` false) or after it was done."""
    for one in found:
        base.execute(
            "INSERT INTO migration.orphans AS o (cutover, key, before, after) VALUES (%(cutover)s, %(key)s,"
            " CASE WHEN NOT %(late)s THEN %(rows)s::bigint END, CASE WHEN %(late)s THEN %(rows)s::bigint END)"
            " ON CONFLICT (cutover, key) DO UPDATE SET before = coalesce(excluded.before, o.before),"
            " after = coalesce(excluded.after, o.after), counted_at = clock_timestamp()",
            {"cutover": cutover, "key": one.key, "late": after, "rows": one.rows},
        )


def last_orphans(base: Connected, relation: str) -> dict[str, int | None]:
    """Orphans after the table's last successful rollback, by key; None where not counted. Keys without are left out."""
    rows = base.execute(
        "SELECT o.key, o.after FROM migration.orphans o WHERE o.cutover = (SELECT max(id) FROM migration.cutovers"
        "  WHERE relation = %s AND kind = 'rollback' AND outcome = 'succeeded') AND o.after IS DISTINCT FROM 0",
        [relation],
    )
    return {str(key): after for key, after in rows}


def orphans_of(base: Connected, cutover: int) -> Mapping[str, tuple[int | None, int | None]]:
    """The orphans of one rollback, by key: before and after it; None where they were not counted."""
    rows = base.execute("SELECT key, before, after FROM migration.orphans WHERE cutover = %s ORDER BY key", [cutover])
    return {key: (before, after) for key, before, after in rows}
