"""What our sessions are doing now, as the base itself tells it: needs no channel to the processes that work."""

import re
from dataclasses import dataclass

from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.postgres.sessions import Connected, application_name

_PURPOSE = re.compile(r"^(FY\d+-Q\d\|W\d\d):([\w-]+)$")


@dataclass(frozen=True)
class Activity:
    """One slice at work: its phase, and rows and bytes so far while it is being copied."""

    week: FiscalWeek
    phase: str
    rows: int
    wire_bytes: int
    seconds: float


def current_activity(base: Connected) -> dict[FiscalWeek, Activity]:
    """The slices that sessions of this database work on now."""
    prefix = application_name("")
    found = base.execute(
        "SELECT a.application_name, coalesce(p.tuples_processed, 0), coalesce(p.bytes_processed, 0),"
        " extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, a.query_start))::float8"
        " FROM pg_stat_activity a LEFT JOIN pg_stat_progress_copy p USING (pid)"
        " WHERE a.datname = current_database() AND starts_with(a.application_name, %s)",
        [prefix],
    )
    activities: dict[FiscalWeek, Activity] = {}
    for name, rows, wire_bytes, seconds in found:
        match = _PURPOSE.match(str(name).removeprefix(prefix))
        if match:
            week = FiscalWeek.parse(match.group(1))
            activities[week] = Activity(week, match.group(2), int(rows), int(wire_bytes), float(seconds or 0.0))
    return activities
