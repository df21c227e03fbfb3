"""Holds application writes on one side: a trigger refuses them, and a row in `migration.holds` says whose hold it is.

The row decides races. A run that wants to open the target first marks the source's row as `opening`. A run that gives
up releases the source, which deletes the row unless it is marked. Both lock the row, so that exactly one of the two
happens, even where the base cannot be reached or a process wakes up late.
"""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import psycopg

from migration_assets.domain.states import CutoverError, SideName
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.ledger.session_locks import take_turn_at_partitions
from migration_assets.postgres.activity import writers_of
from migration_assets.postgres.retries import is_lock_timeout, retry_locked
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.quarters.fence_functions import make_functions
from migration_assets.quarters.fences import (
    HOPELESS_MS,
    Fence,
    fence_of_base,
    fence_partitions,
    fence_table,
    free_table,
    gaps,
    guard_root,
    is_held,
    is_made,
    lock_writers_out,
    sync_partitions,
)
from migration_assets.stream.legacy_side import old_writers
from migration_assets.stream.plan import StreamPlan

log = logging.getLogger(__name__)


# A live process releases its hold when its timeout is over; one that is later than this does not answer.
GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Hold:
    """A side whose application writes are refused; the ledger's comments explain the columns."""

    owner: int
    opener: int | None
    opening: bool
    held_at: datetime
    age_seconds: float


def read_hold(connection: Connected, relation: str) -> Hold | None:
    """The side's hold, or None where it accepts writes, also where it never knew of cutovers."""
    # A table of that name may be somebody else's; then there never was a hold here.
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
    """Whether that cutover has held writes for longer than its own timeout allows, by the clock of that side."""
    if held is None or held.owner != cutover or timeout_seconds is None:
        return False
    return held.age_seconds > timeout_seconds + GRACE_SECONDS


def is_open(connection: Connected, plan: StreamPlan) -> bool:
    """Whether there is no hold now, so that ordinary writes are let in."""
    return not is_held(connection, plan.spec.table)


def hold(
    connection: Connected,
    plan: StreamPlan,
    side: SideName,
    cutover: int,
    *,
    passes: str = "",
    patience_seconds: float,
    take_over: bool = False,
    before_each_try: Callable[[], object] | None = None,
) -> datetime:
    """Refuse all application writes on the side from now on.

    A hold that exists already keeps its owner, unless it is taken over.

    Args:
        connection: A session on that side, in no transaction.
        plan: Which table.
        side: Which side.
        cutover: The id of the cutover or rollback that becomes the owner.
        passes: The subscription whose apply worker may go on writing to the legacy; the base's is in the ledger.
        patience_seconds: How long to wait for a moment without an open writer.
        take_over: Also take a hold from another cutover.
        before_each_try: Called before each attempt, while writers go on.

    Returns:
        When the hold began, by the side's own clock.

    Raises:
        CutoverError: No moment without an open writer came; the error lists the writers. Nothing is held.
    """
    prepare(connection)
    fence = Fence(side, plan.spec.table, passes, lock_timeout_ms=plan.limits.cut_lock_timeout_ms)
    if side == "base":
        fence = fence_base(connection, plan, patience_seconds=patience_seconds)
    give_up = time.monotonic() + patience_seconds
    while True:
        if not old_writers(connection, plan.spec, older_than_ms=HOPELESS_MS, sees_autovacuum=False):
            if before_each_try is not None:
                before_each_try()
            try:
                held_at = _hold_once(connection, plan, fence, cutover, take_over=take_over)
                break
            except psycopg.OperationalError as error:
                if not is_lock_timeout(error):
                    raise
        if time.monotonic() >= give_up:
            raise _no_moment(connection, plan, side, patience_seconds)
        time.sleep(random.uniform(0.02, 0.2))  # noqa: S311 - random, so as not to run in step with another process
    if side == "base":
        # A partition that was made meanwhile; one that is made from now on finds the root held.
        fence_base(connection, plan, patience_seconds=patience_seconds)
    return held_at


def _no_moment(connection: Connected, plan: StreamPlan, side: str, patience_seconds: float) -> CutoverError:
    found = old_writers(connection, plan.spec, older_than_ms=0.0, sees_autovacuum=True)
    return CutoverError(
        f"no moment without an open writer came within {patience_seconds:g} s. In the way:"
        f" {'; '.join(found) or 'nobody any more'}",
        where=f"{plan.relation} on the {side}",
        state_left="writes go on there as before",
        next_step="let that transaction end (or end it: SELECT pg_terminate_backend(pid)), then run this again",
    )


def fence_base(base: Connected, plan: StreamPlan, *, patience_seconds: float) -> Fence:
    """Let partitions take writes through the root only, no longer by their own names.

    Raises:
        CutoverError: A writer stayed open for longer than the patience. `follow_hold` frees what is fenced by then.
    """
    fence = fence_of_base(base, plan.spec.table, plan.limits.cut_lock_timeout_ms)
    with base.transaction():
        # A transaction that makes a partition at this moment is waited for.
        take_turn_at_partitions(base)
    try:
        fence_partitions(base, fence, patience_seconds=patience_seconds)
    except psycopg.OperationalError as error:
        if not is_lock_timeout(error):
            raise
        raise CutoverError(
            f"no moment without an open writer came for every partition within {patience_seconds:g} s. In the way:"
            f" {'; '.join(writers_of_partitions(base, plan)) or 'nobody any more'}",
            where=f"{plan.relation} on the base",
            state_left="writes go on there as before",
            next_step="let that transaction end (or end it: SELECT pg_terminate_backend(pid)), then run this again",
        ) from error
    return fence


def writers_of_partitions(base: Connected, plan: StreamPlan) -> list[str]:
    """Open transactions that have written to a partition, the oldest first."""
    rows = base.execute(
        "SELECT DISTINCT n.nspname, c.relname FROM pg_partition_tree(to_regclass(%s)) p"
        " JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " JOIN pg_locks k ON k.relation = c.oid AND k.locktype = 'relation' AND k.pid IS DISTINCT FROM pg_backend_pid()"
        " AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 2 LIMIT 20",
        [str(plan.spec.table)],
    ).fetchall()
    found = [
        one
        for schema, name in rows
        for one in writers_of(base, QualifiedName(schema, name), older_than_ms=0.0, sees_autovacuum=True)
    ]
    return list(dict.fromkeys(found))[:5]


def prepare(connection: Connected) -> None:
    """Make the table of holds and the triggers' functions; safe to repeat."""
    make_functions(connection)


def _lock(connection: Connected, plan: StreamPlan) -> None:
    lock_writers_out(connection, plan.spec.table, plan.limits.cut_lock_timeout_ms)


def _hold_once(connection: Connected, plan: StreamPlan, fence: Fence, cutover: int, *, take_over: bool) -> datetime:
    made = is_made(connection, fence)
    with connection.transaction():
        _lock(connection, plan)
        fence_table(connection, fence, made=made)
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


def guard_base(base: Connected, plan: StreamPlan) -> None:
    """From now on neither the root nor any partition of the base takes a TRUNCATE."""
    fence = fence_of_base(base, plan.spec.table, plan.limits.cut_lock_timeout_ms)

    def once() -> None:
        with base.transaction():
            guard_root(base, fence)

    retry_locked(once, patience_seconds=plan.limits.cut_patience_seconds)
    follow_hold(base, plan)


def follow_hold(base: Connected, plan: StreamPlan) -> None:
    """Fence every partition of the base as its root is, and free what a step left fenced that died or gave up.

    A partition that cannot be locked now stays fenced: a write that names it is refused, and told to name the root.
    """
    # The very first cutover may have died before it made the functions; a partition's guard needs them here.
    prepare(base)
    fence = fence_of_base(base, plan.spec.table, plan.limits.cut_lock_timeout_ms)
    try:
        sync_partitions(base, fence, patience_seconds=min(10.0, plan.limits.cut_patience_seconds))
    except psycopg.OperationalError as error:
        if not is_lock_timeout(error):
            raise
        log.warning("a partition of the base stays fenced, and takes rows through the root alone (%s)", told(error))


def may_open(target: Connected, plan: StreamPlan, cutover: int | None) -> None:
    """Note which run may open the target. None takes the right from the run that had it, even if that wakes up late."""
    target.execute("UPDATE migration.holds SET opener = %s WHERE relation = %s", [cutover, plan.relation])


def mark_opening(source: Connected, plan: StreamPlan, cutover: int) -> None:
    """Mark the source's hold as opening: from now on it is released only after a look at the target.

    Raises:
        CutoverError: The hold is gone or has gaps: the writes were released meanwhile.
    """
    with source.transaction():
        source.execute("SET LOCAL synchronous_commit = on")
        found = source.execute(
            "UPDATE migration.holds SET opening = true WHERE relation = %s AND owner = %s", [plan.relation, cutover]
        )
    missing = gaps(source, plan.spec.table)
    if not found.rowcount or missing:
        raise CutoverError(
            "the writes were released meanwhile: by the timeout, or by a person"
            + (f" ({'; '.join(missing)})" if missing else ""),
            where=plan.relation,
            state_left="the other side was not opened",
            next_step="run this again",
        )


def open_side(target: Connected, plan: StreamPlan, cutover: int) -> None:
    """Open the target for application writes; in the caller's transaction, where there is one.

    Raises:
        CutoverError: The right to open it was taken away: another run took this process for dead.
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
            free_table(target, plan.spec.table)

    retry_locked(once, patience_seconds=min(10.0, plan.limits.cut_patience_seconds))


def release(
    connection: Connected, plan: StreamPlan, cutover: int, *, looked: bool = False, patience_seconds: float = 10.0
) -> bool:
    """End the hold of that cutover; returns whether there was one.

    Args:
        connection: The side whose writes are held.
        plan: Which table.
        cutover: Whose hold.
        looked: The other side is known not to be open; then a hold that is marked as opening is ended too.
        patience_seconds: How long to wait for the table's lock. Its holders are old writers: no new one is let in.

    Returns:
        Whether that cutover had a hold and it was ended.

    Raises:
        psycopg.errors.LockNotAvailable: The lock did not come in time.
    """

    def once() -> bool:
        with connection.transaction():
            _lock(connection, plan)
            found = connection.execute(
                "DELETE FROM migration.holds WHERE relation = %s AND owner = %s AND (%s OR NOT opening)",
                [plan.relation, cutover, looked],
            )
            if found.rowcount:
                free_table(connection, plan.spec.table)
        return bool(found.rowcount)

    hold_now = read_hold(connection, plan.relation)
    if hold_now is None or hold_now.owner != cutover or (hold_now.opening and not looked):
        return False
    return retry_locked(once, patience_seconds=patience_seconds)
