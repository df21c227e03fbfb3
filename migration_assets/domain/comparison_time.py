"""How long a comparison of many weeks will take, from how long it took before. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

# Hashing both sides of a row, on a slow machine; only until anything was measured.
ASSUMED_ROWS_PER_SECOND = 250_000.0
_PER_WEEK_SECONDS = 0.05
# What fewer rows took says how long a week takes, not how long a row does.
_TELLING_ROWS = 20_000


@dataclass(frozen=True)
class Week:
    """One that will be compared. `measured_*` is its own last comparison, as one worker's work; None: not known."""

    key: str
    rows: int
    measured_rows: int | None = None
    measured_seconds: float | None = None


@dataclass(frozen=True)
class Rehearsed:
    """An earlier comparison of many weeks while writes were held; seconds as the clock went."""

    weeks: int
    rows: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """Seconds as the clock will go, and what they rest on."""

    seconds: float
    weeks: int
    rows: int
    basis: str


def estimate(weeks: Sequence[Week], *, parallel: int, rehearsed: Rehearsed | None = None) -> Estimate:
    """A rehearsal of most of it is the best witness; else each week's own last comparison; else the others' rate.

    Args:
        weeks: All that will be compared.
        parallel: How many at a time.
        rehearsed: The last comparison of a cutover or a rehearsal.
    """
    rows = sum(week.rows for week in weeks)
    if rehearsed is not None and rehearsed.weeks and 2 * rehearsed.rows >= rows and 2 * rehearsed.weeks >= len(weeks):
        grown = max(rows / max(1, rehearsed.rows), len(weeks) / rehearsed.weeks)
        return Estimate(rehearsed.seconds * grown, len(weeks), rows, "the last time that writes were held")
    telling = [week for week in weeks if (week.measured_rows or 0) >= _TELLING_ROWS and week.measured_seconds]
    spent = sum(week.measured_seconds or 0.0 for week in telling)
    rate = sum(week.measured_rows or 0 for week in telling) / spent if spent else ASSUMED_ROWS_PER_SECOND
    work = [_of(week, rate) for week in weeks]
    seconds = max(sum(work) / max(1, parallel), max(work, default=0.0))
    known = sum(week.measured_seconds is not None for week in weeks)
    basis = f"the last validations of {known} of them, {rate:,.0f} rows/s each" if known else (
        f"an assumed {rate:,.0f} rows/s each: none of them was validated yet")  # fmt: skip
    return Estimate(seconds, len(weeks), rows, basis)


def _of(week: Week, rate: float) -> float:
    if week.measured_seconds is None or week.measured_rows is None:
        return _PER_WEEK_SECONDS + week.rows / rate
    return week.measured_seconds + max(0, week.rows - week.measured_rows) / rate
