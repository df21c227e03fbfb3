"""The reverse stream: native logical replication from the base back to the legacy, for a rollback.

Updates and deletes are published with the leaves' primary keys (the key and the control column); the legacy finds its
row by its own primary key. An update that moves a row to another week is replicated as a delete and an insert.
"""

import time
from collections.abc import Callable

from psycopg import errors, sql

from migration_assets.cutover.plan import CutoverPlan
from migration_assets.domain.states import CutoverError
from migration_assets.domain.table_description import TableDescription
from migration_assets.ledger.own_objects import NAMES_OF_HOLDS, REVERSE_MARKERS, require_no_collision
from migration_assets.ledger.session_locks import take_turn_at_objects
from migration_assets.ledger.stream import StreamNames
from migration_assets.postgres.sessions import Connected, require_row, set_limits
from migration_assets.postgres.sql_text import table_name
from migration_assets.stream.slots import create_slot, drop_slot, has_failover_slots
from migration_assets.stream.subscription import (
    Worker,
    apply_worker,
    create_subscription,
    disable,
    drop_subscription,
    enable,
    legacy_conninfo,
    try_subscription,
)
from migration_assets.stream.way import require_way

_ORIGIN_SINCE = 160000
_SHORTEST, _LONGEST = 0.002, 0.05
# This much WAL is read in a fraction of a second.
NEAR_BYTES = 32 * 1024**2


def reverse_names(forward: StreamNames) -> StreamNames:
    """The names of the three parts, which no other table and no other base has."""
    name = f"{forward.slot}_back"
    return StreamNames(name, name, name)


def publish_reverse(base: Connected, legacy: Connected, plan: CutoverPlan, names: StreamNames) -> None:
    """Make the publication on the base and the table for markers on the legacy; remove any earlier reverse stream.

    Raises:
        ForeignObjectError: Our schema on the legacy has an object that is not ours under one of our names.
    """
    drop_reverse(base, legacy, names)
    with legacy.transaction():
        # Of two runs that make it at once one would fail, in spite of IF NOT EXISTS.
        take_turn_at_objects(legacy)
        # The hold needs it there, too, and nobody is to be held for a cutover that would stop at it.
        require_no_collision(legacy, {"reverse_markers", "subscribe(statement text)", *NAMES_OF_HOLDS})
        legacy.execute("CREATE TABLE IF NOT EXISTS " + REVERSE_MARKERS)
    legacy.execute("DELETE FROM migration.reverse_markers WHERE relation = %s", [plan.relation])
    base.execute(
        sql.SQL(
            "CREATE PUBLICATION {} FOR TABLE {}, migration.reverse_markers WHERE (relation = {})"
            " WITH (publish = 'insert, update, delete', publish_via_partition_root = true)"
        ).format(sql.Identifier(names.publication), table_name(plan.stream.spec.table), sql.Literal(plan.relation))
    )


def prepare_reverse(base: Connected, legacy: Connected, plan: CutoverPlan, names: StreamNames) -> None:
    """Make publication and slot on the base and the table for markers on the legacy: all that may take time.

    To be called before any hold of the source. What an earlier reverse stream left is removed first.

    Raises:
        ForeignObjectError: Our schema on the legacy has an object that is not ours under one of our names.
        StreamError: The legacy's server reaches another database than the base.
        CutoverError: The slot could not begin, because a transaction that writes to the base stays open.
        psycopg.Error: One of our roles may not do this, or the legacy's server cannot connect to the base.
    """
    require_way(base, legacy, _url(plan), to="base")
    publish_reverse(base, legacy, plan, names)
    try:
        with base.transaction():
            set_limits(base, statement=max(1.0, plan.patience_seconds * 1000))
            create_slot(base, names.slot)
    except errors.QueryCanceled:
        raise CutoverError(
            f"the reverse stream's slot could not begin within {plan.patience_seconds:g} s: a transaction that writes"
            " to the base is still open",
            where=names.slot,
            state_left="nothing was held",
            next_step="let it end (SELECT * FROM pg_stat_activity WHERE backend_xid IS NOT NULL), then run this again",
        ) from None
    # Tried now, before writes are held.
    try_subscription(legacy, names, _conninfo(base, plan, names), binary=False, failover=has_failover_slots(base))


def come_near(base: Connected, names: StreamNames, *, patience_seconds: float) -> int:
    """Move the slot's start forward, so that `start_reverse` has little WAL to read; needs no hold.

    The start can only move to a place that the server noted (`running_xacts`), so it moves at the second try at the
    latest. Where our role may, it asks the server to note one; the server does so by itself every 15 s. An open
    transaction that wrote keeps the start back.

    Returns:
        How many bytes of WAL lie between the slot's start and now: few, or what it was when the patience ended.
    """
    row = base.execute(
        "SELECT coalesce(has_function_privilege(to_regprocedure('pg_log_standby_snapshot()'), 'EXECUTE'), false)"
    ).fetchone()
    may = bool(require_row(row, "a privilege")[0])
    give_up = time.monotonic() + patience_seconds
    left = reverse_distance(base, names)
    pause = _LONGEST
    while left > NEAR_BYTES and time.monotonic() < give_up:
        if may:
            base.execute("SELECT pg_log_standby_snapshot()")
        base.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_flush_lsn())", [names.slot])
        before, left = left, reverse_distance(base, names)
        if left > NEAR_BYTES and left > before / 2:
            time.sleep(pause)
            pause = min(pause * 1.5, 1.0)
    return left


def reverse_distance(base: Connected, names: StreamNames) -> int:
    """How many bytes of WAL the slot would have to read to get to the present.

    Raises:
        CutoverError: The slot is gone or lost.
    """
    row = base.execute(
        "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), restart_lsn)::bigint FROM pg_replication_slots"
        " WHERE slot_name = %s",
        [names.slot],
    ).fetchone()
    if row is None or row[0] is None:
        raise CutoverError("the reverse stream's slot is gone or lost", where=names.slot, next_step="run this again")
    return int(row[0])


def start_reverse(
    base: Connected, legacy: Connected, plan: CutoverPlan, names: StreamNames, description: TableDescription
) -> None:
    """Let the stream run from here on, where both sides stand still and are equal.

    The slot is moved past everything that it has seen so far: that came from the legacy or was our own, and none of it
    may go back.
    """
    # Everything that was applied is on disk: this session's last commit came later and was synchronous.
    base.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_flush_lsn())", [names.slot])
    subscribe_reverse(base, legacy, plan, names, description)


def subscribe_reverse(
    base: Connected, legacy: Connected, plan: CutoverPlan, names: StreamNames, description: TableDescription
) -> None:
    """Let the legacy follow from the slot's position."""
    with legacy.transaction():
        legacy.execute("SET LOCAL synchronous_commit = on")
        create_subscription(
            legacy,
            names,
            _conninfo(base, plan, names),
            binary=description.binary_copy,
            failover=has_failover_slots(base),
        )
        if legacy.info.server_version >= _ORIGIN_SINCE:
            # Only what is written on the base itself is sent; nothing that came from the legacy.
            legacy.execute(
                sql.SQL("ALTER SUBSCRIPTION {} SET (origin = none)").format(sql.Identifier(names.subscription))
            )


def _conninfo(base: Connected, plan: CutoverPlan, names: StreamNames) -> str:
    return legacy_conninfo(base, _url(plan), names.subscription)


def _url(plan: CutoverPlan) -> str:
    return plan.base_url_for_legacy or plan.stream.databases.base_url


def drop_reverse(base: Connected, legacy: Connected, names: StreamNames) -> None:
    """Drop all parts of the reverse stream on both sides."""
    drop_subscription(legacy, names.subscription)
    drop_reverse_on_base(base, names)


def drop_reverse_on_base(base: Connected, names: StreamNames) -> None:
    """Drop the base's parts alone: slot and publication."""
    drop_slot(base, names.slot)
    base.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(names.publication)))


def reverse_worker(legacy: Connected, names: StreamNames) -> Worker | None:
    """The reverse subscription and its worker, or None where there is no subscription."""
    return apply_worker(legacy, names.subscription)


def let_reverse_run(legacy: Connected, names: StreamNames) -> None:
    """Enable the reverse subscription, where there is one."""
    if reverse_worker(legacy, names) is not None:
        enable(legacy, names.subscription)


def rest(subscriber: Connected, subscription: str, pid: int | None, *, patience: Callable[[], float]) -> None:
    """Wait, after DISABLE, until the worker has ended: nothing is applied any more then.

    Raises:
        CutoverError: The worker does not end in time.
    """
    pause = _SHORTEST
    while True:
        worker = apply_worker(subscriber, subscription)
        gone = worker is None or worker.pid is None
        if gone and not subscriber.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid or 0]).fetchone():
            return
        if patience() <= 0:
            raise CutoverError("the apply worker does not end", where=subscription, next_step="see its server's log")
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST)


def stop_reverse(legacy: Connected, names: StreamNames, *, patience: Callable[[], float]) -> None:
    """Disable the reverse subscription and wait until its worker has ended."""
    worker = reverse_worker(legacy, names)
    if worker is not None:
        disable(legacy, names.subscription)
        rest(legacy, names.subscription, worker.pid, patience=patience)
