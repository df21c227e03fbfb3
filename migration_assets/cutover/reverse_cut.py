"""A consistent cut of the reverse stream: base and legacy at exactly the same marker, while the base is in charge.

It works as the forward cut (`consistent_cut`) with the sides exchanged. On the base the table with every leaf is
locked in SHARE mode for milliseconds; under that lock a second session writes a marker and a third one opens a
snapshot. On the legacy the apply worker waits inside the marker's transaction, for an uncommitted row with the marker's
key. There either a snapshot is opened and the worker goes on, or the subscription is disabled: then the legacy rests at
the marker, and its hold keeps all other writers away.
"""

import logging
import random
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import psycopg
from psycopg import errors, sql

from migration_assets.cutover.plan import CutoverPlan
from migration_assets.cutover.reverse import let_reverse_run, rest, reverse_worker
from migration_assets.domain.states import CutoverError
from migration_assets.ledger.session_locks import lock_until_session_ends, make_session_locks
from migration_assets.ledger.stream import StreamNames
from migration_assets.postgres.retries import is_lock_timeout
from migration_assets.postgres.sessions import Connected, Timeouts, require_row
from migration_assets.postgres.sql_text import table_name
from migration_assets.stream.arrival import (
    REVERSE_MARKER_TABLE,
    hold_for_moments,
    marker_gate,
    waits_for,
)
from migration_assets.stream.claims import end_holders
from migration_assets.stream.heartbeats import reverse_arrived
from migration_assets.stream.legacy_side import old_writers
from migration_assets.stream.subscription import disable

# With an open writer of this age a try would only hold up the others.
_OLD_MS = 3_000.0
_FROZEN = "1s"
_WORKER_ENDS_SECONDS = 60.0
_SHORTEST, _LONGEST = 0.001, 0.05
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReverseCut:
    """Both sides at one marker.

    Attributes:
        marker: The marker's number.
        lsn: The base's WAL position at the marker.
        base: A session that reads the base at the marker, in its open snapshot.
        legacy: Where the stream rests, a session in no transaction; else one that reads the legacy at the marker, in
            its open snapshot.
    """

    marker: int
    lsn: str
    base: Connected
    legacy: Connected


@contextmanager
def reverse_cut(
    plan: CutoverPlan, names: StreamNames, purpose: str, *, at_rest: bool, for_good: bool = False
) -> Generator[ReverseCut]:
    """Give the body both sides at one marker; the reverse stream goes on afterwards.

    Args:
        plan: Which table.
        names: The reverse stream's names.
        purpose: Shown in both servers' lists of sessions.
        at_rest: The stream rests at the marker while the body runs; else it goes on at once.
        for_good: The stream is not enabled again afterwards, unless the body fails.

    Raises:
        CutoverError: The stream does not run, is too far behind, or no moment between the base's writers came.
        psycopg.Error: A session was lost. A stream that rests is enabled by the next step on it.
    """
    with ExitStack() as stack:

        def session(side: str, name: str, timeouts: Timeouts | None = None) -> Connected:
            where = "base" if side == "base" else "legacy"
            return stack.enter_context(plan.stream.databases.session(where, f"{purpose}:{name}", timeouts))

        holder = session("legacy", "cut", Timeouts(lock=5_000, statement=0, idle_in_transaction=0))
        legacy = session("legacy", "rows", plan.stream.limits.timeouts())
        locker, writer = session("base", "cut"), session("base", "marker")
        reader = session("base", "snapshot", plan.stream.limits.timeouts())
        make_session_locks(holder)
        _remove_former_trigger(holder)
        for connection, key in zip((holder, legacy), _session_keys(names), strict=True):
            lock_until_session_ends(connection, key, lambda who: _void(plan, f"another one is taken by {who}"))
        # Before the snapshot: a rewrite of the table would leave it empty.
        for connection in (reader, *(() if at_rest else (legacy,))):
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(table_name(plan.stream.spec.table)))
        row = writer.execute("SELECT nextval('migration.reverse_marker_id')").fetchone()
        marker = int(require_row(row, "nextval")[0])
        going_on = ExitStack()
        moment = plan.stream.limits.cut_patience_seconds
        with marker_gate(holder, REVERSE_MARKER_TABLE, plan.relation, marker, moment_seconds=moment) as let_go:
            lsn = _set_marker(plan, locker, writer, reader, marker)
            hold_for_moments(holder)
            pid = _wait_at(plan, holder, names, marker)
            if at_rest:
                stack.enter_context(going_on)
                going_on.callback(_let_run, holder, names)
                disable(holder, names.subscription)
            else:
                legacy.execute("SELECT pg_current_snapshot()")
            let_go()
        if at_rest:
            end = time.monotonic() + _WORKER_ENDS_SECONDS
            rest(holder, names.subscription, pid, patience=lambda: end - time.monotonic())
            if not reverse_arrived(holder, plan.relation, marker):
                raise _void(plan, "the marker was not applied")
        yield ReverseCut(marker, lsn, reader, legacy)
        if for_good:
            going_on.pop_all()


def _session_keys(names: StreamNames) -> tuple[str, str]:
    return f"cut of {names.subscription}", f"rows of {names.subscription}"


def end_reverse_cuts(legacy: Connected, names: StreamNames) -> None:
    """End the sessions on the legacy of a run that has lost the cutover's lock on the base.

    A process that stands still holds the stream's worker at its marker, or the table, for as long as it exists.

    Args:
        legacy: A session of the run that has that lock now.
        names: The reverse stream's.

    Raises:
        StreamError: Our role may not end them.
    """
    left = [pid for key in _session_keys(names) for pid in end_holders(legacy, key)]
    if left:
        log.warning("a cut of the reverse stream was left by a run that was ended; its sessions %s were ended", left)


def _remove_former_trigger(legacy: Connected) -> None:
    """Drop an earlier version's trigger: it let the worker wait for an advisory lock, which anybody can take."""
    row = legacy.execute(
        "SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass('migration.reverse_markers')"
        " AND tgname = 'wait_at_reverse_marker')"
    ).fetchone()
    if require_row(row, "EXISTS")[0]:
        legacy.execute("DROP TRIGGER wait_at_reverse_marker ON migration.reverse_markers")


def _set_marker(plan: CutoverPlan, locker: Connected, writer: Connected, reader: Connected, marker: int) -> str:
    """Write the marker and open the reader's snapshot at exactly that point; returns the WAL position."""
    for connection in (locker, writer):
        # A standby that answers slowly must not delay the commit that releases the lock.
        connection.execute("SET synchronous_commit = local")
    give_up = time.monotonic() + plan.stream.limits.cut_patience_seconds
    while True:
        if not old_writers(writer, plan.stream.spec, older_than_ms=_OLD_MS, sees_autovacuum=False):
            try:
                return _once(plan, locker, writer, reader, marker)
            except errors.IdleInTransactionSessionTimeout:
                raise _void(plan, f"this process stood still for over {_FROZEN} while it held the base") from None
            except psycopg.OperationalError as error:
                if not is_lock_timeout(error):
                    raise
        if time.monotonic() >= give_up:
            found = old_writers(writer, plan.stream.spec, older_than_ms=0.0, sees_autovacuum=True)
            raise CutoverError(
                "no moment without an open writer of the base came within"
                f" {plan.stream.limits.cut_patience_seconds:g} s. In the way: {'; '.join(found) or 'nobody any more'}",
                where=plan.relation,
                state_left="nothing was changed; no writer is held; the reverse stream goes on",
                next_step="let that transaction end (or end it: SELECT pg_terminate_backend(pid)), then run this again",
            )
        time.sleep(random.uniform(0.02, 0.2))  # noqa: S311 - random, so as not to run in step with another process


def _once(plan: CutoverPlan, locker: Connected, writer: Connected, reader: Connected, marker: int) -> str:
    with locker.transaction():
        locker.execute(
            "SELECT set_config('lock_timeout', %s, true), set_config('idle_in_transaction_session_timeout', %s, true)",
            [f"{plan.stream.limits.cut_lock_timeout_ms}ms", _FROZEN],
        )
        row = locker.execute("SELECT has_parameter_privilege('deadlock_timeout', 'SET')").fetchone()
        if row and row[0]:
            # An autovacuum that is in the way is only canceled when this time is over.
            locker.execute("SET LOCAL deadlock_timeout = '20ms'")
        # With every leaf, so that writers that name a leaf wait, too.
        locker.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(table_name(plan.stream.spec.table)))
        writer.execute("INSERT INTO migration.reverse_markers (relation, id) VALUES (%s, %s)", [plan.relation, marker])
        found = reader.execute("SELECT pg_current_wal_insert_lsn()::text FROM pg_current_snapshot()").fetchone()
    # The position is good because the commit succeeded: had it failed, a write might have come before the snapshot.
    return str(require_row(found, "the cut's position")[0])


def _wait_at(plan: CutoverPlan, legacy: Connected, names: StreamNames, marker: int) -> int:
    """Wait until the stream's own apply worker stands at the marker's gate; returns its process id."""
    give_up = time.monotonic() + plan.stream.limits.stream_patience_seconds
    pause = _SHORTEST
    while True:
        worker = reverse_worker(legacy, names)
        if worker is None:
            raise _void(plan, "the reverse stream's subscription is gone from the legacy")
        if worker.enabled and worker.pid is not None and waits_for(legacy, worker.pid):
            return worker.pid
        if time.monotonic() >= give_up:
            raise _void(
                plan,
                f"the reverse stream did not arrive at marker {marker} within"
                f" {plan.stream.limits.stream_patience_seconds:g} s",
            )
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST)


def _let_run(legacy: Connected, names: StreamNames) -> None:
    # Where the session is lost, the next step enables it: a rollback, a repair, a decommissioning.
    with suppress(psycopg.OperationalError):
        let_reverse_run(legacy, names)


def _void(plan: CutoverPlan, what: str) -> CutoverError:
    return CutoverError(
        f"no cut of the reverse stream: {what}",
        where=plan.relation,
        state_left="nothing was changed; no writer is held",
        next_step="`migration-assets stream status` says how the reverse stream is; repair that, then run this again",
    )
