"""Reads how tables are defined and in which files they are, inside the locks of the step that proves it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import LiteralString

from migration_assets.domain.definitions import Definitions, TableState
from migration_assets.domain.errors import TableSpecError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.table_spec import QualifiedName, TableSpec, quote_identifier
from migration_assets.ledger.stream_parts import alterations
from migration_assets.postgres.own_schema import ON_TABLES
from migration_assets.postgres.sessions import Connected, Side
from migration_assets.postgres.untrusted import bodies, functions_of

# Types are named with their schema, so that the search_path does not matter. No oid enters a digest, so that different
# or restored servers can be compared. Dropped columns count, because they are a change of the definition. Triggers that
# fire for an apply worker change the rows that arrive, and rules change our own statements; our own ones do not count.
_WANTED: LiteralString = """
WITH RECURSIVE tables AS (
    SELECT c.*, w.nspname, w.relname AS wanted
    FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS w(nspname, relname)
    JOIN pg_namespace n ON n.nspname = w.nspname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.relname
),
"""
_DIRECT: LiteralString = """
used AS (
    SELECT DISTINCT a.atttypid AS oid FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid
    WHERE a.attnum > 0 AND NOT a.attisdropped
), types AS (
    SELECT string_agg(concat_ws('|', n.nspname, y.typname, y.typtype, y.typtypmod, y.typnotnull), E'\\n'
                      ORDER BY n.nspname, y.typname) AS described,
           coalesce(bool_or(y.typtype <> 'b' OR y.typelem <> 0), false) AS composed
    FROM used u JOIN pg_type y ON y.oid = u.oid JOIN pg_namespace n ON n.oid = y.typnamespace
)
"""
# This form is several times as expensive, and gives the same text where no type is made of others.
_COMPOSED: LiteralString = """
used AS (
    SELECT DISTINCT a.atttypid AS oid FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid
    WHERE a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT inner_type.oid FROM used u JOIN pg_type y ON y.oid = u.oid CROSS JOIN LATERAL (
        SELECT y.typelem WHERE y.typelem <> 0
        UNION ALL SELECT y.typbasetype WHERE y.typbasetype <> 0
        UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE y.oid IN (r.rngtypid, r.rngmultitypid)
        UNION ALL SELECT m.atttypid FROM pg_attribute m
                  WHERE y.typrelid <> 0 AND m.attrelid = y.typrelid AND m.attnum > 0 AND NOT m.attisdropped
    ) AS inner_type(oid)
), types AS (
    SELECT string_agg(concat_ws('|', n.nspname, y.typname, y.typtype, y.typtypmod, y.typnotnull,
        (SELECT concat_ws('.', bn.nspname, b.typname) FROM pg_type b JOIN pg_namespace bn ON bn.oid = b.typnamespace
         WHERE b.oid = greatest(y.typbasetype, y.typelem)),
        (SELECT string_agg(quote_literal(e.enumlabel), ',' ORDER BY e.enumsortorder) FROM pg_enum e
         WHERE e.enumtypid = y.oid),
        (SELECT string_agg(concat_ws(' ', quote_ident(m.attname), mn.nspname, mt.typname, m.atttypmod), ','
                ORDER BY m.attnum)
         FROM pg_attribute m JOIN pg_type mt ON mt.oid = m.atttypid JOIN pg_namespace mn ON mn.oid = mt.typnamespace
         WHERE y.typrelid <> 0 AND m.attrelid = y.typrelid AND m.attnum > 0 AND NOT m.attisdropped)
    ), E'\\n' ORDER BY n.nspname, y.typname) AS described, false AS composed
    FROM used u JOIN pg_type y ON y.oid = u.oid JOIN pg_namespace n ON n.oid = y.typnamespace
)
"""
_STATES: LiteralString = """
SELECT t.nspname::text, t.wanted::text, t.oid::bigint, pg_relation_filenode(t.oid)::bigint,
       CASE WHEN t.reltoastrelid <> 0 THEN pg_relation_filenode(t.reltoastrelid)::bigint END,
       encode(sha256(convert_to(concat_ws(E'\\n',
           concat_ws('|', t.relkind, t.relpersistence, t.relrowsecurity, t.relforcerowsecurity),
           (SELECT string_agg(concat_ws('|', a.attnum, quote_ident(a.attname), a.attisdropped, yn.nspname, y.typname,
                a.atttypmod, col.collname, a.attnotnull, a.attgenerated, a.attmissingval::text),
                E'\\n' ORDER BY a.attnum)
            FROM pg_attribute a LEFT JOIN pg_type y ON y.oid = a.atttypid
            LEFT JOIN pg_namespace yn ON yn.oid = y.typnamespace
            LEFT JOIN pg_collation col ON col.oid = a.attcollation
            WHERE a.attrelid = t.oid AND a.attnum > 0),
           types.described,
           (SELECT string_agg(concat_ws('|', g.tgenabled,
                replace(pg_get_triggerdef(g.oid), format(' ON %%I.%%I ', t.nspname, t.wanted), ' '),
                _called), E'\\n' ORDER BY g.tgname)
            FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid
            WHERE g.tgrelid = t.oid AND g.tgenabled IN ('A', 'R') AND NOT g.tgisinternal
                  AND (f.pronamespace IS DISTINCT FROM to_regnamespace('migration') OR f.proname <> ALL(%(ours)s))),
           (SELECT string_agg(pg_get_ruledef(r.oid), E'\\n' ORDER BY r.rulename) FROM pg_rewrite r
            WHERE r.ev_class = t.oid)), 'UTF8')), 'hex'),
       EXISTS (SELECT FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid WHERE g.tgrelid = t.oid
               AND g.tgenabled IN ('A', 'R') AND NOT g.tgisinternal
               AND (f.pronamespace IS DISTINCT FROM to_regnamespace('migration') OR f.proname <> ALL(%(ours)s))),
       types.composed
FROM tables t CROSS JOIN types
"""
# Functions of triggers are looked up only where there are triggers: planning that takes as long as all the rest.
_PLAIN = _STATES.replace("_called", "NULL")
_CALLING = _STATES.replace("_called", bodies(functions_of("pg_trigger", "g.oid")))


Files = Mapping[int, tuple[int | None, int | None]]
"""For each table's oid the files (filenodes) of its rows and of its TOAST table."""


def table_states(connection: Connected, tables: Sequence[QualifiedName]) -> dict[QualifiedName, TableState]:
    """The definitions of these tables in the session's transaction; a table that does not exist is left out."""
    wanted = {"schemas": [one.schema for one in tables], "names": [one.name for one in tables]}
    wanted["ours"] = list(ON_TABLES)
    rows = connection.execute(_WANTED + _DIRECT + _PLAIN, wanted).fetchall()
    fires, composed = any(row[6] for row in rows), any(row[7] for row in rows)
    if fires or composed:
        types, states = _COMPOSED if composed else _DIRECT, _CALLING if fires else _PLAIN
        rows = connection.execute(_WANTED + types + states, wanted).fetchall()
    return {
        QualifiedName(schema, name): TableState(oid, filenode, toast, digest)
        for schema, name, oid, filenode, toast, digest, *_ in rows
    }


def require_all_rows(connection: Connected, table: QualifiedName, side: Side) -> None:
    """Refuse to read a table if row level security would hide rows from our role.

    Raises:
        TableSpecError: Row level security applies to our role; the error says how to let it see all rows.
    """
    row = connection.execute(
        "SELECT current_user::text FROM to_regclass(%s) AS c WHERE c IS NOT NULL AND row_security_active(c)",
        [str(table)],
    ).fetchone()
    if row is not None:
        raise TableSpecError(
            f"row level security is on, and role {row[0]} does not pass it: it would see only a part of the rows",
            where=f"{table} in the {side}",
            state_left="no row was changed; run again, the step finishes the work that it had begun on the stream",
            next_step=f"ALTER ROLE {quote_identifier(row[0])} BYPASSRLS; or, if that role owns the table,"
            f" ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY; then run this again",
        )


def seen_definitions(
    legacy: Connected, base: Connected, table: QualifiedName, leaves: Sequence[QualifiedName]
) -> dict[QualifiedName, Definitions]:
    """The definitions that a proof of each leaf sees on both sides, in the transactions in which it reads them.

    Args:
        legacy: A session on the legacy, which has the table.
        base: A session on the base, which has the leaves below a root of the table's name.
        table: The table's name on both sides.
        leaves: The leaves of the weeks that are proven.

    Raises:
        TableSpecError: On one side row level security hides rows from our role.
    """
    require_all_rows(legacy, table, "legacy")
    require_all_rows(base, table, "base")
    of_legacy = table_states(legacy, [table]).get(table)
    of_base = table_states(base, [table, *leaves])
    altered = alterations(base, str(table))
    return {leaf: Definitions(of_legacy, of_base.get(table), of_base.get(leaf), altered) for leaf in leaves}


def altered_since(
    base: Connected,
    spec: TableSpec,
    proofs: Iterable[tuple[FiscalWeek, str, Definitions | None]],
    legacy_table: TableState | None,
) -> dict[FiscalWeek, str]:
    """How the tables were altered since the newest proof of each week, in words; unaltered weeks are left out.

    Args:
        base: A session on the base, whose root and leaves are examined.
        spec: The table.
        proofs: Each week with its leaf and the state that its proof saw.
        legacy_table: The present state of the legacy's table; None if it was not examined.
    """
    known = [(week, spec.table.sibling(leaf), seen) for week, leaf, seen in proofs if seen is not None]
    if not known:
        return {}
    now = table_states(base, [spec.table, *(leaf for _, leaf, _ in known)])
    altered = alterations(base, spec.relation)
    found = {
        week: seen.why_stale(legacy=legacy_table, root=now.get(spec.table), leaf=now.get(leaf), alterations=altered)
        for week, leaf, seen in known
    }
    return {week: why for week, why in found.items() if why}


def files(connection: Connected, table: QualifiedName) -> Files:
    """The files that hold the rows of the table, its partitions and their long values, by the tables' oids."""
    rows = connection.execute(
        "SELECT c.oid::bigint, pg_relation_filenode(c.oid)::bigint,"
        " pg_relation_filenode(nullif(c.reltoastrelid, 0))::bigint FROM pg_class c WHERE c.oid = to_regclass(%(table)s)"
        " OR c.oid IN (SELECT relid FROM pg_partition_tree(to_regclass(%(table)s)))",
        {"table": str(table)},
    )
    return {oid: (filenode, toast) for oid, filenode, toast in rows}


def filenodes(connection: Connected, table: QualifiedName) -> tuple[int, int | None, int | None] | None:
    """The table's oid and file now, whatever an open transaction's snapshot shows.

    Two equal results mean that the table was not rewritten or truncated in between. None if there is no such table.
    """
    row = connection.execute(
        "SELECT c::oid::bigint, pg_relation_filenode(c)::bigint, (SELECT pg_relation_filenode(reltoastrelid)::bigint"
        " FROM pg_class WHERE oid = c AND reltoastrelid <> 0) FROM to_regclass(%s) AS c WHERE c IS NOT NULL",
        [str(table)],
    ).fetchone()
    return None if row is None else (row[0], row[1], row[2])
