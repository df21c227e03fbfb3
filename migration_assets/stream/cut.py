"""A consistent cut: legacy and base are read, or stopped, at exactly the same marker while applications write.

1. A session on the base writes a row with the marker's key to the base's table of markers, and does not commit. An
   insert of the same key waits for that transaction's end: the apply worker will wait inside the marker's transaction.
2. The legacy's table is locked in SHARE mode: no transaction that wrote to it is open, none can begin. Under that lock
   the marker is inserted by another session and a snapshot is opened by a third; then the lock goes. Writers were held
   for milliseconds, whatever the table's size, and the snapshot holds exactly what lies before the marker.
3. When the apply worker waits for that transaction, the base holds exactly what lies before the marker, too. Either a
   snapshot is opened there and the worker goes on (a validation), or the subscription is disabled and the worker ends
   with the marker (a pause): the stream then rests at the marker for as long as it takes.
"""

import logging
import random
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import errors, sql

from migration_assets.domain.errors import CutError, MigrationError, ServerChangedError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.own_objects import require_trusted
from migration_assets.ledger.proofs import Barrier, CutRecord, record_cut, record_release
from migration_assets.ledger.stream import StreamRecord, StreamStatus, set_status, stream_lock
from migration_assets.postgres.retries import is_lock_timeout
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected, Timeouts, require_row, set_limits
from migration_assets.postgres.snapshots import base_tables, begin_reading, export_snapshot
from migration_assets.postgres.sql_text import table_name
from migration_assets.stream.arrival import MARKER_TABLE, marker_gate, wait_at_marker, wait_until_gone
from migration_assets.stream.claims import PublicationChange, claimed
from migration_assets.stream.heartbeats import MarkersWatch
from migration_assets.stream.legacy_side import old_writers
from migration_assets.stream.plan import StreamPlan
from migration_assets.stream.running import go_on, require_not_barred, require_running, require_stream
from migration_assets.stream.servers import require_same_servers
from migration_assets.stream.subscription import disable

# A writer whose transaction is older than this would probably outlast our try, and all others would wait behind it.
_OLD_MS = 30.0
# Where there is always a transaction of that age, a try is made all the same, unless one is this old.
_HOPELESS_MS = 3_000.0
_PEEK_SECONDS = 1.0
_TELL_SECONDS = 10.0
_FROZEN = "1s"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LegacySessions:
    """Three sessions, opened before the lock is taken, since connecting takes longer than the whole cut.

    `locker` holds the lock, `writer` commits the marker, `reader` keeps the snapshot.
    """

    locker: Connected
    writer: Connected
    reader: Connected


@contextmanager
def legacy_sessions(plan: StreamPlan, purpose: str) -> Generator[LegacySessions]:
    """Open all three sessions; they are closed at the end."""
    with ExitStack() as stack:

        def session(name: str, timeouts: Timeouts | None = None) -> Connected:
            return stack.enter_context(plan.databases.session("legacy", f"{purpose}:{name}", timeouts))

        yield LegacySessions(session("cut"), session("marker"), session("snapshot", plan.limits.timeouts()))


def next_marker(legacy: LegacySessions) -> int:
    """Draw a number that no other marker has, so that a dead validator's marker is never mistaken for ours."""
    require_trusted(legacy.writer)
    row = legacy.writer.execute("SELECT nextval('migration.marker_id')").fetchone()
    return int(require_row(row, "nextval")[0])


def set_marker(
    plan: StreamPlan, legacy: LegacySessions, marker: int, in_lock: PublicationChange | None = None
) -> Barrier:
    """Insert the marker and open the reader's snapshot at exactly that point; the snapshot stays open.

    Args:
        plan: The stream, with its limits.
        legacy: Three sessions.
        marker: The marker's number.
        in_lock: A change of the publication that the locking session makes before the marker; it has claimed the
            legacy.

    Raises:
        CutError: Writers left no free moment in time; the message names the oldest.
        psycopg.Error: A session was lost: there is no cut, and no writer is held.
    """
    _make_gentle(legacy)
    give_up = time.monotonic() + plan.limits.cut_patience_seconds
    tries, longest, told = 0, 0.0, float("-inf")
    while True:
        blockers = _peek(plan, legacy, give_up)
        if blockers and time.monotonic() - told > _TELL_SECONDS:
            told = time.monotonic()
            log.warning("a cut waits for a moment between writers; in the way: %s", "; ".join(blockers))
        if not blockers or time.monotonic() < give_up:
            tries += 1
            started: float | None = None
            try:
                # Before the lock that holds writers, and in each try anew: an ALTER TABLE that waits for us would keep
                # us from ever getting that lock.
                begin_reading(legacy.reader, [plan.spec.table])
                started = time.perf_counter()
                lsn, snapshot = _once(plan, legacy, marker, in_lock)
            except errors.IdleInTransactionSessionTimeout:
                raise _frozen(plan) from None
            except psycopg.OperationalError as error:
                if not is_lock_timeout(error):
                    raise
                legacy.reader.rollback()
            else:
                held = (time.perf_counter() - started) * 1000
                return Barrier(marker, lsn, snapshot, tries, held, max(longest, held))
            if started is not None:
                longest = max(longest, (time.perf_counter() - started) * 1000)
        if time.monotonic() >= give_up:
            raise _no_moment(plan, legacy, tries, longest)
        time.sleep(random.uniform(0.02, 0.2))  # noqa: S311 - so that tries do not coincide with a periodic job


def _make_gentle(legacy: LegacySessions) -> None:
    for connection in (legacy.locker, legacy.writer):
        # A slow synchronous standby must not prolong the lock.
        connection.execute("SET synchronous_commit = local")
    # While it waits for its own lock nobody is held. An ALTER TABLE is in the way then, and the next try may succeed.
    set_limits(legacy.reader, lock=1_000, whole_session=True)


def _peek(plan: StreamPlan, legacy: LegacySessions, give_up: float) -> list[str]:
    """Wait for a moment without old writers; returns those that stayed. A try would hold all others behind them."""
    deaf = not _may_set_deadlock_timeout(legacy.locker)
    until = min(give_up, time.monotonic() + _PEEK_SECONDS)
    while True:
        blockers = list(old_writers(legacy.writer, plan.spec, older_than_ms=_OLD_MS, sees_autovacuum=deaf))
        hopeless = bool(
            blockers and old_writers(legacy.writer, plan.spec, older_than_ms=_HOPELESS_MS, sees_autovacuum=deaf)
        )
        if not blockers or time.monotonic() >= (give_up if hopeless else until):
            return blockers
        time.sleep(0.01)


def _once(plan: StreamPlan, legacy: LegacySessions, marker: int, in_lock: PublicationChange | None) -> tuple[str, str]:
    locker = legacy.locker
    with locker.transaction():
        locker.execute(
            "SELECT set_config('lock_timeout', %s, true), set_config('idle_in_transaction_session_timeout', %s, true)",
            [f"{plan.limits.cut_lock_timeout_ms}ms", _FROZEN],  # a stalled process must not hold writers
        )
        if _may_set_deadlock_timeout(locker):
            # An autovacuum in the way is cancelled only when this time is over.
            locker.execute("SET LOCAL deadlock_timeout = '20ms'")
        locker.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(table_name(plan.spec.table)))
        if in_lock is not None:
            in_lock.make(locker)
        legacy.writer.execute(
            "INSERT INTO migration.markers (relation, id, kind) VALUES (%s, %s, 'cut')", [plan.relation, marker]
        )
        # The transaction's first query: its snapshot is taken here, while nobody can write.
        row = legacy.reader.execute("SELECT pg_current_wal_insert_lsn()::text, pg_export_snapshot()").fetchone()
    # The commit must have succeeded: an error there means that a write may have come before the snapshot was taken.
    lsn, snapshot = require_row(row, "the cut's position")
    return str(lsn), str(snapshot)


def _may_set_deadlock_timeout(connection: Connected) -> bool:
    row = connection.execute("SELECT has_parameter_privilege('deadlock_timeout', 'SET')").fetchone()
    return bool(row and row[0])


def _frozen(plan: StreamPlan) -> CutError:
    return CutError(
        f"this process stalled for over {_FROZEN} while it held the legacy's writers, and the server ended its session",
        where=plan.relation,
        state_left="no writer is held; nothing was changed; the stream goes on as before",
        next_step="find out why the machine stalled (suspended, swapping?), then run this again",
    )


def _no_moment(plan: StreamPlan, legacy: LegacySessions, tries: int, longest_ms: float) -> CutError:
    found = old_writers(legacy.writer, plan.spec, older_than_ms=0.0, sees_autovacuum=True)
    return CutError(
        f"no moment without an open writer came within {plan.limits.cut_patience_seconds:g} s ({tries} tries, the"
        f" longest held the others for {longest_ms:.0f} ms). In the way: {'; '.join(found) or 'nobody any more'}",
        where=plan.relation,
        state_left="no writer is held; the stream goes on as before",
        next_step="let that transaction end (or end it: SELECT pg_terminate_backend(pid); a prepared one: ROLLBACK"
        " PREPARED), then run this again",
    )


_WORKER_ENDS_SECONDS = 60.0


@dataclass(frozen=True)
class PairedSnapshots:
    """Both sides at one marker: open snapshots, which any number of other sessions may import."""

    record: CutRecord
    legacy: Connected
    base: Connected
    legacy_snapshot: str
    base_snapshot: str


@dataclass(frozen=True)
class Pause:
    """The stream rests at a marker; `legacy` reads the legacy there, and others may import `legacy_snapshot`.

    A step that changes rows meanwhile calls `keep_at_rest` with `stream` in that transaction.
    """

    record: CutRecord
    stream: StreamRecord
    legacy: Connected
    legacy_snapshot: str


@contextmanager
def paired_snapshots(
    plan: StreamPlan,
    purpose: str,
    weeks: Sequence[FiscalWeek],
    *,
    in_lock: PublicationChange | None = None,
) -> Generator[PairedSnapshots]:
    """Take a cut and read both sides there while the body runs. The stream itself goes on after milliseconds.

    Args:
        plan: The stream.
        purpose: Shown in both servers' lists of sessions and kept in the ledger.
        weeks: The weeks whose rows are read: until the body ends their tables cannot be rewritten on either side.
        in_lock: A change of the publication made on the legacy under the cut's lock. It may only narrow the filter,
            which needs no pause; to widen it use `paused_stream`.

    Raises:
        StreamError: The stream does not run.
        ServerChangedError: A server was replaced or went back in time.
        CutError: Writers left no free moment, or the stream is too far behind.
        psycopg.Error: A session was lost; nothing was changed.
    """
    with ExitStack() as stack:
        holder = stack.enter_context(plan.databases.session("base", f"{purpose}:cut", plan.limits.stream_timeouts()))
        require_not_barred(holder, plan.relation)
        reader = stack.enter_context(plan.databases.session("base", f"{purpose}:snapshot", plan.limits.timeouts()))
        legacy = stack.enter_context(legacy_sessions(plan, purpose))
        with stream_lock(holder, plan.relation, shared=True):
            if in_lock is not None:
                stack.enter_context(claimed(legacy.locker, in_lock.slot, holder=in_lock.starter))
            # Before the stream goes on that a dead step left at rest.
            require_same_servers(holder, plan.relation, legacy.writer)
            stream = require_running(holder, plan.relation)
            tables = base_tables(reader, plan.spec, weeks)
            earlier = MarkersWatch.begin(holder, legacy.writer, holder, plan.relation, "legacy")
            marker = next_marker(legacy)
            with _gate(plan, holder, marker) as let_go:
                barrier = set_marker(plan, legacy, marker, in_lock)
                since = time.perf_counter()
                pid = wait_at_marker(holder, stream, marker, patience_seconds=plan.limits.stream_patience_seconds)
                reached = time.perf_counter()
                # The worker holds no lock of these tables now. Earlier it could wait for a session that waits for us.
                begin_reading(reader, tables)
                snapshot = export_snapshot(reader)
                let_go()
                held_ms = (time.perf_counter() - reached) * 1000
            reached_ms = (reached - since) * 1000
            taken_at = record_cut(
                holder, plan.relation, barrier, kind="validate", purpose=purpose, run_id=plan.run_id,
                reached_ms=reached_ms, worker=pid,
            )  # fmt: skip
            record_release(holder, plan.relation, marker, held_ms)
            earlier.require(marker, reader)
        record = CutRecord(marker, barrier.lsn, taken_at, barrier.tries, barrier.writers_held_ms,
                           barrier.longest_try_ms, reached_ms, held_ms)  # fmt: skip
        yield PairedSnapshots(record, legacy.reader, reader, barrier.snapshot, snapshot)


@contextmanager
def paused_stream(
    plan: StreamPlan,
    purpose: str,
    *,
    in_lock: PublicationChange | None = None,
    as_join: bool = False,
) -> Generator[Pause]:
    """Let the stream rest at a cut while the body runs, with no other step at work; enable it again whatever happens.

    Args:
        plan: The stream.
        purpose: Shown while the stream rests and kept in the ledger.
        in_lock: A change of the publication made on the legacy under the cut's lock.
        as_join: The ledger's status is `joining` from before the publication changes until the caller's transaction
            completes the join and enables the stream. If the body fails, the stream stays at rest: it must not run
            with the new filter before the new weeks are trued up.

    Raises:
        StreamError: The stream does not run, or somebody else works on it.
        ServerChangedError: A server is another one, or went back; the stream stays at rest.
        CutError: No moment for it, too far behind, or void.
        psycopg.Error: A session was lost. A pause that could not be ended is ended by the next step on the stream.
    """
    intent = StreamStatus.JOINING if as_join else StreamStatus.PAUSED
    with ExitStack() as stack:
        holder = stack.enter_context(plan.databases.session("base", f"{purpose}:pause", plan.limits.stream_timeouts()))
        require_not_barred(holder, plan.relation)
        legacy = stack.enter_context(legacy_sessions(plan, purpose))
        stack.enter_context(stream_lock(holder, plan.relation))
        if in_lock is not None:
            stack.enter_context(claimed(legacy.locker, in_lock.slot, holder=in_lock.starter))
        require_same_servers(holder, plan.relation, legacy.writer)
        stream = require_running(holder, plan.relation)
        earlier = MarkersWatch.begin(holder, legacy.writer, holder, plan.relation, "legacy")
        marker = next_marker(legacy)
        reached = time.perf_counter()
        changed = False
        try:
            # Intent first: from DISABLE on the subscription stays disabled until somebody enables it. And before a
            # join changes the publication: from there on the ledger says, whatever dies, that new weeks may be untrue.
            set_status(holder, plan.relation, intent, purpose)
            stream = require_stream(holder, plan.relation)
            with _gate(plan, holder, marker) as let_go:
                barrier = set_marker(plan, legacy, marker, in_lock)
                changed = True
                since = time.perf_counter()
                pid = wait_at_marker(holder, stream, marker, patience_seconds=plan.limits.stream_patience_seconds)
                reached = time.perf_counter()
                disable(holder, stream.subscription)
                # This commit also lets the worker go on, to the end of the marker's transaction and its own end.
                let_go()
                wait_until_gone(holder, stream, pid, barrier, patience=_WORKER_ENDS_SECONDS)
            reached_ms = (reached - since) * 1000
            taken_at = record_cut(
                holder, plan.relation, barrier, kind="pause", purpose=purpose, run_id=plan.run_id,
                reached_ms=reached_ms, worker=pid,
            )  # fmt: skip
            record = CutRecord(marker, barrier.lsn, taken_at, barrier.tries, barrier.writers_held_ms,
                               barrier.longest_try_ms, reached_ms, 0.0)  # fmt: skip
            earlier.require(marker, holder)
            yield Pause(record, stream, legacy.reader, barrier.snapshot)
        except BaseException as error:
            # A CutError before the marker was set: the lock was never granted, so the publication is unchanged.
            untouched = isinstance(error, CutError) and not changed
            _after_failure(holder, stream, error, as_join=as_join and not untouched)
            raise
        if not as_join:
            go_on(holder, stream)
        record_release(holder, plan.relation, marker, (time.perf_counter() - reached) * 1000)


def _after_failure(holder: Connected, stream: StreamRecord, error: BaseException, *, as_join: bool) -> None:
    """Try to enable the stream without hiding the first error; the next step mends what cannot be mended now."""
    if isinstance(error, ServerChangedError):
        return  # the stream is barred and must not be enabled
    try:
        if as_join:
            now = require_stream(holder, stream.relation)
            if now.status is StreamStatus.JOINING:
                log.warning("the join failed (%s); the stream rests until it is done again", type(error).__name__)
            return
        go_on(holder, stream)
    except (psycopg.Error, MigrationError) as second:
        log.warning("the stream could not be enabled (%s); the next step on it will, or `stream resume`", told(second))


def _gate(plan: StreamPlan, holder: Connected, marker: int) -> AbstractContextManager[Callable[[], None]]:
    return marker_gate(holder, MARKER_TABLE, plan.relation, marker, moment_seconds=plan.limits.cut_patience_seconds)
