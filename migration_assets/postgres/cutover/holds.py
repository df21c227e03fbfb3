"""Holds the writes of applications on one side: a trigger that refuses them, and a row that says whose hold it is.

The row is the fence. Who wants to open the target first marks the source's row as `opening`; who gives up releases the
source, which deletes the row unless it is marked. Both lock it, so that exactly one of them happens, even where the
base cannot be reached or a process wakes up late.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from migration_assets.domain.cutover_state import CutoverError, SideName
from migration_assets.postgres.change_stream.legacy_side import old_writers
from migration_assets.postgres.own_objects import HOLDS, NAMES_OF_HOLDS, require_no_collision
from migration_assets.postgres.retries import is_lock_timeout, retry_locked
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import table_name
from migration_assets.postgres.stream_plan import StreamPlan

HOLD = "migration_assets_hold"
# Behind a writer of this age a try would only hold up the others.
_HOPELESS_MS = 3_000.0
_FROZEN_MS = 2_000
_MAKE = "CREATE SCHEMA IF NOT EXISTS migration; CREATE TABLE IF NOT EXISTS " + HOLDS
# The base's own steps (a repair, a true-up) go on there; on the legacy none of them ever writes to the table.
_FUNCTION = """
CREATE OR REPLACE FUNCTION migration.refuse_writes() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE name text := current_setting('application_name', true);
BEGIN
    IF TG_ARGV[0] = 'base' AND starts_with(name, 'migration_assets:') AND name <> 'migration_assets:traffic' THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'writes to % are held on the %: a cutover of migration_assets moves them to the other database',
        TG_TABLE_NAME, TG_ARGV[0]
        USING ERRCODE = '25006',
        HINT = 'Try again shortly, on the database that the applications are switched to. Reads go on.'
            || ' Where no cutover is under way: migration-assets release-writes';
END $$
"""


# A process that lives releases what it holds when its timeout is over; later than this it does not answer.
GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Hold:
    """A side whose application writes are refused; see the ledger's comments."""

    owner: int
    opener: int | None
    opening: bool
    held_at: datetime
    age_seconds: float


def read_hold(connection: Connected, relation: str) -> Hold | None:
    """The side's hold, or None where it accepts writes, also where it never knew of cutovers."""
    # A table of that name may be somebody else's: then nobody was ever held here.
    exists = connection.execute(
        "SELECT count(*) = 2 FROM pg_attribute WHERE attrelid = to_regclass('migration.holds')"
        " AND attname IN ('opener', 'opening')"
    ).fetchone()
    if not require_row(exists, "to_regclass")[0]:
        return None
    row = connection.execute(
        "SELECT owner, opener, opening, held_at, extract(epoch FROM clock_timestamp() - held_at)::float8"
        " FROM migration.holds WHERE relation = %s",
        [relation],
    ).fetchone()
    return None if row is None else Hold(*row)


def is_overdue(held: Hold | None, cutover: int, timeout_seconds: float | None) -> bool:
    """Whether that cutover holds writes for longer than its own timeout allows, by that side's clock."""
    if held is None or held.owner != cutover or timeout_seconds is None:
        return False
    return held.age_seconds > timeout_seconds + GRACE_SECONDS


def refuses_writes(connection: Connected, plan: StreamPlan) -> bool:
    """Whether the trigger stands and fires."""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s AND t.tgname = %s AND t.tgenabled <> 'D')",
        [plan.spec.table.schema, plan.spec.table.name, HOLD],
    ).fetchone()
    return bool(require_row(row, "EXISTS")[0])


def hold(
    connection: Connected,
    plan: StreamPlan,
    side: SideName,
    cutover: int,
    *,
    patience_seconds: float,
    take_over: bool = False,
    before_each_try: Callable[[], object] | None = None,
) -> datetime:
    """Refuse application writes on the side from now on; no transaction that wrote to the table is open then.

    Apply workers pass. A hold that stands already stays whose it was, unless it is taken over.

    Returns:
        Since when, by the side's own clock.

    Raises:
        CutoverError: No moment without an open writer came; lists them. Nothing is held.
    """
    prepare(connection)
    give_up = time.monotonic() + patience_seconds
    while True:
        if not old_writers(connection, plan.spec, older_than_ms=_HOPELESS_MS, sees_autovacuum=False):
            if before_each_try is not None:
                before_each_try()
            try:
                return _hold_once(connection, plan, side, cutover, take_over=take_over)
            except psycopg.OperationalError as error:
                if not is_lock_timeout(error):
                    raise
        if time.monotonic() >= give_up:
            found = old_writers(connection, plan.spec, older_than_ms=0.0, sees_autovacuum=True)
            raise CutoverError(
                f"no moment without an open writer came within {patience_seconds:g} s. In the way:"
                f" {'; '.join(found) or 'nobody any more'}",
                where=f"{plan.relation} on the {side}",
                state_left="writes go on there as before",
                next_step="let that transaction end (or end it: SELECT pg_terminate_backend(pid)), then run this again",
            )
        time.sleep(random.uniform(0.02, 0.2))  # noqa: S311 - so that we keep step with nobody


def prepare(connection: Connected) -> None:
    """Make the table of holds and the trigger's function; safe to repeat.

    Raises:
        ForeignObjectError: Something of somebody else's has one of their names.
    """
    require_no_collision(connection, NAMES_OF_HOLDS)
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(71001, 2)")
        row = connection.execute("SELECT to_regclass('migration.holds') IS NULL").fetchone()
        if require_row(row, "to_regclass")[0]:
            connection.execute(_MAKE)
        connection.execute(_FUNCTION)


def _lock(connection: Connected, plan: StreamPlan) -> None:
    connection.execute(
        "SELECT set_config('lock_timeout', %s, true), set_config('synchronous_commit', 'on', true),"
        # A process that is frozen just here holds up every writer for no longer than this.
        " set_config('idle_in_transaction_session_timeout', %s, true)",
        [f"{plan.limits.cut_lock_timeout_ms}ms", f"{_FROZEN_MS}ms"],
    )
    row = connection.execute("SELECT has_parameter_privilege('deadlock_timeout', 'SET')").fetchone()
    if row and row[0]:
        # An autovacuum in the way is only sent away when this time is over.
        connection.execute("SET LOCAL deadlock_timeout = '20ms'")
    connection.execute(sql.SQL("LOCK TABLE ONLY {} IN SHARE ROW EXCLUSIVE MODE").format(table_name(plan.spec.table)))


def _hold_once(connection: Connected, plan: StreamPlan, side: SideName, cutover: int, *, take_over: bool) -> datetime:
    table = table_name(plan.spec.table)
    with connection.transaction():
        _lock(connection, plan)
        connection.execute(
            sql.SQL(
                "CREATE OR REPLACE TRIGGER {} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {}"
                " FOR EACH STATEMENT EXECUTE FUNCTION migration.refuse_writes({})"
            ).format(sql.Identifier(HOLD), table, sql.Literal(side))
        )
        connection.execute(sql.SQL("ALTER TABLE ONLY {} ENABLE TRIGGER {}").format(table, sql.Identifier(HOLD)))
        row = connection.execute(
            "INSERT INTO migration.holds AS h (relation, owner) VALUES (%(relation)s, %(cutover)s)"
            " ON CONFLICT (relation) DO UPDATE SET"
            " owner = CASE WHEN %(take_over)s THEN excluded.owner ELSE h.owner END,"
            " opening = h.opening AND NOT %(take_over)s,"
            " held_at = CASE WHEN %(take_over)s THEN excluded.held_at ELSE h.held_at END RETURNING held_at",
            {"relation": plan.relation, "cutover": cutover, "take_over": take_over},
        ).fetchone()
    held_at: datetime = require_row(row, "a hold")[0]
    return held_at


def may_open(target: Connected, plan: StreamPlan, cutover: int | None) -> None:
    """Note who may open the target; None takes that right from whoever had it, also from one that wakes up late."""
    target.execute("UPDATE migration.holds SET opener = %s WHERE relation = %s", [cutover, plan.relation])


def mark_opening(source: Connected, plan: StreamPlan, cutover: int) -> None:
    """From now on nobody ends the source's hold without a look at the target.

    Raises:
        CutoverError: The hold is not there any more: somebody released the writes.
    """
    with source.transaction():
        source.execute("SET LOCAL synchronous_commit = on")
        found = source.execute(
            "UPDATE migration.holds SET opening = true WHERE relation = %s AND owner = %s", [plan.relation, cutover]
        )
    if not found.rowcount or not refuses_writes(source, plan):
        raise CutoverError(
            "the writes were released meanwhile: by the timeout, or by a person",
            where=plan.relation,
            state_left="the other side was not opened",
            next_step="run this again",
        )


def open_side(target: Connected, plan: StreamPlan, cutover: int) -> None:
    """Let application writes in; in the caller's transaction, where there is one.

    Raises:
        CutoverError: Somebody took the right to do so away: this process was taken for dead.
    """

    def once() -> None:
        with target.transaction():
            _lock(target, plan)
            found = target.execute(
                "DELETE FROM migration.holds WHERE relation = %s AND opener = %s", [plan.relation, cutover]
            )
            if not found.rowcount:
                raise CutoverError(
                    "another run took this one for dead and undid it",
                    where=plan.relation,
                    state_left="this run opened nothing",
                    next_step="see `writes_held`, then run this again",
                )
            _disable(target, plan)

    retry_locked(once, patience_seconds=min(10.0, plan.limits.cut_patience_seconds))


def release(
    connection: Connected, plan: StreamPlan, cutover: int, *, looked: bool = False, patience_seconds: float = 10.0
) -> bool:
    """End the hold of that cutover; whether there was one.

    Args:
        connection: The side whose writes are held.
        plan: Which table.
        cutover: Whose hold.
        looked: The other side is known not to be open: then also a hold that is marked as `opening`.
        patience_seconds: For the lock. Who holds it has written already; no new writer is let in.

    Raises:
        psycopg.errors.LockNotAvailable: Patience ended.
    """

    def once() -> bool:
        with connection.transaction():
            _lock(connection, plan)
            found = connection.execute(
                "DELETE FROM migration.holds WHERE relation = %s AND owner = %s AND (%s OR NOT opening)",
                [plan.relation, cutover, looked],
            )
            if found.rowcount:
                _disable(connection, plan)
        return bool(found.rowcount)

    hold_now = read_hold(connection, plan.relation)
    if hold_now is None or hold_now.owner != cutover or (hold_now.opening and not looked):
        return False
    return retry_locked(once, patience_seconds=patience_seconds)


def _disable(connection: Connected, plan: StreamPlan) -> None:
    # Not DROP: that would wait for readers, and they for it.
    connection.execute(
        sql.SQL("ALTER TABLE ONLY {} DISABLE TRIGGER {}").format(table_name(plan.spec.table), sql.Identifier(HOLD))
    )
