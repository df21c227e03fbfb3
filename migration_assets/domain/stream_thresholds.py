"""How much of what is too much: the watch's thresholds, and the days on which they are stricter. Pure."""

from dataclasses import dataclass, replace
from datetime import date, timedelta
from enum import StrEnum

from migration_assets.domain.fiscal_calendar import FiscalCalendar


class Severity(StrEnum):
    """How bad it is."""

    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True)
class StreamThresholds:
    """Where a figure becomes a problem; see the settings of the same names. GB are 10^9 bytes."""

    lag_warning_seconds: float = 30.0
    lag_critical_seconds: float = 300.0
    retained_wal_warning_gb: float = 8.0
    retained_wal_critical_gb: float = 12.0
    wal_room_warning_minutes: float = 120.0
    legacy_wal_disk_gb: float | None = None
    pause_warning_seconds: float = 300.0
    runway_days: float = 14.0
    # A cutover that works ends by itself within MIGRATION_CUTOVER_TIMEOUT_SECONDS; this is a little more.
    writes_held_seconds: float = 65.0

    def stricter(self, factor: float) -> "StreamThresholds":
        """For days on which more is written: limits are divided, and the room for WAL is multiplied."""
        return replace(
            self,
            lag_warning_seconds=self.lag_warning_seconds / factor,
            lag_critical_seconds=self.lag_critical_seconds / factor,
            retained_wal_warning_gb=self.retained_wal_warning_gb / factor,
            retained_wal_critical_gb=self.retained_wal_critical_gb / factor,
            wal_room_warning_minutes=self.wal_room_warning_minutes * factor,
            pause_warning_seconds=self.pause_warning_seconds / factor,
        )


def high_change(day: date, calendar: FiscalCalendar, days: int) -> str | None:
    """`quarter end` or `month end` on the last and the first `days` days around one; None in between.

    A fiscal quarter begins on the first of a month, so that every quarter's end is a month's, too.
    """
    if day.day > days and (day + timedelta(days=days)).month == day.month:
        return None
    quarter = calendar.days_of(calendar.quarter_of_day(day))
    at_edge = (day - quarter.first).days < days or (quarter.end - day).days <= days
    return "quarter end" if at_edge else "month end"
