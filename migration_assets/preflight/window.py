"""Examines sizes, physical order and speed: does the quarter fit into the maintenance window?

The quarter is chosen by the planner's estimates alone. Speed comes from copies that the ledger knows, else from a short
timed reading.
"""

import time
from dataclasses import dataclass

from psycopg import errors, sql

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.fiscal_calendar import WEEKS_PER_QUARTER, FiscalQuarter
from migration_assets.domain.table_spec import quote_identifier
from migration_assets.ledger.own_objects import ledger_has
from migration_assets.ledger.slices import NewestCopy, read_slices
from migration_assets.postgres.fingerprints import in_range
from migration_assets.postgres.physical_order import PhysicalOrder
from migration_assets.postgres.sessions import Connected, require_row, set_limits
from migration_assets.postgres.sql_text import table_name
from migration_assets.preflight.data import calendar_span
from migration_assets.preflight.plan import Subject, info, judge, size

_QUARTERS_EXAMINED = 200


@dataclass(frozen=True)
class ChosenQuarter:
    """The quarter, the planner's estimate of its rows (None if the table was never analyzed), and why it was chosen."""

    quarter: FiscalQuarter
    rows: int | None
    why: str

    def fraction_of(self, order: PhysicalOrder) -> float | None:
        """Return the quarter's fraction of all rows, 0..1; None where either number is unknown or zero."""
        return min(1.0, self.rows / order.rows) if self.rows and order.rows else None


def choose_quarter(legacy: Connected, subject: Subject, order: PhysicalOrder) -> ChosenQuarter:
    """Choose the planned quarter; else that of `as_of`; else, where that is empty, the biggest one."""
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
    """Return the number of rows that the planner expects; 1 where it expects none."""
    kind = subject.description.control_kind(subject.spec.control_column)
    query = sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM {} WHERE {}").format(
        table_name(subject.spec.table),
        in_range(subject.spec.control_column, subject.calendar.bound_values(quarter, kind)),
    )
    plan = require_row(legacy.execute(query).fetchone(), "a plan")[0]
    return int(plan[0]["Plan"]["Plan Rows"])


def _known_quarters(legacy: Connected, subject: Subject) -> tuple[FiscalQuarter, ...]:
    """Return the newest quarters within the column's histogram, which avoids a scan of the table."""
    calendar = subject.calendar
    first, last = calendar_span(calendar)
    row = legacy.execute(
        # Infinite values and years that Python cannot represent would raise when they are read.
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


# A copy with primary key, index and both fingerprints took 4.5 times as long as reading the same million rows of
# 850 bytes (10.3 s against 2.3 s, two copies on two shared cores). One part of the 4.5 is the reading itself.
_WORK_PER_READING = 4.5
_REPRESENTATIVE_BYTES = 16_000_000
_GUESSED_ROW_BYTES = 1000


@dataclass(frozen=True)
class Speed:
    """What one copy alone achieves.

    Attributes:
        bytes_per_second: Bytes of heap and TOAST in a second.
        whole_copies: Whether whole copies were measured, disorder on disk included, or only reading.
        representative: Whether enough was measured to judge a rate by it.
        evidence: What was measured and what is assumed.
    """

    bytes_per_second: float
    whole_copies: bool
    representative: bool
    evidence: str

    def seconds_for(self, total: float, amplification: float, copies: int) -> float:
        """Return the seconds that `copies` at once take for `total` bytes."""
        work = 1.0 if self.whole_copies else amplification + _WORK_PER_READING - 1.0
        return total * work / (self.bytes_per_second * copies)


def measured_speed(base: Connected, relation: str) -> Speed | None:
    """Return the speed of the copies in the ledger; None where there are none to measure."""
    if not ledger_has(base, "slices"):
        return None
    known = read_slices(base, relation)
    copies = [r.copied for r in known if r.copied and r.copied.table_bytes and r.base and r.base.rows]
    copies = [copied for copied in copies if _seconds(copied) > 0]
    if not copies:
        return None
    total = sum(copied.table_bytes for copied in copies)
    seconds = sum(_seconds(copied) for copied in copies)
    return Speed(
        total / seconds,
        whole_copies=True,
        representative=total >= _REPRESENTATIVE_BYTES,
        evidence=f"the ledger has {len(copies)} copies of {size(total)} in {seconds:,.1f} s: {size(total / seconds)}/s"
        " a copy, with indexes and both fingerprints",
    )


def sample_speed(legacy: Connected, subject: Subject, order: PhysicalOrder, quarter: FiscalQuarter) -> Speed | None:
    """Measure how fast some rows of the quarter are read by COPY; None where no row arrived in time."""
    plan, spec, description = subject.plan, subject.spec, subject.description
    row_bytes = order.bytes_per_row or _GUESSED_ROW_BYTES
    where: sql.Composable = sql.SQL("true")
    if order.control_index is not None:
        bounds = subject.calendar.bound_values(quarter, description.control_kind(spec.control_column))
        where = in_range(spec.control_column, bounds)
    query = sql.SQL("COPY (SELECT {} FROM {} WHERE {} LIMIT {}) TO STDOUT (FORMAT {})").format(
        sql.SQL(", ").join(sql.Identifier(column.name) for column in description.copied_columns),
        table_name(spec.table),
        where,
        sql.Literal(max(1, int(plan.sample_bytes / row_bytes))),
        sql.SQL("binary" if description.binary_copy else "text"),
    )
    messages = wire = 0
    start = time.perf_counter()
    try:
        with legacy.transaction(force_rollback=True):
            # The server ends the sample: it sees the time pass even while it finds no row to send.
            set_limits(legacy, statement=plan.sample_seconds * 1000)
            with legacy.cursor() as cursor:
                with cursor.copy(query) as rows:
                    for message in rows:
                        messages += 1
                        wire += len(message)
                # The server's own count excludes header and trailer; it is missing when time ran out.
                messages = cursor.rowcount
    except errors.QueryCanceled:
        pass
    seconds = time.perf_counter() - start
    if not wire or not messages:
        return None
    read = messages * row_bytes
    return Speed(
        read / seconds,
        whole_copies=False,
        representative=read >= _REPRESENTATIVE_BYTES,
        evidence=f"a sample of {messages:,} rows ({size(wire)} on the wire, {size(read)} on disk) was read in"
        f" {seconds:.2f} s: {size(read / seconds)}/s, from a cache that may have been warm. Writing, indexes and both"
        f" fingerprints are assumed to take {_WORK_PER_READING - 1:g} times as long again, as measured elsewhere",
    )


def _seconds(copied: NewestCopy) -> float:
    """Time that the copy took: the legacy's fingerprint runs beside the base's indexes and fingerprint."""
    phases = dict(copied.seconds)
    beside = phases.pop("legacy fingerprint", 0.0)
    on_base = phases.pop("indexes", 0.0) + phases.pop("base fingerprint", 0.0)
    return sum(phases.values()) + max(beside, on_base)


_TOLERABLE_AMPLIFICATION = 3.0


def examine_sizes(legacy: Connected, subject: Subject, order: PhysicalOrder) -> list[Finding]:
    """Examine heap, TOAST and indexes, and whether the planner's figures can be used at all."""
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
    """Examine the index that finds a week, and what reading a week costs with it."""
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
        " cached for the next one, and expect the copy to take that much longer. CLUSTER would sort the table, but"
        " locks it for as long as it takes: it is not online"
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
    """Compare the estimate with the window's length and with the target rate."""
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
        "raise MIGRATION_PARALLEL_COPIES while cores and disks are idle, resolve physical_order and control_index, copy"
        " closed weeks before the window (the change stream keeps them exact), or lengthen the window"
    )
    about = f"{chosen.quarter.key} ({chosen.why}): about {chosen.rows:,} rows, {size(total)} of heap and TOAST"
    assumed = f"{speed.evidence}; {plan.parallel_copies} copies at once are assumed to be that many times as fast"
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
