"""What every cut cost, in the ledger."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

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
) -> datetime:
    """Note a cut, durably: where the stream is paused, the marker that came before this commit is on disk then, too."""
    with base.transaction():
        base.execute("SET LOCAL synchronous_commit = on")
        row = base.execute(
            "INSERT INTO migration.cuts (relation, marker, kind, purpose, run_id, lsn, tries, writers_held_ms,"
            " longest_try_ms, reached_ms) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING taken_at",
            [relation, barrier.marker, kind, purpose, run_id, barrier.lsn, barrier.tries, barrier.writers_held_ms,
             barrier.longest_try_ms, reached_ms],
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


def read_cuts(base: Connected, relation: str) -> list[tuple[CutKind, CutRecord]]:
    """Every cut of the stream that is over, oldest first."""
    found = base.execute(
        "SELECT kind, marker, lsn::text, taken_at, tries, writers_held_ms, longest_try_ms, reached_ms, apply_held_ms"
        " FROM migration.cuts WHERE relation = %s AND apply_held_ms IS NOT NULL ORDER BY taken_at",
        [relation],
    )
    return [(kind, CutRecord(*values)) for kind, *values in found]
