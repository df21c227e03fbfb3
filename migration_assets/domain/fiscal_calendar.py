"""Which days and instants a fiscal quarter or week covers. Pure: no clock; the zone's rules are the only data read.

A quarter is three calendar months and has 13 weeks always: W01..W12 are 7 days, W13 takes the remainder: 6 to 8 days,
or 5 in the quarter February to April of a common year (89 days), which only fiscal years that start in February, May,
August or November have. Everything is half-open, so weeks and quarters tile the time without gap or overlap.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import Enum
from zoneinfo import ZoneInfo

from migration_assets.domain.errors import CalendarError
from migration_assets.domain.fiscal_periods import (
    WEEK_NAMES,
    WEEKS_PER_QUARTER,
    FiscalQuarter,
    FiscalWeek,
    require_int,
)
from migration_assets.domain.time_zones import as_utc, first_midnight, load_zone, outside_years

__all__ = [
    "WEEKS_PER_QUARTER",
    "WEEK_NAMES",
    "ControlKind",
    "DayRange",
    "FiscalCalendar",
    "FiscalQuarter",
    "FiscalWeek",
    "InstantRange",
]

_MONTHS_PER_YEAR = 12
_MONTHS_PER_QUARTER = 3
_DAYS_PER_WEEK = 7
# Large enough for any era in use (the Thai one is 543 years ahead); beyond it no year would be left in 1..9999.
_HIGHEST_OFFSET = 9998


class ControlKind(Enum):
    """The control column's type; the value is PostgreSQL's `pg_type.typname`."""

    TIMESTAMPTZ = "timestamptz"
    TIMESTAMP = "timestamp"
    DATE = "date"


@dataclass(frozen=True, order=True, slots=True)
class DayRange:
    """The days `first` <= day < `end`, at least one."""

    first: date
    end: date

    def __post_init__(self) -> None:
        if isinstance(self.first, datetime) or isinstance(self.end, datetime) or self.first >= self.end:
            raise CalendarError(f"A range of days must have dates with first < end, not {self.first!r}..{self.end!r}")

    def __contains__(self, day: date) -> bool:
        return self.first <= day < self.end

    @property
    def days(self) -> int:
        """How many calendar days, those that a zone skipped included."""
        return (self.end - self.first).days


@dataclass(frozen=True, order=True, slots=True)
class InstantRange:
    """The instants `lower` <= instant < `upper`, never empty; both are UTC, so their difference is real time."""

    lower: datetime
    upper: datetime

    def __post_init__(self) -> None:
        if self.lower.tzinfo is not UTC or self.upper.tzinfo is not UTC or self.lower >= self.upper:
            raise CalendarError(
                f"A range of instants must have UTC bounds with lower < upper, not {self.lower!r}..{self.upper!r}"
            )

    def __contains__(self, instant: datetime) -> bool:
        return self.lower <= instant < self.upper

    @property
    def duration(self) -> timedelta:
        """Real time: a week of 7 days lasts 167 or 169 hours when daylight saving time begins or ends in it."""
        return self.upper - self.lower


@dataclass(frozen=True, slots=True)
class FiscalCalendar:
    """The rule from labels to time; CalendarError when a parameter makes no sense.

    With the defaults FY25-Q2 is 2024-04-01..2024-06-30 in UTC. Every method raises CalendarError, and nothing else,
    where the answer would leave the years 1..9999: also for the quarter that would end on the day after 9999-12-31.

    Attributes:
        start_month: The month a fiscal year begins with, on its first day, 1..12.
        label_offset: Year in the label minus calendar year in which the fiscal year starts.
        time_zone: IANA name of the zone whose midnights separate the weeks.
    """

    start_month: int = 1
    label_offset: int = 1
    time_zone: str = "UTC"

    def __post_init__(self) -> None:
        require_int(self.start_month, 1, _MONTHS_PER_YEAR, "The start month of the fiscal year")
        require_int(self.label_offset, -_HIGHEST_OFFSET, _HIGHEST_OFFSET, "The label offset of the fiscal year")
        load_zone(self.time_zone)

    @property
    def zone(self) -> ZoneInfo:
        """The zone's rules (zoneinfo keeps them in memory after the first use)."""
        return ZoneInfo(self.time_zone)

    def days_of(self, period: FiscalQuarter | FiscalWeek) -> DayRange:
        """The calendar days of a quarter or week."""
        if isinstance(period, FiscalQuarter):
            return DayRange(self._first_day(period.ordinal), self._first_day(period.ordinal + 1))
        quarter = self.days_of(period.quarter)
        first = quarter.first + timedelta(days=_DAYS_PER_WEEK * (period.number - 1))
        last_week = period.number == WEEKS_PER_QUARTER
        return DayRange(first, quarter.end if last_week else first + timedelta(days=_DAYS_PER_WEEK))

    def bounds(self, period: FiscalQuarter | FiscalWeek) -> InstantRange:
        """The instants of a quarter or week, from local midnight to local midnight, in UTC.

        This is the only place where days become instants. A row of a timestamptz column belongs to the week whose
        bounds contain it, even where its local date says otherwise (see `week_of`).
        """
        days = self.days_of(period)
        return InstantRange(first_midnight(days.first, self.zone), first_midnight(days.end, self.zone))

    def bound_values(self, period: FiscalQuarter | FiscalWeek, kind: ControlKind) -> tuple[date, date]:
        """The half-open (lower, upper) as SQL parameters for a control column of this kind.

        Returns:
            TIMESTAMPTZ: aware datetimes in UTC. TIMESTAMP: naive datetimes, the midnights on the calendar zone's wall
            clock, which such a column is taken to hold. DATE: dates.
        """
        if kind is ControlKind.TIMESTAMPTZ:
            bounds = self.bounds(period)
            return bounds.lower, bounds.upper
        days = self.days_of(period)
        if kind is ControlKind.DATE:
            return days.first, days.end
        return datetime.combine(days.first, time.min), datetime.combine(days.end, time.min)

    def quarter_of_day(self, day: date) -> FiscalQuarter:
        """The quarter that a calendar day (of a date or timestamp column) belongs to."""
        return self.week_of_day(day).quarter

    def week_of_day(self, day: date) -> FiscalWeek:
        """The week that a calendar day (of a date or timestamp column) belongs to; a datetime is a CalendarError."""
        if isinstance(day, datetime):
            raise CalendarError(f"{day!r} is not a day", next_step="Use week_of for an instant, .date() for a day.")
        months = day.year * _MONTHS_PER_YEAR + day.month - self.start_month + self.label_offset * _MONTHS_PER_YEAR
        quarter = FiscalQuarter.from_ordinal(months // _MONTHS_PER_QUARTER)
        weeks_before = (day - self.days_of(quarter).first).days // _DAYS_PER_WEEK
        return FiscalWeek(quarter, min(weeks_before + 1, WEEKS_PER_QUARTER))

    def quarter_of(self, instant: datetime) -> FiscalQuarter:
        """The quarter whose bounds contain the instant; a naive datetime is a CalendarError."""
        return self.week_of(instant).quarter

    def week_of(self, instant: datetime) -> FiscalWeek:
        """The week whose bounds contain the instant; a naive datetime is a CalendarError."""
        moment = as_utc(instant)
        try:
            week = self.week_of_day(moment.astimezone(self.zone).date())
        except OverflowError as error:
            raise outside_years(instant) from error
        # The local date is only a guess. Where a clock was set back over midnight (St. John's: from 00:01 to 23:01 of
        # the day before) the old date comes a second time, after the bound: those rows stay in the new week. The
        # other way round cannot be: a bound is the first instant at which the clock shows its day or a later one.
        return week.next if moment >= self.bounds(week).upper else week

    @staticmethod
    def weeks_of(quarter: FiscalQuarter) -> tuple[FiscalWeek, ...]:
        """The quarter's 13 weeks in order."""
        return tuple(FiscalWeek(quarter, number) for number in range(1, WEEKS_PER_QUARTER + 1))

    @staticmethod
    def quarters_between(first: FiscalQuarter, last: FiscalQuarter) -> tuple[FiscalQuarter, ...]:
        """The quarters from `first` to `last`, both included, in order; CalendarError when `last` is earlier."""
        if last < first:
            raise CalendarError(f"There are no quarters from {first} to {last}: the last one is earlier than the first")
        return tuple(FiscalQuarter.from_ordinal(ordinal) for ordinal in range(first.ordinal, last.ordinal + 1))

    def _first_day(self, ordinal: int) -> date:
        """The first day of the quarter with this ordinal (an int, so that the last quarter of all has an end)."""
        months = ordinal * _MONTHS_PER_QUARTER + self.start_month - 1 - self.label_offset * _MONTHS_PER_YEAR
        try:
            return date(months // _MONTHS_PER_YEAR, months % _MONTHS_PER_YEAR + 1, 1)
        except ValueError as error:
            raise outside_years(f"year {months // _MONTHS_PER_YEAR}") from error
