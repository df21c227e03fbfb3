"""Examines the control column: values that no week can hold, and rows for which the base has no place yet."""

import time
from dataclasses import dataclass
from datetime import date
from typing import Any

from psycopg import errors, sql

from migration_assets.domain.errors import CalendarError
from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.fiscal_calendar import (
    FIRST_LABEL_YEAR,
    LAST_LABEL_YEAR,
    QUARTERS_PER_YEAR,
    ControlKind,
    FiscalCalendar,
    FiscalQuarter,
)
from migration_assets.domain.table_spec import quote_identifier
from migration_assets.postgres.physical_order import PhysicalOrder
from migration_assets.postgres.sessions import Connected, require_row, set_limits
from migration_assets.postgres.sql_text import raw_sql, table_name
from migration_assets.preflight.plan import Subject, info, judge
from migration_assets.quarters.runway import attached_leaves, read_partitions

_COUNT_CAP = 100_000
_EXAMPLES = 5


@dataclass(frozen=True)
class _Counted:
    """Rows that meet one condition; `examples` are their keys and control values as text."""

    rows: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        # With an index, counting stops above the cap: the figure only has to be informative.
        return f"more than {_COUNT_CAP:,} rows" if self.rows > _COUNT_CAP else f"{self.rows:,} rows"

    @property
    def shown(self) -> str:
        """Return the count with examples."""
        return f"{self} (e.g. {'; '.join(self.examples)})" if self.examples else str(self)


def calendar_span(calendar: FiscalCalendar) -> tuple[FiscalQuarter, FiscalQuarter]:
    """Return the first and the last quarter that the calendar can express."""

    def fits(quarter: FiscalQuarter) -> bool:
        try:
            calendar.bounds(quarter)
        except CalendarError:
            return False
        return True

    first = FiscalQuarter(FIRST_LABEL_YEAR, 1).ordinal
    last = FiscalQuarter(LAST_LABEL_YEAR, QUARTERS_PER_YEAR).ordinal
    upward = (FiscalQuarter.from_ordinal(number) for number in range(first, last + 1))
    downward = (FiscalQuarter.from_ordinal(number) for number in range(last, first - 1, -1))
    return next(filter(fits, upward)), next(filter(fits, downward))


def examine_data(legacy: Connected, subject: Subject, order: PhysicalOrder) -> list[Finding]:
    """Count rows without a week, by an index that begins with the control column, else in one scan of the table."""
    conditions = _conditions(subject)
    start = time.perf_counter()
    try:
        with legacy.transaction(force_rollback=True):
            set_limits(legacy, statement=subject.plan.scan_seconds * 1000)
            if order.control_index is not None:
                # The planner's statistics may not know the few odd values that are searched here.
                legacy.execute("SELECT set_config('enable_seqscan', 'off', true)")
                counted = {name: _by_index(legacy, subject, where) for name, where in conditions.items()}
                how = f"by index {order.control_index}"
            else:
                counted = _by_scan(legacy, subject, conditions)
                how = f"by a full scan of {order.pages:,} pages"
    except errors.QueryCanceled:
        return [
            judge(
                "control_values",
                Area.DATA,
                f"not examined: reading {subject.spec.control_column} took longer than {subject.plan.scan_seconds:g} s",
                good=False,
                remedy=_index_statement(subject) + " -- then this takes milliseconds",
                severity=Severity.WARNING,
            )
        ]
    how += f" in {time.perf_counter() - start:.2f} s"
    return _findings(subject, counted, how)


def _conditions(subject: Subject) -> dict[str, sql.Composable]:
    calendar = subject.calendar
    kind = subject.description.control_kind(subject.spec.control_column)
    first, last = calendar_span(calendar)
    now = calendar.quarter_of(subject.plan.as_of)
    year_ahead = FiscalQuarter.from_ordinal(min(now.ordinal + QUARTERS_PER_YEAR, last.ordinal))
    column = sql.Identifier(subject.spec.control_column)

    def start(quarter: FiscalQuarter) -> sql.Literal:
        return sql.Literal(calendar.bound_values(quarter, kind)[0])

    def end(quarter: FiscalQuarter) -> sql.Literal:
        return sql.Literal(calendar.bound_values(quarter, kind)[1])

    def where(text: str, **values: sql.Composable) -> sql.Composed:
        return sql.SQL(text).format(c=column, **values)  # pyright: ignore[reportArgumentType]

    return {
        "null": where("{c} IS NULL"),
        "infinite": where("{c} IN ('infinity', '-infinity')"),
        "before": where("{c} < {x} AND {c} > '-infinity'", x=start(first)),
        "beyond": where("{c} >= {x} AND {c} < 'infinity'", x=end(last)),
        "ahead": where("{c} >= {x} AND {c} < {y}", x=end(now), y=end(last)),
        "far_ahead": where("{c} >= {x} AND {c} < {y}", x=end(year_ahead), y=end(last)),
    }


def _key_text(subject: Subject) -> sql.Composable:
    names = dict.fromkeys((*subject.description.primary_key, subject.spec.control_column))
    parts = [sql.SQL("{} || {}::text").format(sql.Literal(f"{name}="), sql.Identifier(name)) for name in names]
    return sql.SQL("concat_ws(' ', {})").format(sql.SQL(", ").join(parts))


def _table(subject: Subject) -> sql.Identifier:
    return table_name(subject.spec.table)


def _by_index(legacy: Connected, subject: Subject, where: sql.Composable) -> _Counted:
    count = sql.SQL("SELECT count(*) FROM (SELECT FROM {} WHERE {} LIMIT {}) AS capped").format(
        _table(subject), where, sql.Literal(_COUNT_CAP + 1)
    )
    rows = int(require_row(legacy.execute(count).fetchone(), "a count")[0])
    if not rows:
        return _Counted(0, ())
    examples = sql.SQL("SELECT {} FROM {} WHERE {} LIMIT {}").format(
        _key_text(subject), _table(subject), where, sql.Literal(_EXAMPLES)
    )
    return _Counted(rows, tuple(row[0] for row in legacy.execute(examples)))


def _by_scan(legacy: Connected, subject: Subject, conditions: dict[str, sql.Composable]) -> dict[str, _Counted]:
    # One pass for all conditions; the smallest key as text is an example that needs no memory.
    parts = sql.SQL(", ").join(
        sql.SQL("count(*) FILTER (WHERE {w}), min({key}) FILTER (WHERE {w})").format(w=where, key=_key_text(subject))
        for where in conditions.values()
    )
    query = sql.SQL("SELECT {} FROM {}").format(parts, _table(subject))
    row: tuple[Any, ...] = require_row(legacy.execute(query).fetchone(), "the counts")
    pairs = zip(row[::2], row[1::2], strict=True)
    return {
        name: _Counted(int(rows), (example,) if example else ())
        for name, (rows, example) in zip(conditions, pairs, strict=True)
    }


def _findings(subject: Subject, counted: dict[str, _Counted], how: str) -> list[Finding]:
    name, table = quote_identifier(subject.spec.control_column), subject.spec.table
    declared = subject.description.column(subject.spec.control_column).not_null
    nulls, infinite, before, beyond = (counted[key] for key in ("null", "infinite", "before", "beyond"))
    first, last = calendar_span(subject.calendar)
    now = subject.calendar.quarter_of(subject.plan.as_of)
    findings = [
        judge(
            "control_nulls",
            Area.DATA,
            f"{nulls.shown} where {name} is NULL, {how}; it is {'' if declared else 'not '}declared NOT NULL",
            good=declared and not nulls.rows,
            remedy=(f"give the rows with {name} IS NULL a time, or delete them; then " if nulls.rows else "")
            + f"ALTER TABLE {table} ADD CONSTRAINT control_not_null CHECK ({name} IS NOT NULL) NOT VALID; ALTER TABLE"
            f" {table} VALIDATE CONSTRAINT control_not_null; ALTER TABLE {table} ALTER COLUMN {name} SET NOT NULL;",
            severity=Severity.BLOCKING if nulls.rows else Severity.WARNING,
        ),
        judge(
            "control_infinities",
            Area.DATA,
            f"{infinite.shown} where {name} is infinite, {how}",
            good=not infinite.rows,
            remedy=f"give the rows WHERE {name} IN ('infinity', '-infinity') a real time, or delete them: they belong"
            " to no week",
        ),
        judge(
            "outside_calendar",
            Area.DATA,
            f"{before.shown} before {first.key}, {beyond.shown} after {last.key}, {how}: the calendar ends there",
            good=not before.rows and not beyond.rows,
            remedy=f"give these rows a real {name}, or delete them: they belong to no week",
        ),
    ]
    ahead, far = counted["ahead"], counted["far_ahead"]
    return [*findings, _ahead(ahead, far, f"after {now.key}, the quarter of {subject.plan.as_of:%Y-%m-%d}, {how}")]


def _ahead(ahead: _Counted, far: _Counted, where: str) -> Finding:
    if not ahead.rows:
        return info("rows_ahead", Area.DATA, f"0 rows {where}")
    evidence = f"{ahead.shown} {where}; more than four quarters ahead: {far.shown}"
    return judge(
        "rows_ahead",
        Area.DATA,
        evidence,
        good=not far.rows,
        remedy="open the quarters of these rows too (materialize quarter_partitions for each), or correct the rows",
        severity=Severity.WARNING,
    )


def _index_statement(subject: Subject) -> str:
    column = quote_identifier(subject.spec.control_column)
    return f"CREATE INDEX CONCURRENTLY ON {subject.spec.table} ({column});"


_CODE = "beyond_last_partition"
_CAP = 10_000
_TYPES = {ControlKind.TIMESTAMPTZ: "timestamptz", ControlKind.TIMESTAMP: "timestamp", ControlKind.DATE: "date"}
_REMEDY = (
    "the stream does not stop for them: they are not published before their quarter is open; open it (quarter_opener"
    " does so in time, or materialize quarter_partitions, then change_stream), or correct {} where it is a mistake"
)


def examine_runway(legacy: Connected, base: Connected, subject: Subject, order: PhysicalOrder) -> list[Finding]:
    """Examine rows beyond the last open partition, by index or else by the statistics; never by a scan."""
    weeks = attached_leaves(subject.spec.table, read_partitions(base, subject.spec.table))
    if not weeks:
        return [info(_CODE, Area.DATA, "no quarter is open in the base yet")]
    last = max(weeks)
    kind = subject.description.control_kind(subject.spec.control_column)
    end = subject.calendar.bound_values(last, kind)[1]
    try:
        with legacy.transaction(force_rollback=True):
            set_limits(legacy, statement=subject.plan.scan_seconds * 1000)
            legacy.execute("SELECT set_config('enable_seqscan', 'off', true)")
            found = _counted(legacy, subject, end) if order.control_index else _known(legacy, subject, kind, end)
    except errors.QueryCanceled:
        found = None, f"not known: the query took longer than {subject.plan.scan_seconds:g} s"
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
    """Judge by what ANALYZE last saw: an estimate, which may miss a few rows and all later ones."""
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
