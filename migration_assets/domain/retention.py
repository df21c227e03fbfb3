"""Which quarters stay in the base, and which are old enough to be archived and to leave. Pure: the clock is given."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalQuarter, FiscalWeek


@dataclass(frozen=True)
class RetentionPolicy:
    """How many quarters stay in the base: today's and those before it; quarters to come stay in any case."""

    calendar: FiscalCalendar
    quarters: int

    def __post_init__(self) -> None:
        if self.quarters < 1:
            raise ValueError("today's quarter always stays")

    def oldest_kept(self, now: datetime) -> FiscalQuarter:
        """The oldest quarter that stays; the first one that can exist where that would be earlier."""
        today = self.calendar.quarter_of(now).ordinal
        return FiscalQuarter.from_ordinal(max(today - self.quarters + 1, FiscalQuarter(1, 1).ordinal))

    def is_due(self, week: FiscalWeek, now: datetime) -> bool:
        """Whether the week is older than what stays."""
        return week.quarter < self.oldest_kept(now)

    def due(self, weeks: Iterable[FiscalWeek], now: datetime) -> list[FiscalWeek]:
        """Those that are older than what stays, oldest first."""
        return sorted(week for week in weeks if self.is_due(week, now))

    def why_not_due(self, week: FiscalWeek, now: datetime) -> str | None:
        """What stands in the way of its leaving, as a text for people; None where nothing does."""
        if self.is_due(week, now):
            return None
        return (
            f"it is not older than the {self.quarters} quarters that stay in the base"
            f" ({self.oldest_kept(now)} and later, MIGRATION_RETENTION_QUARTERS)"
        )
