"""Fiscal quarters and weeks: their keys and order, and which days and instants they cover. Pure: no clock.

Weeks begin at local midnights of the fiscal time zone, whatever its clocks did; the zone's rules are the only data
read.
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import Enum
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from migration_assets.domain.errors import CalendarError

QUARTERS_PER_YEAR = 4
WEEKS_PER_QUARTER = 13
WEEK_NAMES = tuple(f"W{number:02d}" for number in range(1, WEEKS_PER_QUARTER + 1))
"""("W01", ..., "W13"): the same in every quarter, so they can be static partition keys."""

FIRST_LABEL_YEAR, LAST_LABEL_YEAR = 1, 9999
# A label of two digits means the year within this span of 100 years that ends with them. Years outside the span are
# always written with four digits and years inside never are, so every quarter has exactly one key.
FIRST_SHORT_YEAR, LAST_SHORT_YEAR = 1970, 2069

_QUARTER_KEY = re.compile(r"FY([0-9]{4}|[0-9]{2})-Q([1-4])")


def require_int(value: object, lowest: int, highest: int, name: str) -> None:
    """Raise CalendarError unless `value` is a whole number (no bool, no float) in lowest..highest."""
    if type(value) is not int or not lowest <= value <= highest:
        raise CalendarError(f"{name} must be a whole number in {lowest}..{highest}, not {value!r}")


@dataclass(frozen=True, order=True, slots=True)
class FiscalQuarter:
    """The label of one fiscal quarter, ordered by time; CalendarError if it cannot exist.

    Attributes:
        fiscal_year: The year in the label (2025 for FY25), 1..9999; the quarter need not lie in that calendar year.
        number: 1..4.
    """

    fiscal_year: int
    number: int

    def __post_init__(self) -> None:
        require_int(self.fiscal_year, FIRST_LABEL_YEAR, LAST_LABEL_YEAR, "The fiscal year of a quarter")
        require_int(self.number, 1, QUARTERS_PER_YEAR, "The number of a fiscal quarter")

    def __str__(self) -> str:
        return self.key

    @property
    def key(self) -> str:
        """The quarter's key, `FY25-Q2`; label years outside 1970..2069 have four digits: `FY2125-Q1`."""
        short = FIRST_SHORT_YEAR <= self.fiscal_year <= LAST_SHORT_YEAR
        year = f"{self.fiscal_year % 100:02d}" if short else f"{self.fiscal_year:04d}"
        return f"FY{year}-Q{self.number}"

    @classmethod
    def parse(cls, key: str) -> Self:
        """The quarter that has exactly this key; CalendarError for any other spelling."""
        match = _QUARTER_KEY.fullmatch(key)
        if match is None:
            raise CalendarError(
                f"{key!r} is not a fiscal quarter",
                next_step="Write it like FY25-Q2: FY, two digits (four outside 1970..2069), -Q and 1 to 4.",
            )
        digits, number = match.groups()
        year = int(digits)
        if len(digits) == len("25"):
            century = FIRST_SHORT_YEAR // 100 * 100
            year += century if century + year >= FIRST_SHORT_YEAR else century + 100
        quarter = cls(year, int(number))
        if quarter.key != key:
            raise CalendarError(
                f"{key!r} is not how this fiscal quarter is written",
                next_step=f"Write {quarter.key}: a quarter has one key, with two digits in 1970..2069.",
            )
        return quarter

    @property
    def ordinal(self) -> int:
        """Quarters since the label year 0: consecutive quarters have consecutive ordinals."""
        return self.fiscal_year * QUARTERS_PER_YEAR + self.number - 1

    @classmethod
    def from_ordinal(cls, ordinal: int) -> Self:
        """The inverse of `ordinal`; CalendarError outside the label years 1..9999."""
        return cls(ordinal // QUARTERS_PER_YEAR, ordinal % QUARTERS_PER_YEAR + 1)

    @property
    def previous(self) -> Self:
        """The quarter before; CalendarError before FY0001-Q1."""
        return self.from_ordinal(self.ordinal - 1)

    @property
    def next(self) -> Self:
        """The quarter after; CalendarError after FY9999-Q4."""
        return self.from_ordinal(self.ordinal + 1)


@dataclass(frozen=True, order=True, slots=True)
class FiscalWeek:
    """The label of one fiscal week, which is one slice; ordered by time; CalendarError if it cannot exist.

    Attributes:
        quarter: The fiscal quarter the week belongs to; a week never spans two.
        number: 1..13.
    """

    quarter: FiscalQuarter
    number: int

    def __post_init__(self) -> None:
        _require_quarter(self.quarter)
        require_int(self.number, 1, WEEKS_PER_QUARTER, "The number of a fiscal week")

    def __str__(self) -> str:
        return self.key

    @property
    def name(self) -> str:
        """`W05`: the week's key within its quarter."""
        return WEEK_NAMES[self.number - 1]

    @property
    def key(self) -> str:
        """`FY25-Q2|W05`: the same text as Dagster's key of the partition (quarter, week)."""
        return f"{self.quarter.key}|{self.name}"

    @classmethod
    def parse(cls, key: str) -> Self:
        """The week that has exactly this key; CalendarError for any other spelling."""
        quarter_key, separator, name = key.partition("|")
        if not separator or name not in WEEK_NAMES:
            raise CalendarError(
                f"{key!r} is not a fiscal week",
                next_step="Write it like FY25-Q2|W05: the quarter, a bar, and W01 to W13.",
            )
        return cls(FiscalQuarter.parse(quarter_key), WEEK_NAMES.index(name) + 1)

    @property
    def previous(self) -> Self:
        """The week before, W13 of the previous quarter before W01; CalendarError before FY0001-Q1|W01."""
        if self.number == 1:
            return type(self)(self.quarter.previous, WEEKS_PER_QUARTER)
        return type(self)(self.quarter, self.number - 1)

    @property
    def next(self) -> Self:
        """The week after, W01 of the next quarter after W13; CalendarError after FY9999-Q4|W13."""
        if self.number == WEEKS_PER_QUARTER:
            return type(self)(self.quarter.next, 1)
        return type(self)(self.quarter, self.number + 1)


def _require_quarter(value: object) -> None:
    if not isinstance(value, FiscalQuarter):
        raise CalendarError(f"The quarter of a fiscal week must be a FiscalQuarter, not {value!r}")


# zoneinfo accepts these names, but they differ between machines, or count leap seconds, which PostgreSQL does not.
_UNPORTABLE_ZONES = ("localtime", "posixrules", "Factory", "right/", "posix/")
_SECOND = timedelta(seconds=1)


def load_zone(name: object) -> ZoneInfo:
    """The zone of this IANA name (kept in memory by zoneinfo after the first use); CalendarError for any other."""
    advice = "Use an IANA name such as UTC or America/New_York."
    if not isinstance(name, str) or name.startswith(_UNPORTABLE_ZONES):
        raise CalendarError(f"{name!r} is not a time zone", next_step=advice)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # a folder such as "America" gives an OSError
        raise CalendarError(f"{name!r} is not a time zone", next_step=advice) from error


def first_midnight(day: date, zone: ZoneInfo) -> datetime:
    """The first instant at which the zone's clock shows `day` 00:00 or later, in UTC.

    If the clock was set back and shows midnight twice, this is the first time; if it was set forward over midnight,
    the end of the gap. A day that was skipped (Apia, 2011-12-30) gets the same instant as the next day and is empty.
    This definition never decreases from one day to the next, whatever the zone's clock did.
    """
    midnight = datetime.combine(day, time.min)
    try:
        after = midnight.replace(tzinfo=zone).astimezone(UTC)
        if after.astimezone(zone).replace(tzinfo=None) == midnight:
            return after
        # In a gap fold=0 uses the offset before it and so lands after it; fold=1 is the reverse. The change of the
        # clock lies between the two, so bisect. (It is not always at fold=0: Toronto went from 23:30 to 00:30 in 1919.)
        before = midnight.replace(tzinfo=zone, fold=1).astimezone(UTC)
        while (seconds := (after - before) // _SECOND) > 1:
            middle = before + seconds // 2 * _SECOND
            if middle.astimezone(zone).replace(tzinfo=None) < midnight:
                before = middle
            else:
                after = middle
    except OverflowError as error:
        raise outside_years(day) from error
    return after


def as_utc(instant: datetime) -> datetime:
    """The same instant in UTC; CalendarError for a naive datetime."""
    if instant.utcoffset() is None:
        raise CalendarError(f"{instant!r} has no time zone", next_step="Pass an instant: a datetime with a tzinfo.")
    try:
        return instant.astimezone(UTC)
    except OverflowError as error:
        raise outside_years(instant) from error


def outside_years(what: object) -> CalendarError:
    """The error for a value that Python's dates cannot represent."""
    return CalendarError(f"{what} is outside of the years 1..9999 that the calendar covers")


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
# Large enough for any era in use (the Thai era is 543 years ahead); with more, no year in 1..9999 would be left.
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
        """How many calendar days, including days that a zone skipped."""
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
    """Maps labels to time and back; CalendarError when a parameter makes no sense.

    With the defaults FY25-Q2 is 2024-04-01..2024-06-30 in UTC. Every method raises CalendarError, and no other error,
    when the result is outside the years 1..9999; this includes the quarter that would end on the day after 9999-12-31.

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
        # The local date is only a first guess. Where a clock was set back over midnight (St. John's: from 00:01 to
        # 23:01 of the day before), the old date occurs again after the bound, and those rows belong to the new week.
        # The opposite cannot happen: a bound is the first instant at which the clock shows its day or a later one.
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
