"""Estimates how long the comparison under hold will take, and refuses what cannot end in time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from migration_assets.cutover.plan import CutoverPlan
from migration_assets.domain.states import CutoverError, CutoverKind
from migration_assets.ledger.slices import SliceRecord
from migration_assets.postgres.sessions import Connected

# Seconds for hashing both sides of a row on a slow machine; used only until something was measured.
ASSUMED_ROWS_PER_SECOND = 250_000.0
_PER_WEEK_SECONDS = 0.05
# Comparisons of fewer rows tell the fixed cost of a week, not the cost of a row.
_TELLING_ROWS = 20_000


@dataclass(frozen=True)
class Week:
    """A week that will be compared. `measured_*` is its own last comparison by one worker; None: not known."""

    key: str
    rows: int
    measured_rows: int | None = None
    measured_seconds: float | None = None


@dataclass(frozen=True)
class Rehearsed:
    """An earlier comparison of many weeks while writes were held, in seconds of the wall clock."""

    weeks: int
    rows: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """The estimate in seconds of the wall clock, and what it rests on."""

    seconds: float
    weeks: int
    rows: int
    basis: str


def estimate(weeks: Sequence[Week], *, parallel: int, rehearsed: Rehearsed | None = None) -> Estimate:
    """Estimate by a rehearsal of most of the weeks, else by each week's own last comparison, else by the others' rate.

    Args:
        weeks: All weeks that will be compared.
        parallel: How many are compared at a time.
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


# The rest of the time is for draining, sequences, the reverse stream, and errors of the estimate.
SHARE = 0.7
# A cut's own clock begins when both snapshots are open; weeks that share a cut were compared side by side.
_MEASURED = """
WITH last AS (
    SELECT DISTINCT ON (quarter, week) quarter, week, marker, greatest(legacy_rows, base_rows) AS rows
    FROM migration.validations
    WHERE relation = %(relation)s AND purpose IN ('validate', 'reconcile') AND marker IS NOT NULL
    ORDER BY quarter, week, id DESC
), cut AS (
    SELECT v.marker, extract(epoch FROM max(v.validated_at) - min(c.taken_at))::float8 AS seconds,
           count(*) AS weeks, sum(greatest(v.legacy_rows, v.base_rows))::float8 AS rows
    FROM migration.validations v JOIN migration.cuts c USING (relation, marker)
    WHERE v.relation = %(relation)s AND v.marker IN (SELECT marker FROM last) GROUP BY v.marker
)
SELECT l.quarter, l.week, l.rows,
       c.seconds * least(c.weeks, %(parallel)s)
       * CASE WHEN c.rows > 0 THEN l.rows / c.rows ELSE 1.0 / c.weeks END
FROM last l JOIN cut c USING (marker)
"""
_REHEARSED = """
SELECT compared_weeks, compared_rows,
       extract(epoch FROM (timeline #>> '{compared,finished}')::timestamptz
                        - (timeline #>> '{compared,started}')::timestamptz)::float8
FROM migration.cutovers
WHERE relation = %s AND compared_weeks > 0 AND timeline #>> '{compared,finished}' IS NOT NULL
ORDER BY id DESC LIMIT 1
"""
_LIVE = """
SELECT relname, n_live_tup FROM pg_stat_all_tables WHERE schemaname = %s AND relname = ANY(%s)
"""


def estimate_comparison(base: Connected, plan: CutoverPlan, records: Sequence[SliceRecord]) -> Estimate:
    """Estimate from earlier comparisons, whose durations and rows the ledger knows."""
    parallel = plan.stream.limits.parallel
    measured = {
        (str(quarter), str(name)): (int(rows), float(seconds))
        for quarter, name, rows, seconds in base.execute(
            _MEASURED, {"relation": plan.relation, "parallel": parallel}
        ).fetchall()
    }
    leaves = [record.leaf for record in records]
    live = {str(leaf): int(rows) for leaf, rows in base.execute(_LIVE, [plan.stream.spec.table.schema, leaves])}
    weeks = [
        Week(
            record.week.key,
            max(record.base.rows if record.base else 0, live.get(record.leaf, 0)),
            *measured.get((record.week.quarter.key, record.week.name), (None, None)),
        )
        for record in records
    ]
    row = base.execute(_REHEARSED, [plan.relation]).fetchone()
    rehearsed = Rehearsed(int(row[0]), int(row[1]), float(row[2])) if row else None
    return estimate(weeks, parallel=parallel, rehearsed=rehearsed)


def in_time(found: Estimate, plan: CutoverPlan) -> bool:
    """Whether the comparison very likely ends within the timeout."""
    return found.seconds <= SHARE * plan.timeout_seconds


def told(found: Estimate) -> str:
    """A sentence: what is compared, how long that takes, and what that estimate rests on."""
    return (
        f"comparing {found.weeks} weeks with {found.rows:,} rows while no side accepts writes would take about"
        f" {found.seconds:,.1f} s (from {found.basis})"
    )


def ways_out(found: Estimate, plan: CutoverPlan, kind: CutoverKind) -> str:
    """What can be done where the comparison takes too long."""
    raised = f"raise MIGRATION_CUTOVER_TIMEOUT_SECONDS to {found.seconds / SHARE + 1:.0f} or more"
    return raised + (_FEWER if plan.compare_all else _CALMER[kind])


def require_time(
    base: Connected, plan: CutoverPlan, kind: CutoverKind, records: Sequence[SliceRecord], *, besides: float = 0.0
) -> Estimate:
    """Refuse a comparison that would very likely not end within the timeout.

    Args:
        base: Has the ledger.
        plan: Has the timeout.
        kind: Decides which ways out there are.
        records: The weeks that will be compared.
        besides: Seconds that the look at the weeks that left the base takes, as it was measured.

    Returns:
        The estimate.

    Raises:
        CutoverError: It would take too long; the error names the estimate and the ways out. Nothing is held.
    """
    found = estimate_comparison(base, plan, records)
    if besides:
        found = replace(
            found,
            seconds=found.seconds + besides,
            basis=f"{found.basis}, and {besides:,.1f} s for the weeks that left the base, as measured just now",
        )
    if in_time(found, plan):
        return found
    raise CutoverError(
        f"{told(found)}, over {SHARE:.0%} of the timeout of {plan.timeout_seconds:g} s",
        where=plan.relation,
        state_left="nothing was held",
        next_step=ways_out(found, plan, kind),
    )


_FEWER = (
    "; or set MIGRATION_CUTOVER_COMPARE_ALL=false: then only weeks that changed since they were last compared are"
    " compared, and before a cutover those are validated once more while everybody writes"
)
_CALMER = {
    CutoverKind.CUTOVER: "; or run it when fewer weeks are being written to: compared are the weeks that changed since"
    " their validation, those that another apply worker had proven, and those that were proven while our role could not"
    " see who alters the subscription (`migration-assets preflight`: alterations_right)",
    CutoverKind.ROLLBACK: ": these weeks changed since they were last compared, and they have to be compared before the"
    " legacy accepts writes again",
}
