"""Asks the legacy which quarters it has rows of, and how many rows a week has."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from psycopg import sql

from migration_assets.domain.fiscal_calendar import ControlKind, FiscalCalendar, FiscalQuarter, FiscalWeek
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import TableSpec
from migration_assets.postgres.fingerprints import in_range
from migration_assets.postgres.physical_order import read_physical_order
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import table_name

# Makes the planner use an index on the control column; without one it changes nothing.
BY_INDEX = "SELECT set_config('enable_seqscan', 'off', true)"
# The years that Python's dates and the calendar can express, with a year of margin. Preflight finds rows outside.
_YEARS = (2, 9998)


@dataclass(frozen=True)
class SliceMeasure:
    """The size of one slice on the legacy.

    Attributes:
        rows: Estimated by the planner unless `exact`.
        table_bytes: Estimated likewise.
        exact: Whether rows and bytes were counted.
        first: The smallest value of the control column, exact, as text; None where there are no rows.
        last: The largest value, likewise.
        amplification: Pages that are read over pages needed; see `PhysicalOrder.read_amplification`.
    """

    rows: int
    table_bytes: int
    exact: bool
    first: str | None
    last: str | None
    amplification: float


def held_quarters(
    connection: Connected, description: TableDescription, spec: TableSpec, calendar: FiscalCalendar
) -> list[FiscalQuarter]:
    """List the quarters of which the legacy holds at least one row, oldest first.

    With an index on the control column each quarter costs one probe; without one the table is read twice.
    """
    kind = description.control_kind(spec.control_column)
    table = table_name(spec.table)
    column = sql.Identifier(spec.control_column)
    representable = in_range(spec.control_column, (_start_of(_YEARS[0], kind), _start_of(_YEARS[1], kind)))
    row = connection.execute(
        sql.SQL("SELECT min({c}), max({c}) FROM {t} WHERE {w}").format(c=column, t=table, w=representable)
    ).fetchone()
    first, last = require_row(row, "the first and the last booking")
    if first is None:
        return []
    quarters = calendar.quarters_between(_quarter_of(calendar, first), _quarter_of(calendar, last))
    if read_physical_order(connection, spec.table, spec.control_column).control_index is None:
        starts = [calendar.bound_values(quarter, kind)[0] for quarter in quarters]
        found = connection.execute(
            sql.SQL("SELECT DISTINCT width_bucket({c}, ARRAY[{bounds}]) FROM {t} WHERE {w}").format(
                c=column, t=table, w=representable, bounds=sql.SQL(", ").join(sql.Literal(start) for start in starts)
            )
        )
        held = {int(bucket) for (bucket,) in found}
        return [quarter for number, quarter in enumerate(quarters, start=1) if number in held]
    return [
        quarter
        for quarter in quarters
        if require_row(
            connection.execute(
                sql.SQL("SELECT EXISTS (SELECT 1 FROM {t} WHERE {w})").format(
                    t=table, w=in_range(spec.control_column, calendar.bound_values(quarter, kind))
                )
            ).fetchone(),
            "EXISTS",
        )[0]
    ]


def _start_of(year: int, kind: ControlKind) -> date:
    if kind is ControlKind.DATE:
        return date(year, 1, 1)
    return datetime(year, 1, 1, tzinfo=UTC if kind is ControlKind.TIMESTAMPTZ else None)


def _quarter_of(calendar: FiscalCalendar, value: date) -> FiscalQuarter:
    if isinstance(value, datetime):
        return calendar.quarter_of(value) if value.tzinfo else calendar.quarter_of_day(value.date())
    return calendar.quarter_of_day(value)


def estimate_rows(connection: Connected, spec: TableSpec, bounds: Sequence[Any]) -> int:
    """Ask the planner for its estimate of the rows in [lower, upper); reads no row."""
    row = connection.execute(
        sql.SQL("EXPLAIN (FORMAT JSON) SELECT 1 FROM {} WHERE {}").format(
            table_name(spec.table), in_range(spec.control_column, (bounds[0], bounds[1]))
        )
    ).fetchone()
    return int(require_row(row, "EXPLAIN")[0][0]["Plan"]["Plan Rows"])


def measure_slice(
    connection: Connected,
    description: TableDescription,
    spec: TableSpec,
    calendar: FiscalCalendar,
    week: FiscalWeek,
    *,
    exact: bool = False,
) -> SliceMeasure:
    """Measure one slice on the legacy.

    Args:
        connection: On the legacy.
        description: The legacy's table.
        spec: Table and control column.
        calendar: The fiscal calendar.
        week: The slice.
        exact: Count rows and bytes by reading the slice, instead of asking the planner.
    """
    bounds = calendar.bound_values(week, description.control_kind(spec.control_column))
    where = in_range(spec.control_column, bounds)
    table = table_name(spec.table)
    column = sql.Identifier(spec.control_column)
    order = read_physical_order(connection, spec.table, spec.control_column)
    counted = exact or order.control_index is None
    if counted:
        # Without an index, finding first and last costs a scan anyway, so the same scan counts the rows.
        row = connection.execute(
            sql.SQL(
                "SELECT count(*), coalesce(sum(pg_column_size(t.*)), 0), min({c})::text, max({c})::text"
                " FROM {t} AS t WHERE {w}"
            ).format(c=column, t=table, w=where)
        ).fetchone()
        rows, table_bytes, first, last = require_row(row, "a count")
    else:
        row = connection.execute(
            sql.SQL("SELECT min({c})::text, max({c})::text FROM {t} WHERE {w}").format(c=column, t=table, w=where)
        ).fetchone()
        first, last = require_row(row, "the ends of a slice")
        rows = estimate_rows(connection, spec, bounds) if first is not None else 0
        table_bytes = rows * (order.bytes_per_row or 0.0)
    amplification = order.read_amplification(rows / order.rows if order.rows else 0.0)
    return SliceMeasure(int(rows), int(table_bytes), counted, first, last, amplification)


def large_weeks(
    legacy: Connected,
    description: TableDescription,
    spec: TableSpec,
    calendar: FiscalCalendar,
    weeks: Iterable[FiscalWeek],
    *,
    most: int,
) -> dict[FiscalWeek, int]:
    """Find the weeks of which the legacy holds more than `most` rows, with about how many.

    With an index on the control column, the planner's estimate is checked by a count of at most `most` + 1 rows.
    Without one the estimate is taken as it is. If it is too high, the week is copied first; if it is too low, the
    stream pauses for longer while the rows are trued up. Both give a correct result.
    """
    kind = description.control_kind(spec.control_column)
    indexed = read_physical_order(legacy, spec.table, spec.control_column).control_index is not None
    found: dict[FiscalWeek, int] = {}
    for week in weeks:
        bounds = calendar.bound_values(week, kind)
        rows = estimate_rows(legacy, spec, bounds)
        if indexed:
            counted = _capped_count(legacy, spec, bounds, most)
            rows = counted if counted <= most else max(rows, counted)
        # The planner never estimates fewer than 1 row.
        if rows > (most if indexed else max(most, 1)):
            found[week] = rows
    return found


def _capped_count(legacy: Connected, spec: TableSpec, bounds: tuple[Any, Any], most: int) -> int:
    """Count up to `most` + 1 rows by the index, even where the planner would prefer to scan the table."""
    with legacy.transaction():
        legacy.execute(BY_INDEX)
        row = legacy.execute(
            sql.SQL("SELECT count(*) FROM (SELECT FROM {} WHERE {} LIMIT {}) AS capped").format(
                table_name(spec.table), in_range(spec.control_column, bounds), sql.Literal(most + 1)
            )
        ).fetchone()
    return int(require_row(row, "a count")[0])
