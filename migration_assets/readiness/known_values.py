"""What ANALYZE last saw of the control column: all that is known of it where reading would take too long."""

from datetime import UTC, date, datetime, time

from psycopg import sql

from migration_assets.domain.fiscal_calendar import ControlKind
from migration_assets.postgres.sql_text import raw_sql
from migration_assets.readiness.sides import Sides

_TYPES = {ControlKind.TIMESTAMPTZ: "timestamptz", ControlKind.TIMESTAMP: "timestamp", ControlKind.DATE: "date"}


def sampled_values(sides: Sides, condition: sql.Composable) -> tuple[int, int]:
    """How many values ANALYZE kept of the legacy's column, and how many of them meet `condition` on `v`."""
    kind = sides.of_legacy.control_kind(sides.spec.control_column)
    row = sides.legacy.execute(
        sql.SQL(
            "SELECT count(*), count(*) FILTER (WHERE {condition}) FROM pg_stats s,"
            " unnest(coalesce(s.histogram_bounds::text::{type}[], '{{}}')"
            " || coalesce(s.most_common_vals::text::{type}[], '{{}}')) AS v"
            " WHERE s.schemaname = {schema} AND s.tablename = {table} AND s.attname = {column}"
        ).format(
            condition=condition,
            type=raw_sql(_TYPES[kind]),
            schema=sql.Literal(sides.spec.table.schema),
            table=sql.Literal(sides.spec.table.name),
            column=sql.Literal(sides.spec.control_column),
        )
    ).fetchone()
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


def values_in_statistics(sides: Sides) -> list[datetime]:
    """Finite values that ANALYZE kept, as instants of the calendar's zone."""
    kind = sides.of_legacy.control_kind(sides.spec.control_column)
    rows = sides.legacy.execute(
        sql.SQL(
            "SELECT v FROM pg_stats s, unnest(coalesce(s.histogram_bounds::text::{type}[], '{{}}')"
            " || coalesce(s.most_common_vals::text::{type}[], '{{}}')) AS v"
            " WHERE s.schemaname = {schema} AND s.tablename = {table} AND s.attname = {column}"
            " AND v > '0002-01-01' AND v < '9998-01-01'"
        ).format(
            type=raw_sql(_TYPES[kind]),
            schema=sql.Literal(sides.spec.table.schema),
            table=sql.Literal(sides.spec.table.name),
            column=sql.Literal(sides.spec.control_column),
        )
    ).fetchall()
    return [_instant(row[0], sides) for row in rows]


def _instant(value: date, sides: Sides) -> datetime:
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=sides.calendar.zone)
    return datetime.combine(value, time(), tzinfo=sides.calendar.zone)
