"""Examines whether the legacy holds rows that the base has no place for yet: beyond the last open partition."""

from datetime import date
from typing import Any

from psycopg import errors, sql

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.fiscal_calendar import ControlKind
from migration_assets.postgres.physical_order import PhysicalOrder
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import raw_sql, table_name
from migration_assets.preflight.plan import Subject
from migration_assets.preflight.wording import info, judge, milliseconds
from migration_assets.quarters.runway import attached_leaves, read_partitions

_CODE = "beyond_last_partition"
_CAP = 10_000
_TYPES = {ControlKind.TIMESTAMPTZ: "timestamptz", ControlKind.TIMESTAMP: "timestamp", ControlKind.DATE: "date"}
_REMEDY = (
    "the stream does not stop for them: they are not published before their quarter is; open it (quarter_opener does so"
    " in time, or materialize quarter_partitions, then change_stream), or correct {} where no such time was meant"
)


def examine_runway(legacy: Connected, base: Connected, subject: Subject, order: PhysicalOrder) -> list[Finding]:
    """Counted by an index where one begins with the control column, else read from the statistics; never by a scan."""
    weeks = attached_leaves(subject.spec.table, read_partitions(base, subject.spec.table))
    if not weeks:
        return [info(_CODE, Area.DATA, "no quarter is open in the base yet")]
    last = max(weeks)
    kind = subject.description.control_kind(subject.spec.control_column)
    end = subject.calendar.bound_values(last, kind)[1]
    try:
        with legacy.transaction(force_rollback=True):
            legacy.execute(
                "SELECT set_config('statement_timeout', %s, true), set_config('enable_seqscan', 'off', true)",
                [milliseconds(subject.plan.scan_seconds)],
            )
            found = _counted(legacy, subject, end) if order.control_index else _known(legacy, subject, kind, end)
    except errors.QueryCanceled:
        found = None, f"not known: asking took longer than {subject.plan.scan_seconds:g} s"
    there, evidence = found
    return [
        judge(
            _CODE,
            Area.DATA,
            f"{evidence}; the last open partition is {last.key}, to {end}",
            good=not there,
            remedy=_REMEDY.format(subject.spec.control_column),
            severity=Severity.WARNING,
        )
    ]


def _counted(legacy: Connected, subject: Subject, end: date) -> tuple[bool, str]:
    row = legacy.execute(
        sql.SQL(
            "SELECT count(*), max(c)::text FROM (SELECT {c} AS c FROM {t} WHERE {c} >= {end} AND {c} < 'infinity'"
            " LIMIT {cap}) AS capped"
        ).format(
            c=sql.Identifier(subject.spec.control_column),
            t=table_name(subject.spec.table),
            end=sql.Literal(end),
            cap=sql.Literal(_CAP),
        )
    ).fetchone()
    rows, newest = require_row(row, "a count")
    many = f"{rows:,}{' or more' if rows == _CAP else ''} rows lie beyond it"
    return rows > 0, f"{many}, e.g. {newest}" if rows else "no row lies beyond it"


def _known(legacy: Connected, subject: Subject, kind: ControlKind, end: date) -> tuple[bool | None, str]:
    """What ANALYZE last saw: an estimate, which may have missed a few rows and all that came later."""
    row: tuple[Any, ...] = require_row(
        legacy.execute(
            sql.SQL(
                "SELECT count(v), max(v)::text, coalesce(max(v) >= {end}, false) FROM pg_stats s,"
                " unnest(coalesce(s.histogram_bounds::text::{type}[], '{{}}')"
                " || coalesce(s.most_common_vals::text::{type}[], '{{}}')) AS v"
                " WHERE s.schemaname = {schema} AND s.tablename = {table} AND s.attname = {column}"
                " AND v < 'infinity'"
            ).format(
                end=sql.Literal(end),
                type=raw_sql(_TYPES[kind]),
                schema=sql.Literal(subject.spec.table.schema),
                table=sql.Literal(subject.spec.table.name),
                column=sql.Literal(subject.spec.control_column),
            )
        ).fetchone(),
        "statistics",
    )
    values, newest, beyond = row
    if not values:
        return None, "not known: no index begins with the control column, and the table was never analyzed"
    seen = f"the newest row that ANALYZE saw is of {newest} (an estimate: no index begins with the control column)"
    return bool(beyond), f"rows lie beyond it: {seen}" if beyond else f"no row is known to lie beyond it: {seen}"
