"""The legacy's last fingerprints: the reverse stream is drained and stopped first, so that nothing comes after them."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

from psycopg import sql

from migration_assets.cutover.accounting import weeks_of
from migration_assets.cutover.left_weeks import why_not_archived
from migration_assets.cutover.reverse import stop_reverse
from migration_assets.cutover.reverse_cut import ReverseCut, reverse_cut
from migration_assets.decommission.plan import DecommissionPlan
from migration_assets.domain.decommission_state import DecommissionError
from migration_assets.domain.fingerprint import EMPTY, METHOD, Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalWeek
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import TableSpec
from migration_assets.ledger.slices import read_slices
from migration_assets.ledger.stream import StreamNames
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.fingerprints import SEEDS, hashed_columns, row_hash
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import raw_sql, table_name
from migration_assets.retirement.brought import difference


def stop_stale(legacy: Connected, plan: DecommissionPlan, names: StreamNames) -> None:
    """Stop a reverse stream that is not whole, which a person accepted; nothing comes any more."""
    stop_reverse(legacy, names, patience=_countdown(max(10.0, plan.cutover.patience_seconds)))


def stopped_stream(legacy: Connected, names: StreamNames) -> str | None:
    """What stays the same as long as nobody enables the stopped subscription again; None where it is not stopped."""
    row = legacy.execute(
        "SELECT oid::text || '/' || xmin::text FROM pg_subscription WHERE subname = %s AND NOT subenabled"
        " AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
        [names.subscription],
    ).fetchone()
    return None if row is None else str(row[0])


@contextmanager
def stopped_at_cut(plan: DecommissionPlan, names: StreamNames) -> Generator[ReverseCut]:
    """The reverse stream rests at a cut, and stays there: what the legacy has now is its last state.

    Raises:
        CutoverError: The stream does not bring a marker to the legacy, or no moment for a cut came.
    """
    cutover = plan.cutover
    if plan.accept_stale:
        # A stream that is known to lag gets no more time than the marker of a healthy one needs.
        limits = replace(cutover.stream.limits, stream_patience_seconds=cutover.lag_seconds)
        cutover = replace(cutover, stream=replace(cutover.stream, limits=limits))
    with reverse_cut(cutover, names, "decommission", at_rest=True, for_good=True) as cut:
        yield cut


def take_final(
    base: Connected, legacy: Connected, plan: DecommissionPlan, *, cut: ReverseCut | None, stopped: str | None
) -> dict[str, Any]:
    """The fingerprints of all rows, by fiscal week and in total, out of one scan; numbers as text.

    Where there is a cut, every row is accounted for: it is in the base's snapshot there, or in an equal archive.

    Raises:
        DecommissionError: Some are not; names the weeks and what to do.
    """
    description = require_table(legacy, plan.spec.table, "legacy")
    weeks = [record.week for record in read_slices(base, plan.relation)]
    calendar = plan.cutover.stream.calendar
    found, outside = fingerprint_weeks(legacy, plan.spec, calendar, description, weeks)
    if cut is not None:
        of_base = fingerprint_weeks(cut.base, plan.spec, calendar, description, weeks)
        _require_accounted(base, plan, (found, outside), of_base)
    total = sum(found.values(), outside)
    at, lsn = require_row(
        legacy.execute("SELECT clock_timestamp()::text, pg_current_wal_lsn()::text").fetchone(), "a position"
    )
    return {
        "method": METHOD,
        "taken_at": at,
        "lsn": lsn,
        "marker": None if cut is None else str(cut.marker),
        "stream": stopped,
        "accounted": cut is not None,
        "total": _text(total),
        "outside": _text(outside),
        "weeks": {week.key: _text(one) for week, one in found.items() if one.rows},
    }


_Fingerprints: TypeAlias = tuple[Mapping[FiscalWeek, Fingerprint], Fingerprint]


def _require_accounted(
    base: Connected, plan: DecommissionPlan, of_legacy: _Fingerprints, of_base: _Fingerprints
) -> None:
    wrong: list[str] = []
    steps: list[str] = []
    weeks = weeks_of(base, plan.cutover)
    left = {one.record.week: one for one in weeks.left}
    for week, legacy in of_legacy[0].items():
        key = f"{week.quarter.key} {week.name}"
        if week in left:
            why = why_not_archived(left[week], legacy)
            if why is not None:
                wrong.append(why)
                steps.append(f"`migration-assets restore {key}`, then `migration-assets repair-legacy {key}`")
        elif legacy != of_base[0][week]:
            wrong.append(f"{week.key}: the legacy has {difference(legacy, of_base[0][week])} the base")
            steps.append(f"`migration-assets repair-legacy {key}` shows the rows, and with --apply mends them")
    for side, one in (("legacy", of_legacy[1]), ("base", of_base[1])):
        if one.rows:
            wrong.append(f"{one.rows:,} row{'' if one.rows == 1 else 's'} of the {side} at times that no week has")
            steps.append("`migration-assets repair-legacy --outside` shows those of the legacy")
    if wrong:
        raise DecommissionError(
            "the legacy has not what the base and the archives hold: " + "; ".join(wrong),
            where=plan.relation,
            state_left="nothing was closed; the reverse stream goes on",
            next_step="; ".join(dict.fromkeys(steps)) + "; then run this again",
        )


def fingerprint_weeks(
    legacy: Connected,
    spec: TableSpec,
    calendar: FiscalCalendar,
    description: TableDescription,
    weeks: Sequence[FiscalWeek],
) -> tuple[dict[FiscalWeek, Fingerprint], Fingerprint]:
    """One statement, and so one snapshot and one scan: each week's fingerprint, and that of rows in none of them."""
    kind = description.control_kind(spec.control_column)
    lowers: dict[Any, FiscalWeek] = {calendar.bound_values(week, kind)[0]: week for week in weeks}
    bounds: list[Any] = sorted({bound for week in weeks for bound in calendar.bound_values(week, kind)})
    control = description.column(spec.control_column)
    base_type = raw_sql(control.base_type)
    # No week at all: every row lies outside.
    bucket = sql.SQL("width_bucket({}::{}, {}::{}[])").format(
        sql.Identifier(control.name), base_type, sql.Literal(bounds), base_type
    ) if bounds else sql.SQL("0")  # fmt: skip
    rows = legacy.execute(
        sql.SQL(
            "SELECT bucket, count(*), sum(hashtextextended(h, {a})), sum(hashtextextended(h, {b}))"
            " FROM (SELECT {bucket} AS bucket, {hash} AS h FROM {table} OFFSET 0) AS rows GROUP BY bucket"
        ).format(
            a=SEEDS[0],
            b=SEEDS[1],
            bucket=bucket,
            hash=row_hash(hashed_columns(description)),
            table=table_name(spec.table),
        )
    ).fetchall()
    found: dict[FiscalWeek, Fingerprint] = dict.fromkeys(sorted(weeks), EMPTY)
    outside = EMPTY
    for number, *sums in rows:
        week = lowers.get(bounds[number - 1]) if number else None
        if week is None:
            outside += Fingerprint.from_row(*sums)
        else:
            found[week] += Fingerprint.from_row(*sums)
    return found, outside


def _text(one: Fingerprint) -> dict[str, str]:
    return {"rows": str(one.rows), "sum_a": str(one.sum_a), "sum_b": str(one.sum_b)}


def _countdown(seconds: float) -> Callable[[], float]:
    end = time.monotonic() + seconds
    return lambda: end - time.monotonic()
