"""Fences: the triggers that refuse writes while a side is held, and those that refuse TRUNCATE of a base in charge.

This file decides which tables have which triggers, and who passes them. When a side is held, and by which cutover, is
in `cutover/holds.py`.

Several triggers are needed:
- A statement trigger fires only for the table that the statement names: a writer who names a leaf does not fire the
  root's. So the root and each of its partitions have one. It refuses every client.
- An apply worker of PostgreSQL fires row triggers only, on the leaf that a row reaches. So the legacy's table and every
  leaf have one. It refuses every worker except the one of our own subscription.
- All are ENABLE ALWAYS, because `session_replication_role = replica` skips other triggers.

Partitions are fenced one by one before the root is held, while writers go on; each is locked for a moment only. From
then on a writer who names a partition is refused. The hold itself locks only the root.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from psycopg import errors, sql

from migration_assets.domain.table_spec import QualifiedName
from migration_assets.ledger.own_objects import ledger_has
from migration_assets.ledger.session_locks import take_turn_at_partitions
from migration_assets.postgres.activity import writers_of
from migration_assets.postgres.retries import retry_locked
from migration_assets.postgres.sessions import Connected, Side, require_row
from migration_assets.postgres.sql_text import table_name
from migration_assets.quarters.fence_functions import bodies

HOLD = "migration_assets_hold"
HOLD_ROWS = "migration_assets_hold_rows"
BASE_GUARD = "migration_assets_no_base_truncate"
OUR_TRIGGERS = (HOLD, HOLD_ROWS, BASE_GUARD)
# If our process freezes while it has a table locked, writers wait for no longer than this.
FROZEN_MS = 2_000
# A try to lock behind a writer older than this would only make other writers wait.
HOPELESS_MS = 3_000.0

# A row for each trigger that should exist: whether it is ENABLE ALWAYS, and equal to what this version creates.
_STATES = """
WITH tables AS (
    SELECT c.oid, c.relkind, c.oid = r.oid AS is_root, n.nspname, c.relname
    FROM (SELECT to_regclass(%(table)s)::oid AS oid) r
    CROSS JOIN LATERAL (SELECT r.oid AS relid UNION SELECT p.relid::oid FROM pg_partition_tree(r.oid) p) one
    JOIN pg_class c ON c.oid = one.relid JOIN pg_namespace n ON n.oid = c.relnamespace
)
SELECT t.nspname, t.relname, t.is_root, t.relkind = 'r', w.name, g.tgenabled::text,
       coalesce(g.tgtype = w.kind AND g.tgattr::text = '' AND (g.tgqual IS NULL) = (w.name <> %(rows)s)
                AND g.tgnargs = w.count AND g.tgfoid = to_regproc(w.call) AND p.prosrc = w.body
                AND (w.args IS NULL OR g.tgargs = (
                    SELECT string_agg(convert_to(a.value, getdatabaseencoding()) || '\\x00'::bytea, '' ORDER BY a.place)
                    FROM unnest(w.args) WITH ORDINALITY AS a (value, place))), false)
FROM tables t
JOIN LATERAL (VALUES
    (%(hold)s, 62, 'migration.refuse_writes', %(refuse_writes)s, 3, %(hold_args)s::text[]),
    (%(rows)s, 29, 'migration.refuse_rows', %(refuse_rows)s, 3, %(hold_args)s::text[]),
    (%(guard)s, 34, 'migration.refuse_base_truncate', %(refuse_base_truncate)s, 1, %(guard_args)s::text[])
) AS w (name, kind, call, body, count, args)
  ON (w.name <> %(rows)s OR t.relkind = 'r') AND (w.name <> %(guard)s OR %(side)s = 'base')
LEFT JOIN pg_trigger g ON g.tgrelid = t.oid AND g.tgname = w.name
LEFT JOIN pg_proc p ON p.oid = g.tgfoid
ORDER BY t.is_root DESC, t.nspname, t.relname
"""


@dataclass(frozen=True)
class Fence:
    """What the triggers of one side protect, and whom they let pass.

    Attributes:
        side: `legacy` or `base`.
        root: The table that applications name.
        subscription: The subscription whose apply worker passes: that of the stream to this side. Empty for none.
        slot: The reverse stream's slot; while it exists, the base refuses TRUNCATE. Empty on the legacy.
        lock_timeout_ms: Timeout of one try to lock a table, in milliseconds.
    """

    side: Side
    root: QualifiedName
    subscription: str
    slot: str = ""
    lock_timeout_ms: int = 100


@dataclass(frozen=True)
class _Trigger:
    table: QualifiedName
    is_root: bool
    is_leaf: bool
    name: str
    enabled: str | None
    current: bool

    def is_as(self, wanted: str) -> bool:
        """Whether the trigger is as wanted: `A` (always), or `D` (disabled or missing; the TRUNCATE guard stays on)."""
        if wanted == "D" and self.name != BASE_GUARD:
            return self.enabled in {None, "D"}
        return self.enabled == "A" and self.current


def fence_of_base(base: Connected, root: QualifiedName, lock_timeout_ms: int = 100) -> Fence:
    """The base's fence, with the streams that the ledger names; without a stream no apply worker passes."""
    found = (
        base.execute("SELECT subscription, slot FROM migration.streams WHERE relation = %s", [str(root)]).fetchone()
        if ledger_has(base, "streams")
        else None
    )
    subscription, slot = found or ("", "")
    return Fence("base", root, subscription, f"{slot}_back", lock_timeout_ms)


def is_made(connection: Connected, fence: Fence) -> bool:
    """Whether the root (or the legacy's table) has all its triggers, so that they only need to be enabled."""
    return all(one.current for one in _read(connection, fence) if one.is_root)


def fence_table(connection: Connected, fence: Fence, *, made: bool) -> None:
    """Make the root (or the legacy's table) refuse all writers from the caller's commit on.

    Args:
        connection: In the transaction that has locked the table.
        fence: The table, and whom it lets pass.
        made: What `is_made` returned before the lock.
    """
    is_leaf = fence.side == "legacy"
    statements = (
        _enabling(fence.root, _names(fence, is_leaf)) if made else _statements(fence, fence.root, is_leaf=is_leaf)
    )
    connection.execute(statements)


def fence_partitions(base: Connected, fence: Fence, *, patience_seconds: float) -> None:
    """From now on partitions take rows through the root alone; transactions that wrote to one of them have ended.

    Raises:
        psycopg.errors.LockNotAvailable: A writer stayed for longer. Some partitions are fenced; `sync_partitions` frees
            them.
    """
    for table, is_leaf, _ in _differing(base, fence, "A"):
        _change(base, fence, table, _statements(fence, table, is_leaf=is_leaf), patience_seconds)


def sync_partitions(base: Connected, fence: Fence, *, patience_seconds: float) -> None:
    """Fence every partition while the root is held, else free it; safe to repeat.

    Args:
        base: To the base, in no transaction.
        fence: The base's fence.
        patience_seconds: How long to wait for the writers of one partition.

    Raises:
        psycopg.errors.LockNotAvailable: A writer stayed for longer; some partitions may be changed already.
    """
    if is_held(base, fence.root):
        return fence_partitions(base, fence, patience_seconds=patience_seconds)
    with base.transaction():
        # A step that makes a partition now saw the root held, and fences it; afterwards no step does.
        take_turn_at_partitions(base)
    for table, is_leaf, triggers in _differing(base, fence, "D"):
        if BASE_GUARD in triggers:
            free = sql.SQL("; ").join([_statements(fence, table, is_leaf=is_leaf), _disabling(table, is_leaf=is_leaf)])
        else:
            free = _disable(table, triggers)
        _change(base, fence, table, free, patience_seconds)
    return None


def follow_root(base: Connected, table: QualifiedName) -> None:
    """Give a new partition the triggers of its root, in the transaction that attaches it."""
    row = base.execute(
        "SELECT n.nspname, r.relname, c.relkind = 'r', EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = r.oid"
        " AND t.tgname = %s) FROM pg_class c JOIN pg_class r ON r.oid = pg_partition_root(c.oid)"
        " JOIN pg_namespace n ON n.oid = r.relnamespace WHERE c.oid = to_regclass(%s)",
        [BASE_GUARD, str(table)],
    ).fetchone()
    schema, name, is_leaf, has_guard = require_row(row, "the root")
    if not has_guard:
        return  # no cutover ever began
    root = QualifiedName(schema, name)
    base.execute(_statements(fence_of_base(base, root), table, is_leaf=is_leaf))
    if not is_held(base, root):
        base.execute(_disabling(table, is_leaf=is_leaf))


def free_table(connection: Connected, table: QualifiedName) -> None:
    """Let the table take writes from the caller's commit on; the caller has locked it.

    The triggers are disabled, not dropped: DROP TRIGGER would wait for readers, and new readers would wait behind it.
    """
    rows = connection.execute(
        "SELECT tgname::text FROM pg_trigger WHERE tgrelid = to_regclass(%s) AND tgname = ANY(%s)",
        [str(table), [HOLD, HOLD_ROWS]],
    ).fetchall()
    if rows:
        connection.execute(_disable(table, [str(row[0]) for row in rows]))


def is_held(connection: Connected, table: QualifiedName) -> bool:
    """Whether ordinary writes to the table are refused. Whether all kinds of writes are is the question of `gaps`."""
    row = connection.execute(
        "SELECT tgenabled::text, tgnargs < 3 FROM pg_trigger WHERE tgrelid = to_regclass(%s) AND tgname = %s",
        [str(table), HOLD],
    ).fetchone()
    enabled, is_old = row or ("D", False)
    if enabled != "O" or is_old:
        return enabled in {"A", "O"}
    # ENABLE TRIGGER ALL was run by others: this trigger then refuses writes only if a hold is noted.
    noted = connection.execute("SELECT FROM migration.holds WHERE relation = %s", [str(table)])
    return noted.fetchone() is not None


def gaps(connection: Connected, table: QualifiedName) -> tuple[str, ...]:
    """List what would still let a writer through; empty where every writer is refused.

    Needs no rights except on the catalogue.
    """
    row = connection.execute(
        "SELECT c.relkind, (SELECT i.inhparent::regclass::text FROM pg_inherits i WHERE i.inhrelid = c.oid LIMIT 1),"
        " ARRAY(SELECT i.inhrelid::regclass::text FROM pg_inherits i WHERE i.inhparent = c.oid AND c.relkind <> 'p'"
        "       ORDER BY 1)"
        " FROM pg_class c WHERE c.oid = to_regclass(%s)",
        [str(table)],
    ).fetchone()
    if row is None:
        return (f"{table} does not exist",)
    kind, parent, children = row
    found = [f"{table} inherits from {parent}, through which it can be written to"] if parent else []
    found += [f"{child} inherits from {table}, whose rows include those written to it" for child in children]
    states = _read(connection, Fence("base" if kind == "p" else "legacy", table, ""), any_arguments=True)
    found += [
        f"trigger {one.name} of {one.table} {_flaw(one)}"
        for one in states
        if one.name != BASE_GUARD and not one.is_as("A")
    ]
    return tuple(found)


def guard_root(base: Connected, fence: Fence) -> None:
    """Let the root refuse TRUNCATE, in the caller's transaction. `sync_partitions` does the same for its partitions.

    A real hold stays. Hold triggers that were only enabled by an ENABLE TRIGGER ALL are disabled again.

    Raises:
        psycopg.errors.LockNotAvailable: The root was locked by others.
    """
    lock_writers_out(base, fence.root, fence.lock_timeout_ms)
    if not is_held(base, fence.root):
        free_table(base, fence.root)
    base.execute(sql.SQL("; ").join([_guarding(fence, fence.root), _enabling(fence.root, [BASE_GUARD])]))


def unguarded_tables(base: Connected, root: QualifiedName) -> tuple[str, ...]:
    """The base's tables that would take a TRUNCATE, although no stream brings it to the legacy."""
    states = _read(base, Fence("base", root, ""), any_arguments=True)
    return tuple(str(one.table) for one in states if one.name == BASE_GUARD and not one.is_as("A"))


def drop_triggers(connection: Connected, table: QualifiedName) -> None:
    """Drop our triggers from the table and all its partitions, in the caller's transaction."""
    rows = connection.execute(
        "SELECT n.nspname, c.relname, t.tgname FROM (SELECT to_regclass(%s)::oid AS oid) r"
        " CROSS JOIN LATERAL (SELECT r.oid AS relid UNION SELECT p.relid::oid FROM pg_partition_tree(r.oid) p) one"
        " JOIN pg_trigger t ON t.tgrelid = one.relid JOIN pg_class c ON c.oid = one.relid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE t.tgname = ANY(%s)",
        [str(table), list(OUR_TRIGGERS)],
    ).fetchall()
    for schema, name, trigger in rows:
        connection.execute(
            sql.SQL("DROP TRIGGER {} ON {}").format(sql.Identifier(trigger), sql.Identifier(schema, name))
        )


def _flaw(trigger: _Trigger) -> str:
    if trigger.enabled is None:
        return "does not exist"
    if trigger.enabled != "A":
        return "is not ENABLE ALWAYS"
    return "differs from what this version of the program makes"


def _read(connection: Connected, fence: Fence, *, any_arguments: bool = False) -> list[_Trigger]:
    rows = connection.execute(
        _STATES,
        {
            "table": str(fence.root),
            "side": fence.side,
            "hold": HOLD,
            "rows": HOLD_ROWS,
            "guard": BASE_GUARD,
            "hold_args": None if any_arguments else _arguments(fence),
            "guard_args": None if any_arguments else [fence.slot],
            **bodies(connection),
        },
    ).fetchall()
    return [
        _Trigger(QualifiedName(schema, table), is_root, is_leaf, name, enabled, current)
        for schema, table, is_root, is_leaf, name, enabled, current in rows
    ]


def _arguments(fence: Fence) -> list[str]:
    return [fence.side, str(fence.root), fence.subscription]


def _differing(base: Connected, fence: Fence, wanted: str) -> list[tuple[QualifiedName, bool, list[str]]]:
    """Partitions with triggers that are not as wanted: table, whether it is a leaf, names of those triggers."""
    found: dict[QualifiedName, tuple[QualifiedName, bool, list[str]]] = {}
    for one in _read(base, fence):
        if not one.is_root and not one.is_as(wanted):
            found.setdefault(one.table, (one.table, one.is_leaf, []))[2].append(one.name)
    return list(found.values())


def _statements(fence: Fence, table: QualifiedName, *, is_leaf: bool) -> sql.Composed:
    """SQL that makes the table refuse all writers. `is_leaf`: it has rows of its own, as leaves and the legacy have."""
    name = table_name(table)
    arguments = sql.SQL(", ").join(sql.Literal(one) for one in _arguments(fence))
    parts = [
        sql.SQL(
            "CREATE OR REPLACE TRIGGER {} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {}"
            " FOR EACH STATEMENT EXECUTE FUNCTION migration.refuse_writes({})"
        ).format(sql.Identifier(HOLD), name, arguments)
    ]
    if is_leaf:
        # AFTER, because a BEFORE row trigger makes every UPDATE lock its row a second time, even while it is disabled.
        # The WHEN spares other sessions the call; every apply worker has session_replication_role = replica.
        parts.append(
            sql.SQL(
                "CREATE OR REPLACE TRIGGER {} AFTER INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW"
                " WHEN (pg_catalog.current_setting('session_replication_role') = 'replica')"
                " EXECUTE FUNCTION migration.refuse_rows({})"
            ).format(sql.Identifier(HOLD_ROWS), name, arguments)
        )
    if fence.side == "base":
        parts.append(_guarding(fence, table))
    return sql.SQL("; ").join([*parts, _enabling(table, _names(fence, is_leaf))])


def _names(fence: Fence, is_leaf: bool) -> list[str]:
    return [HOLD, *([HOLD_ROWS] if is_leaf else []), *([BASE_GUARD] if fence.side == "base" else [])]


def _guarding(fence: Fence, table: QualifiedName) -> sql.Composed:
    return sql.SQL(
        "CREATE OR REPLACE TRIGGER {} BEFORE TRUNCATE ON {}"
        " FOR EACH STATEMENT EXECUTE FUNCTION migration.refuse_base_truncate({})"
    ).format(sql.Identifier(BASE_GUARD), table_name(table), sql.Literal(fence.slot))


def _enabling(table: QualifiedName, triggers: Sequence[str]) -> sql.Composed:
    enabling = sql.SQL(", ").join(sql.SQL("ENABLE ALWAYS TRIGGER {}").format(sql.Identifier(one)) for one in triggers)
    return sql.SQL("ALTER TABLE ONLY {} {}").format(table_name(table), enabling)


def _disable(table: QualifiedName, triggers: Sequence[str]) -> sql.Composed:
    disabling = sql.SQL(", ").join(sql.SQL("DISABLE TRIGGER {}").format(sql.Identifier(one)) for one in triggers)
    return sql.SQL("ALTER TABLE ONLY {} {}").format(table_name(table), disabling)


def _disabling(table: QualifiedName, *, is_leaf: bool) -> sql.Composed:
    return _disable(table, [HOLD, HOLD_ROWS] if is_leaf else [HOLD])


def _change(
    base: Connected, fence: Fence, table: QualifiedName, statements: sql.Composed, patience_seconds: float
) -> None:
    """Run the statements in a short transaction; writers of this partition wait for one `lock_timeout` at most."""
    with suppress(errors.LockNotAvailable), base.transaction():  # usually no writer is active
        lock_writers_out(base, table, fence.lock_timeout_ms, wait=False)
        base.execute(statements)
        return

    def once() -> None:
        if writers_of(base, table, older_than_ms=HOPELESS_MS, sees_autovacuum=False):
            raise errors.LockNotAvailable("a writer has been open for long")
        with base.transaction():
            lock_writers_out(base, table, fence.lock_timeout_ms)
            base.execute(statements)

    retry_locked(once, patience_seconds=patience_seconds)


def lock_writers_out(connection: Connected, table: QualifiedName, lock_timeout_ms: int, *, wait: bool = True) -> None:
    """Lock this one table against writers until the caller's transaction ends; earlier writers have ended then.

    Args:
        connection: In the caller's transaction.
        table: The table; its partitions are not locked.
        lock_timeout_ms: Timeout in milliseconds.
        wait: Whether to wait for that long, or to fail at once.

    Raises:
        psycopg.errors.LockNotAvailable: The lock was not free within that time.
    """
    connection.execute(
        "SELECT set_config('lock_timeout', %s, true), set_config('synchronous_commit', 'on', true),"
        " set_config('idle_in_transaction_session_timeout', %s, true)",
        [f"{lock_timeout_ms}ms", f"{FROZEN_MS}ms"],
    )
    row = connection.execute("SELECT has_parameter_privilege('deadlock_timeout', 'SET')").fetchone()
    if row and row[0]:
        # An autovacuum that holds the lock is cancelled only after this time.
        connection.execute("SET LOCAL deadlock_timeout = '20ms'")
    statement = sql.SQL("LOCK TABLE ONLY {} IN SHARE ROW EXCLUSIVE MODE {}")
    connection.execute(statement.format(table_name(table), sql.SQL("" if wait else "NOWAIT")))
