"""Chooses the quarter that has to fit into the window, by the planner's estimates alone."""

from dataclasses import dataclass

from psycopg import sql

from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.postgres.fingerprints import in_range
from migration_assets.postgres.physical_order import PhysicalOrder
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import table_name
from migration_assets.preflight.data import calendar_span
from migration_assets.preflight.plan import Subject

_QUARTERS_EXAMINED = 200


@dataclass(frozen=True)
class ChosenQuarter:
    """The quarter, the planner's estimate of its rows (None where the table was never analyzed), and why this one."""

    quarter: FiscalQuarter
    rows: int | None
    why: str

    def fraction_of(self, order: PhysicalOrder) -> float | None:
        """Its part of all rows, 0..1; None where either is unknown or zero."""
        return min(1.0, self.rows / order.rows) if self.rows and order.rows else None


def choose_quarter(legacy: Connected, subject: Subject, order: PhysicalOrder) -> ChosenQuarter:
    """The planned quarter; else that of `as_of`; else, where that is empty, the biggest one."""
    planned = subject.plan.quarter
    now = subject.calendar.quarter_of(subject.plan.as_of)
    if not order.rows:
        return ChosenQuarter(planned or now, order.rows, "as planned" if planned else "the present one")
    if planned:
        return ChosenQuarter(planned, estimate_rows(legacy, subject, planned), "as planned")
    rows = estimate_rows(legacy, subject, now)
    if rows > 1:  # the planner never says 0
        return ChosenQuarter(now, rows, "the present one")
    estimates = [(estimate_rows(legacy, subject, quarter), quarter) for quarter in _known_quarters(legacy, subject)]
    if not estimates:
        return ChosenQuarter(now, rows, "the present one")
    most, biggest = max(estimates)
    return ChosenQuarter(biggest, most, f"the biggest, since {now.key} is empty")


def estimate_rows(legacy: Connected, subject: Subject, quarter: FiscalQuarter) -> int:
    """What the planner expects; 1 where it expects none."""
    kind = subject.description.control_kind(subject.spec.control_column)
    query = sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM {} WHERE {}").format(
        table_name(subject.spec.table),
        in_range(subject.spec.control_column, subject.calendar.bound_values(quarter, kind)),
    )
    plan = require_row(legacy.execute(query).fetchone(), "a plan")[0]
    return int(plan[0]["Plan"]["Plan Rows"])


def _known_quarters(legacy: Connected, subject: Subject) -> tuple[FiscalQuarter, ...]:
    """The newest quarters between the ends of the column's histogram, which spares a scan of the table."""
    calendar = subject.calendar
    first, last = calendar_span(calendar)
    row = legacy.execute(
        # Infinite values and years that Python lacks would fail on the way here.
        "SELECT min(bound), max(bound) FROM pg_stats s,"
        " LATERAL unnest(s.histogram_bounds::text::timestamptz[]) AS bound"
        " WHERE s.schemaname = %s AND s.tablename = %s AND s.attname = %s AND bound >= %s AND bound < %s",
        [
            subject.spec.table.schema,
            subject.spec.table.name,
            subject.spec.control_column,
            calendar.bounds(first).lower,
            calendar.bounds(last).upper,
        ],
    ).fetchone()
    oldest, newest = require_row(row, "the ends of a histogram")
    if oldest is None:
        return ()
    return calendar.quarters_between(calendar.quarter_of(oldest), calendar.quarter_of(newest))[-_QUARTERS_EXAMINED:]
