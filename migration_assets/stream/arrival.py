"""Hold the apply worker at a marker, and wait on the base until the worker has arrived there or has ended there."""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from typing import LiteralString

import psycopg
from psycopg import errors, pq, sql

from migration_assets.domain.errors import CutError, StreamError
from migration_assets.ledger.proofs import Barrier
from migration_assets.ledger.stream import StreamRecord
from migration_assets.postgres.own_schema import in_own_schema
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.stream.subscription import apply_worker, require_enabled

MARKER_TABLE: LiteralString = "migration.markers"
REVERSE_MARKER_TABLE: LiteralString = "migration.reverse_markers"
_ROW_OF_GATE: Mapping[str, LiteralString] = {
    MARKER_TABLE: "INSERT INTO migration.markers (relation, id, kind, sent_at)"
    " VALUES (%(relation)s, %(marker)s, 'gate', clock_timestamp())",
    REVERSE_MARKER_TABLE: "INSERT INTO migration.reverse_markers (relation, id) VALUES (%(relation)s, %(marker)s)",
}
_SEQUENCES = {MARKER_TABLE: "migration.marker_id", REVERSE_MARKER_TABLE: "migration.reverse_marker_id"}
_LET_GO = sql.SQL("DELETE FROM {} WHERE relation = {} AND id = {}; COMMIT")
_SHORTEST, _LONGEST = 0.001, 0.05
# An apply worker that fails is started again after wal_retrieve_retry_interval, 5 s by default.
_WORKER_MAY_BE_AWAY = 30.0
_WORKER_LIVES = 0.5
# Longer than a step that looks at the base at a marker waits for a lock, and longer than a busy machine stands still.
FROZEN_SECONDS = 20.0


@contextmanager
def marker_gate(
    holder: Connected, markers: LiteralString, relation: str, marker: int, *, moment_seconds: float
) -> Generator[Callable[[], None]]:
    """Hold the apply worker of the following side at the marker until the yielded function is called.

    A row of the marker's own key, in a transaction that is not committed: another insert of that key waits
    until it is known whether this one stays. It never does. The yielded function commits what else was done in the
    transaction. A process that stands still meanwhile loses its session, and the worker goes on.

    Args:
        holder: A session on the following side, in no transaction.
        markers: The table that the worker writes the marker to.
        relation: The table whose stream carries the marker.
        marker: The marker's number.
        moment_seconds: How long it may take until the marker is set and `hold_for_moments` is called.

    Raises:
        CutError: This process stalled for too long, so the cut is void; or the marker's number was used before.
    """
    key: dict[str, object] = {"relation": relation, "marker": marker}

    def let_go() -> None:
        # In one message, since the worker waits until it is through.
        holder.execute(_LET_GO.format(sql.SQL(markers), sql.Literal(relation), sql.Literal(marker)))

    try:
        holder.execute("BEGIN")
        # A slow synchronous standby must not keep the worker at the gate.
        holder.execute("SET LOCAL synchronous_commit = local")
        _may_be_idle(holder, moment_seconds + FROZEN_SECONDS)
        _stand_at(holder, markers, key)
        yield let_go
    except errors.IdleInTransactionSessionTimeout:
        raise CutError(
            "this process stalled while it held the apply worker at a marker, and the server ended its session",
            where=f"marker {marker}",
            state_left="no writer is held; the cut is void; the stream goes on, or rests until the next step on it",
            next_step="find out why the machine stalled (suspended, swapping?), then run this again",
        ) from None
    finally:
        # A lost connection has let the worker go by itself.
        if holder.info.transaction_status is not pq.TransactionStatus.IDLE:
            with suppress(psycopg.OperationalError):
                holder.execute("ROLLBACK")


def _stand_at(holder: Connected, markers: LiteralString, key: Mapping[str, object]) -> None:
    try:
        holder.execute(_ROW_OF_GATE[markers], key)
    except errors.UniqueViolation:
        raise CutError(
            f"marker {key['marker']} was already used: the sequence that numbers markers was set back",
            where=str(key["relation"]),
            state_left="nothing was changed; no writer is held",
            next_step=in_own_schema(
                holder,
                f"on the side that sends: SELECT setval('{_SEQUENCES[markers]}', n), where n is the highest id of"
                f" {markers} on the other side; then run this again",
            ),
        ) from None


def hold_for_moments(holder: Connected) -> None:
    """Keep the gate's session busy from now on, so that its server ends it if this process stands still."""
    _may_be_idle(holder, FROZEN_SECONDS)


def _may_be_idle(holder: Connected, seconds: float) -> None:
    holder.execute("SELECT set_config('idle_in_transaction_session_timeout', %s, true)", [f"{round(seconds * 1000)}ms"])


def wait_at_marker(base: Connected, stream: StreamRecord, marker: int, *, patience_seconds: float) -> int:
    """Wait until this stream's own apply worker stands at the marker's gate: the base then holds all before the marker.

    Args:
        base: The session that holds the gate.
        stream: The stream whose worker is waited for.
        marker: The number of the marker that was set.
        patience_seconds: How long to wait at most.

    Returns:
        The process id of the worker.

    Raises:
        StreamError: The worker was away for too long, or the subscription was disabled or dropped.
        CutError: The stream is too far behind to arrive in time.
    """
    hold_for_moments(base)
    began = seen = since = time.monotonic()
    pid: int | None = None
    pause = _SHORTEST
    while True:
        worker = require_enabled(apply_worker(base, stream.subscription), stream.subscription)
        now = time.monotonic()
        if worker.pid != pid:
            pid, since = worker.pid, now
        if pid is not None:
            # A worker that fails at once is seen at every start, too.
            if now - since > _WORKER_LIVES:
                seen = now
            if waits_for(base, pid):
                return pid
        if now - seen > _WORKER_MAY_BE_AWAY:
            raise StreamError(
                f"the apply worker has been away for {now - seen:.0f} s: it fails and restarts, or cannot connect",
                where=stream.subscription,
                state_left="nothing was changed; no writer is held",
                next_step="`migration-assets stream status` shows what is wrong; the base's server log has the error",
            )
        if now - began > patience_seconds:
            raise CutError(
                f"the stream did not arrive at marker {marker} within {patience_seconds:g} s: it is too far behind",
                where=stream.relation,
                state_left="nothing was changed; no writer is held",
                next_step="wait until the lag is smaller (`migration-assets stream status`), then run this again",
            )
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST)


def waits_for(holder: Connected, pid: int) -> bool:
    """Whether that process waits for the transaction of `holder`, which holds nothing but the gate."""
    row = holder.execute(
        "SELECT EXISTS (SELECT FROM pg_locks w JOIN pg_locks h USING (transactionid)"
        " WHERE w.locktype = 'transactionid' AND NOT w.granted AND w.pid = %s"
        " AND h.locktype = 'transactionid' AND h.granted AND h.pid = pg_backend_pid())",
        [pid],
    ).fetchone()
    return bool(require_row(row, "EXISTS")[0])


def wait_until_gone(base: Connected, stream: StreamRecord, pid: int, barrier: Barrier, *, patience: float) -> None:
    """Wait, after DISABLE, until the worker has committed the marker and ended; the base then rests exactly there.

    Raises:
        CutError: The worker did not end, or the base is not at the marker: the cut is void.
    """
    deadline = time.monotonic() + patience
    pause = _SHORTEST
    while _is_alive(base, stream.subscription, pid):
        if time.monotonic() > deadline:
            raise _void(stream, "the apply worker did not end")
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST)
    row = base.execute(
        "SELECT EXISTS (SELECT FROM migration.markers WHERE relation = %s AND id = %s)",
        [stream.relation, barrier.marker],
    ).fetchone()
    if not require_row(row, "EXISTS")[0]:
        raise _void(stream, "the marker was not applied")
    passed = _origin_beyond(base, stream.subscription, barrier.lsn)
    if passed:
        raise _void(stream, f"the stream went on to {passed}, past the cut at {barrier.lsn}")


def _is_alive(base: Connected, subscription: str, pid: int) -> bool:
    worker = apply_worker(base, subscription)
    if worker is not None and worker.pid is not None:
        return True
    return base.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone() is not None


def _origin_beyond(base: Connected, subscription: str, lsn: str) -> str | None:
    """The stream's own position where it is past the cut: a second proof of what the marker says.

    The view needs a grant; without it the answer is None.
    """
    row = base.execute("SELECT has_table_privilege('pg_replication_origin_status', 'SELECT')").fetchone()
    if not require_row(row, "has_table_privilege")[0]:
        return None
    found = base.execute(
        sql.SQL(
            "SELECT o.remote_lsn::text FROM pg_replication_origin_status o"
            " JOIN pg_subscription p ON o.external_id = 'pg_' || p.oid::text"
            " WHERE p.subname = {} AND p.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND o.remote_lsn > {}::pg_lsn"
        ).format(sql.Literal(subscription), sql.Literal(lsn))
    ).fetchone()
    return None if found is None else str(found[0])


def _void(stream: StreamRecord, what: str) -> CutError:
    return CutError(
        f"the cut is void: {what}",
        where=stream.relation,
        state_left="nothing was changed; no writer is held",
        next_step="run this again; if it happens again, see the base's server log",
    )
