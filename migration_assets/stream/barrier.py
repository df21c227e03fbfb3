"""Sets the marker on the legacy: under a lock that holds its writers for milliseconds, or not at all."""

import logging
import random
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import errors, sql

from migration_assets.domain.errors import CutError
from migration_assets.ledger.cuts import Barrier
from migration_assets.ledger.own_objects import require_trusted
from migration_assets.postgres.retries import is_lock_timeout
from migration_assets.postgres.sessions import Connected, Timeouts, require_row
from migration_assets.postgres.snapshots import begin_reading
from migration_assets.postgres.sql_text import table_name
from migration_assets.stream.claims import PublicationChange
from migration_assets.stream.legacy_side import old_writers
from migration_assets.stream.plan import StreamPlan

# A writer whose transaction is older than this would probably outlast our try, and hold up all others behind it.
_OLD_MS = 30.0
# Where transactions of that age never end all at once, a try is made all the same, unless one is this old.
_HOPELESS_MS = 3_000.0
_PEEK_SECONDS = 1.0
_TELL_SECONDS = 10.0
_FROZEN = "1s"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LegacySessions:
    """Opened before the lock is taken, since a connection takes longer than the whole cut.

    `locker` holds the lock, `writer` commits the marker, `reader` keeps the snapshot.
    """

    locker: Connected
    writer: Connected
    reader: Connected


@contextmanager
def legacy_sessions(plan: StreamPlan, purpose: str) -> Generator[LegacySessions]:
    """All three; they are closed at the end."""
    with ExitStack() as stack:

        def session(name: str, timeouts: Timeouts | None = None) -> Connected:
            return stack.enter_context(plan.databases.session("legacy", f"{purpose}:{name}", timeouts))

        yield LegacySessions(session("cut"), session("marker"), session("snapshot", plan.limits.timeouts()))


def next_marker(legacy: LegacySessions) -> int:
    """A number that no other marker has: a dead validator's marker is never mistaken for ours."""
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
        in_lock: Done by the session that holds the lock, before the marker. It has claimed the legacy.

    Raises:
        CutError: Writers left no moment for it within our patience; names the oldest.
        psycopg.Error: A session was lost: no cut, and nobody is held.
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
                # that lock from ever being got.
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
        time.sleep(random.uniform(0.02, 0.2))  # noqa: S311 - so that we do not keep step with a job that comes back


def _make_gentle(legacy: LegacySessions) -> None:
    for connection in (legacy.locker, legacy.writer):
        # A standby that is slow to answer must not keep the lock from going.
        connection.execute("SET synchronous_commit = local")
    # While it waits for its own lock nobody is held, but an ALTER TABLE is in the way, and the next try may be luckier.
    legacy.reader.execute("SET lock_timeout = '1s'")


def _peek(plan: StreamPlan, legacy: LegacySessions, give_up: float) -> list[str]:
    """Wait for a moment without old writers; those that stayed. A try would hold all others behind them in vain."""
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
            [f"{plan.limits.cut_lock_timeout_ms}ms", _FROZEN],  # a frozen process must not hold writers
        )
        if _may_set_deadlock_timeout(locker):
            # An autovacuum in the way is only sent away when this time is over.
            locker.execute("SET LOCAL deadlock_timeout = '20ms'")
        locker.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(table_name(plan.spec.table)))
        if in_lock is not None:
            in_lock.make(locker)
        legacy.writer.execute(
            "INSERT INTO migration.markers (relation, id, kind) VALUES (%s, %s, 'cut')", [plan.relation, marker]
        )
        # The transaction's first query: its snapshot is taken here, while nobody can write.
        row = legacy.reader.execute("SELECT pg_current_wal_insert_lsn()::text, pg_export_snapshot()").fetchone()
    # The commit succeeded: an error there means that somebody may have written before the snapshot was taken.
    lsn, snapshot = require_row(row, "the cut's position")
    return str(lsn), str(snapshot)


def _may_set_deadlock_timeout(connection: Connected) -> bool:
    row = connection.execute("SELECT has_parameter_privilege('deadlock_timeout', 'SET')").fetchone()
    return bool(row and row[0])


def _frozen(plan: StreamPlan) -> CutError:
    return CutError(
        f"this process stood still for over {_FROZEN} while it held the legacy's writers, and was cut off",
        where=plan.relation,
        state_left="no writer is held; nothing was changed; the stream goes on as before",
        next_step="see why the machine stood still (suspended, swapping?), then run this again",
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
