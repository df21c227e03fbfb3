"""The runway: how far ahead the base is ready, which quarters must be open now, and what they lack. Pure."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import ceil

from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalQuarter, FiscalWeek
from migration_assets.domain.samples import Severity

# A warning becomes critical when only this part of the wanted days is left.
CRITICAL_PART = 0.25
NO_LEAF = "has no leaf"
NOT_UNDER_CDC = "is not under CDC"


@dataclass(frozen=True)
class RunwayPolicy:
    """How many days in advance a quarter is opened, and how many quarters are always open, counting today's."""

    days: int = 14
    quarters: int = 2


@dataclass(frozen=True)
class Places:
    """The base's weeks, grouped by their condition.

    Attributes:
        attached: Weeks with an attached leaf.
        under_cdc: Weeks that the change stream covers; None if there is no stream.
        settled: Weeks that must not be opened or joined: retired, or released from the stream to be retired.
    """

    attached: frozenset[FiscalWeek] = frozenset()
    under_cdc: frozenset[FiscalWeek] | None = None
    settled: frozenset[FiscalWeek] = field(default_factory=frozenset[FiscalWeek])


@dataclass(frozen=True)
class Need:
    """A quarter that must be open and is not ready: its weeks without a leaf, and those that are not under CDC."""

    quarter: FiscalQuarter
    without_leaf: tuple[FiscalWeek, ...]
    not_under_cdc: tuple[FiscalWeek, ...]


@dataclass(frozen=True)
class Runway:
    """The time from `now` to the first instant that is not ready.

    Attributes:
        now: The moment it was measured at; aware.
        ends_at: The first instant from now on whose week lacks something; `now` itself if that is this week.
        ends_with: That week.
        because: What that week lacks, e.g. `has no leaf`.
        quarters: How many consecutive quarters lack nothing, counting from today's.
        followed: Whether weeks must also be under CDC; false while the stream still works on past quarters.
    """

    now: datetime
    ends_at: datetime
    ends_with: FiscalWeek
    because: str
    quarters: int
    followed: bool

    @property
    def days(self) -> float:
        """Days of 24 hours, 0 or more."""
        return (self.ends_at - self.now) / timedelta(days=1)

    def __str__(self) -> str:
        return f"{self.days:,.1f} days, to {self.ends_at:%Y-%m-%d %H:%M} UTC: {self.ends_with.key} {self.because}"


def needed_quarters(calendar: FiscalCalendar, now: datetime, policy: RunwayPolicy) -> tuple[FiscalQuarter, ...]:
    """The quarters that must be open at this moment, oldest first, without a gap; today's is the first.

    Raises:
        CalendarError: A quarter lies beyond the years of the calendar.
    """
    current = calendar.quarter_of(now)
    by_number = FiscalQuarter.from_ordinal(current.ordinal + policy.quarters - 1)
    return calendar.quarters_between(current, max(calendar.quarter_of(now + timedelta(days=policy.days)), by_number))


def left_behind(
    calendar: FiscalCalendar, now: datetime, opened: Collection[FiscalQuarter]
) -> tuple[tuple[FiscalQuarter, ...], tuple[FiscalQuarter, ...]]:
    """Quarters before today's that were never opened: those after the last open one, and those before it.

    The first group was missed because this program did not run meanwhile. The second lies between open quarters and
    may have been left for later on purpose.
    """
    current = calendar.quarter_of(now)
    before = sorted(quarter for quarter in opened if quarter < current)
    if not before:
        return (), ()
    missing = [one for one in calendar.quarters_between(before[0], current.previous) if one not in opened]
    last = max(quarter for quarter in opened if quarter <= current)
    return tuple(one for one in missing if one > last), tuple(one for one in missing if one < last)


def find_needs(calendar: FiscalCalendar, now: datetime, policy: RunwayPolicy, places: Places) -> tuple[Need, ...]:
    """The needed quarters that lack something, oldest first."""
    needs: list[Need] = []
    for quarter in needed_quarters(calendar, now, policy):
        weeks = [week for week in calendar.weeks_of(quarter) if week not in places.settled]
        without_leaf = tuple(week for week in weeks if week not in places.attached)
        uncovered = () if places.under_cdc is None else tuple(week for week in weeks if week not in places.under_cdc)
        if without_leaf or uncovered:
            needs.append(Need(quarter, without_leaf, uncovered))
    return tuple(needs)


def reaches_present(calendar: FiscalCalendar, now: datetime, places: Places) -> bool:
    """Whether the stream covers this quarter or the last one, so that it must also cover the present.

    A stream that still works its way up from old quarters is not late. A stream whose next quarter was not opened in
    time is late, and stays late for the whole of that quarter.
    """
    if not places.under_cdc:
        return False
    current = calendar.quarter_of(now)
    return any(week.quarter in {current, current.previous} for week in places.under_cdc)


def measure_runway(calendar: FiscalCalendar, now: datetime, places: Places) -> Runway:
    """Measure for how long, from now on, every week is ready."""
    moment = now.astimezone(UTC)
    followed = reaches_present(calendar, moment, places)

    def lacks(week: FiscalWeek) -> str | None:
        if week not in places.attached:
            return NO_LEAF
        return NOT_UNDER_CDC if followed and week not in (places.under_cdc or ()) else None

    week = calendar.week_of(moment)
    while (because := lacks(week)) is None:
        week = week.next
    ends_at = max(moment, calendar.bounds(week).lower)
    quarters = _whole_quarters(calendar, moment, places, followed=followed)
    return Runway(moment, ends_at, week, because, quarters, followed)


def _whole_quarters(calendar: FiscalCalendar, now: datetime, places: Places, *, followed: bool) -> int:
    count, quarter = 0, calendar.quarter_of(now)
    while all(
        week in places.settled
        or (week in places.attached and (not followed or week in (places.under_cdc or ())))
        for week in calendar.weeks_of(quarter)
    ):  # fmt: skip
        count, quarter = count + 1, quarter.next
    return count


def judge_days(days: float, wanted: float) -> Severity | None:
    """Judge the number of days left; a shortage of less than one day is not a warning yet.

    A quarter is opened when its time comes, and a sample taken a second earlier must not report it as late.
    """
    if days <= 0 or days < wanted * CRITICAL_PART:
        return Severity.CRITICAL
    return Severity.WARNING if ceil(days) < wanted else None


def judge_runway(runway: Runway, policy: RunwayPolicy) -> Severity | None:
    """Judge a runway by its days and, if they suffice, by its quarters."""
    by_days = judge_days(runway.days, policy.days)
    return by_days or (Severity.WARNING if runway.quarters < policy.quarters else None)
