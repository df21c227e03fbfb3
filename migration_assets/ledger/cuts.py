"""What every cut cost, in the ledger."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from migration_assets.ledger.stream_parts import may_see_subscription
from migration_assets.postgres.sessions import Connected, require_row

CutKind = Literal["validate", "pause"]


@dataclass(frozen=True)
class CutRecord:
    """One cut; `lsn` is the legacy's, all durations are milliseconds (see the ledger's comments)."""

    marker: int
    lsn: str
    taken_at: datetime
    tries: int
    writers_held_ms: float
    longest_try_ms: float
    reached_ms: float
    apply_held_ms: float


@dataclass(frozen=True)
class Barrier:
    """The legacy's half of a cut: the marker, and what it took to set it."""

    marker: int
    lsn: str
    snapshot: str
    tries: int
    writers_held_ms: float
    longest_try_ms: float


def record_cut(
    base: Connected,
    relation: str,
    barrier: Barrier,
    *,
    kind: CutKind,
    purpose: str,
    run_id: str | None,
    reached_ms: float,
    worker: int,
) -> datetime:
    """Note a cut, durably: where the stream is paused, the marker that came before this commit is on disk then, too.

    `worker` is the process that brought the marker; see `weeks_carried`. It is noted only where our role would see that
    somebody told it to skip something afterwards.
    """
    known = worker if may_see_subscription(base) else None
    with base.transaction():
        base.execute("SET LOCAL synchronous_commit = on")
        row = base.execute(
            "INSERT INTO migration.cuts (relation, marker, kind, purpose, run_id, lsn, tries, writers_held_ms,"
            " longest_try_ms, reached_ms, worker) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s,"
            " (SELECT a.pid || '/' || extract(epoch FROM a.backend_start) FROM pg_stat_activity a WHERE a.pid = %s))"
            " RETURNING taken_at",
            [relation, barrier.marker, kind, purpose, run_id, barrier.lsn, barrier.tries, barrier.writers_held_ms,
             barrier.longest_try_ms, reached_ms, known],
        ).fetchone()  # fmt: skip
    taken_at: datetime = require_row(row, "a new cut")[0]
    return taken_at


def record_release(base: Connected, relation: str, marker: int, apply_held_ms: float) -> None:
    """Note how long the stream stood."""
    base.execute(
        "UPDATE migration.cuts SET apply_held_ms = %s WHERE relation = %s AND marker = %s",
        [apply_held_ms, relation, marker],
    )


def time_held(base: Connected, relation: str, cut: CutRecord) -> CutRecord:
    """The record of a pause that is over, with how long the stream stood."""
    row = base.execute(
        "SELECT coalesce(apply_held_ms, 0) FROM migration.cuts WHERE relation = %s AND marker = %s",
        [relation, cut.marker],
    ).fetchone()
    return replace(cut, apply_held_ms=float(require_row(row, "a cut")[0]))


def weeks_carried(base: Connected, relation: str) -> set[int]:
    """Weeks whose newest proof was taken at a marker that the apply worker of now brought; by their lock's key.

    Since then nothing was skipped. While a worker reads, nobody can move its slot or its origin onwards, or drop the
    slot; and with its connection the worker itself ends. Where another one reads now, somebody may have done so in
    between, and no look at the servers tells. A worker whose beginning our role may not see carries nothing, nor does
    any where our role may not see that somebody altered the subscription: ALTER SUBSCRIPTION … SKIP ends no worker.
    """
    if not may_see_subscription(base):
        return set()
    rows = base.execute(
        "SELECT s.lock_key FROM migration.slices s JOIN migration.streams t ON t.relation = s.relation"
        " JOIN migration.cuts c ON c.relation = s.relation AND c.marker = s.validated_marker"
        " JOIN pg_stat_subscription w ON w.subname = t.subscription"
        " JOIN pg_subscription p ON p.oid = w.subid"
        " AND p.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " JOIN pg_stat_activity a ON a.pid = w.pid AND c.worker = a.pid || '/' || extract(epoch FROM a.backend_start)"
        " WHERE s.relation = %s",
        [relation],
    )
    return {int(row[0]) for row in rows}


def read_cuts(base: Connected, relation: str) -> list[tuple[CutKind, CutRecord]]:
    """Every cut of the stream that is over, oldest first."""
    found = base.execute(
        "SELECT kind, marker, lsn::text, taken_at, tries, writers_held_ms, longest_try_ms, reached_ms, apply_held_ms"
        " FROM migration.cuts WHERE relation = %s AND apply_held_ms IS NOT NULL ORDER BY taken_at",
        [relation],
    )
    return [(kind, CutRecord(*values)) for kind, *values in found]
