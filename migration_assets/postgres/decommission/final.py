"""The legacy's last fingerprints: the reverse stream is drained and stopped first, so that nothing comes after them."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from psycopg import sql

from migration_assets.domain.decommission_state import DecommissionError
from migration_assets.domain.fingerprint import EMPTY, METHOD, Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalWeek
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import TableSpec
from migration_assets.postgres.change_stream.records import StreamNames
from migration_assets.postgres.cutover.reverse import reverse_arrived, send_reverse_marker, stop_reverse
from migration_assets.postgres.decommission.plan import DecommissionPlan
from migration_assets.postgres.fingerprints import SEEDS, hashed_columns, row_hash
from migration_assets.postgres.introspection import require_table
from migration_assets.postgres.ledger import read_slices
from migration_assets.postgres.retries import wait_until
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import raw_sql, table_name


def drain_and_stop(base: Connected, legacy: Connected, plan: DecommissionPlan, names: StreamNames) -> int | None:
    """Everything that the base committed before the call is on the legacy, and nothing comes any more.

    Returns:
        The marker that says so; None where a stream that is not whole was accepted.

    Raises:
        DecommissionError: The marker does not arrive.
    """
    marker = send_reverse_marker(base, plan.relation)
    # A stale one is given what a marker of a whole one needs.
    seconds = plan.cutover.lag_seconds if plan.accept_stale else plan.cutover.stream.limits.stream_patience_seconds
    arrived = wait_until(lambda: reverse_arrived(legacy, plan.relation, marker), seconds=seconds)
    if not arrived and not plan.accept_stale:
        raise DecommissionError(
            "the reverse stream did not bring its marker to the legacy",
            where=plan.relation,
            state_left="nothing was closed; the reverse stream goes on",
            next_step="`migration-assets stream status` says why; then run this again",
        )
    stop_reverse(legacy, names, patience=_countdown(max(10.0, plan.cutover.patience_seconds)))
    return marker if arrived else None


def stopped_stream(legacy: Connected, names: StreamNames) -> str | None:
    """What stays the same as long as nobody enables the stopped subscription again; None where it is not stopped."""
    row = legacy.execute(
        "SELECT oid::text || '/' || xmin::text FROM pg_subscription WHERE subname = %s AND NOT subenabled"
        " AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
        [names.subscription],
    ).fetchone()
    return None if row is None else str(row[0])


def take_final(
    base: Connected, legacy: Connected, plan: DecommissionPlan, *, marker: int | None, stopped: str | None
) -> dict[str, Any]:
    """The fingerprints of all rows, by fiscal week and in total, out of one scan; numbers as text."""
    description = require_table(legacy, plan.spec.table, "legacy")
    weeks = [record.week for record in read_slices(base, plan.relation)]
    calendar = plan.cutover.stream.calendar
    found, outside = fingerprint_weeks(legacy, plan.spec, calendar, description, weeks)
    total = sum(found.values(), outside)
    at, lsn = require_row(
        legacy.execute("SELECT clock_timestamp()::text, pg_current_wal_lsn()::text").fetchone(), "a position"
    )
    return {
        "method": METHOD,
        "taken_at": at,
        "lsn": lsn,
        "marker": None if marker is None else str(marker),
        "stream": stopped,
        "total": _text(total),
        "outside": _text(outside),
        "weeks": {week.key: _text(one) for week, one in found.items() if one.rows},
    }


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
