"""Examines sizes, physical order and speed: does the quarter fit into the maintenance window?"""

from dataclasses import dataclass

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.fiscal_calendar import WEEKS_PER_QUARTER
from migration_assets.domain.table_spec import quote_identifier
from migration_assets.postgres.physical_order import PhysicalOrder
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.preflight.plan import Subject
from migration_assets.preflight.quarter_choice import ChosenQuarter
from migration_assets.preflight.speed import Speed
from migration_assets.preflight.wording import info, judge, size

_TOLERABLE_AMPLIFICATION = 3.0


def examine_sizes(legacy: Connected, subject: Subject, order: PhysicalOrder) -> list[Finding]:
    """Heap, TOAST, indexes, and whether the planner's figures can be used at all."""
    row = legacy.execute(
        "SELECT pg_relation_size(c.oid), CASE WHEN c.reltoastrelid <> 0 THEN pg_total_relation_size(c.reltoastrelid)"
        " ELSE 0 END, greatest(s.last_analyze, s.last_autoanalyze)::text FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid"
        " WHERE n.nspname = %s AND c.relname = %s",
        [subject.spec.table.schema, subject.spec.table.name],
    ).fetchone()
    heap, toast, analyzed = require_row(row, "the sizes of a table")
    rows = "an unknown number of" if order.rows is None else f"about {order.rows:,}"
    return [
        judge(
            "sizes",
            Area.WINDOW,
            f"{rows} rows; heap {size(heap)}, TOAST {size(toast)}, indexes {size(order.index_bytes)};"
            f" last analyzed {analyzed or 'at no known time'}",
            good=order.rows is not None,
            remedy=f"ANALYZE {subject.spec.table}; -- without it neither rows nor durations can be estimated",
            severity=Severity.WARNING,
        )
    ]


def examine_order(subject: Subject, order: PhysicalOrder, chosen: ChosenQuarter) -> list[Finding]:
    """The index that finds a week, and what reading a week costs with it."""
    column = quote_identifier(subject.spec.control_column)
    create = f"CREATE INDEX CONCURRENTLY ON {subject.spec.table} ({column});"
    fraction = chosen.fraction_of(order)
    week = fraction / WEEKS_PER_QUARTER if fraction else None
    findings = [
        judge(
            "control_index",
            Area.WINDOW,
            f"index {order.control_index} begins with {column}"
            if order.control_index
            else f"no valid, complete btree or BRIN index begins with {column}: a week reads all {order.pages:,} pages",
            good=order.control_index is not None,
            remedy=f"{create} -- online; needs free disk of about 25 bytes a row",
            severity=Severity.WARNING,
        )
    ]
    if week is None:
        return [
            *findings,
            info("physical_order", Area.WINDOW, f"not predicted: {chosen.quarter.key} has no known rows"),
        ]
    times = order.read_amplification(week)
    correlation = "unknown" if order.correlation is None else f"{order.correlation:.3f}"
    remedies = [] if order.control_index else [create]
    if order.correlation is None:
        remedies.append(f"ANALYZE {subject.spec.table}; -- an unknown order counts as random;")
    remedies.append(
        "each page is then read for several weeks: copy all weeks of the quarter in one go, so that pages are still"
        " cached for the next one, and expect the window to be that much longer. CLUSTER would sort the table, but"
        " locks it for as long as it takes: not online"
    )
    return [
        *findings,
        judge(
            "physical_order",
            Area.WINDOW,
            f"correlation of {column} with the place on disk is {correlation}: reading one week of {chosen.quarter.key}"
            f" touches {times:.1f} times the pages that its rows fill",
            good=times <= _TOLERABLE_AMPLIFICATION,
            remedy=" ".join(remedies),
            severity=Severity.WARNING,
        ),
    ]


@dataclass(frozen=True)
class _Estimate:
    size: float
    seconds: float

    @property
    def hours(self) -> float:
        return self.seconds / 3600

    @property
    def gb_per_hour(self) -> float:
        return self.size / 1e9 / self.hours


def examine_window(subject: Subject, order: PhysicalOrder, chosen: ChosenQuarter, speed: Speed | None) -> list[Finding]:
    """The estimate against the window's length and against the rate that was promised."""
    plan = subject.plan
    row_bytes = order.bytes_per_row
    if speed is None or not chosen.rows or not row_bytes:
        missing = "no speed was measured" if chosen.rows and row_bytes else "its rows are not known"
        return [
            judge(
                "window",
                Area.WINDOW,
                f"{chosen.quarter.key} ({chosen.why}): not estimated, because {missing}",
                good=order.rows == 0,
                remedy=f"ANALYZE {subject.spec.table}; then run preflight again",
                severity=Severity.WARNING,
            )
        ]
    week = (chosen.fraction_of(order) or 0.0) / WEEKS_PER_QUARTER
    total = chosen.rows * row_bytes
    estimate = _Estimate(total, speed.seconds_for(total, order.read_amplification(week), plan.parallel_copies))
    remedy = (
        "raise MIGRATION_PARALLEL_COPIES while cores and disks are idle, mend physical_order and control_index, copy"
        " closed weeks before the window (the change stream keeps them exact), or lengthen the window"
    )
    about = f"{chosen.quarter.key} ({chosen.why}): about {chosen.rows:,} rows, {size(total)} of heap and TOAST"
    assumed = f"{speed.evidence}; {plan.parallel_copies} copies at once are taken to be that many times as fast"
    return [
        judge(
            "window",
            Area.WINDOW,
            f"{about}; estimated {_duration(estimate.seconds)} of {plan.window_hours:g} h. {assumed}",
            good=estimate.hours <= plan.window_hours,
            remedy=remedy,
            severity=Severity.WARNING,
        ),
        judge(
            "target_rate",
            Area.WINDOW,
            f"estimated {estimate.gb_per_hour:,.1f} GB/h, target {plan.target_gb_per_hour:,.2f} GB/h"
            + ("" if speed.representative else "; the sample was too small to judge by"),
            good=estimate.gb_per_hour >= plan.target_gb_per_hour or not speed.representative,
            remedy=remedy,
            severity=Severity.WARNING,
        ),
    ]


def _duration(seconds: float) -> str:
    if seconds < 120:  # noqa: PLR2004 - two minutes
        return f"{seconds:.1f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"  # noqa: PLR2004 - two hours
