"""How far ahead the base is ready: which quarters must be open now, what they lack, when the runway ends. Pure."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import ceil

from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalQuarter, FiscalWeek
from migration_assets.domain.samples import Severity

# Critical when only this part of the wanted days is left.
CRITICAL_PART = 0.25
NO_LEAF = "has no leaf"
NOT_UNDER_CDC = "is not under CDC"


@dataclass(frozen=True)
class RunwayPolicy:
    """How early a quarter is open, in days, and how many quarters always are, today's on; see the settings."""

    days: int = 14
    quarters: int = 2


@dataclass(frozen=True)
class Places:
    """What the base has: weeks by what is true of them.

    Attributes:
        attached: They have a leaf that rows reach.
        under_cdc: The change stream covers them; None where there is no stream.
        settled: Nobody is to open or join them: they are retired, or released from the stream to be so.
    """

    attached: frozenset[FiscalWeek] = frozenset()
    under_cdc: frozenset[FiscalWeek] | None = None
    settled: frozenset[FiscalWeek] = field(default_factory=frozenset[FiscalWeek])


@dataclass(frozen=True)
class Need:
    """A quarter that must be open and is not: weeks without a leaf, and weeks that the stream does not cover."""

    quarter: FiscalQuarter
    without_leaf: tuple[FiscalWeek, ...]
    not_under_cdc: tuple[FiscalWeek, ...]


@dataclass(frozen=True)
class Runway:
    """From `now` to the first instant that is not ready.

    Attributes:
        now: Aware.
        ends_at: The first instant from now on whose week lacks something; `now` itself where it is this week.
        ends_with: That week.
        because: What it lacks, e.g. `has no leaf`.
        quarters: How many quarters in a row lack nothing, today's on.
        followed: Whether weeks must be under CDC, too: a stream that works on the past has not come so far yet.
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
        CalendarError: Beyond what the calendar can express.
    """
    current = calendar.quarter_of(now)
    by_number = FiscalQuarter.from_ordinal(current.ordinal + policy.quarters - 1)
    return calendar.quarters_between(current, max(calendar.quarter_of(now + timedelta(days=policy.days)), by_number))


def left_behind(
    calendar: FiscalCalendar, now: datetime, opened: Collection[FiscalQuarter]
) -> tuple[tuple[FiscalQuarter, ...], tuple[FiscalQuarter, ...]]:
    """Quarters before today's that were never opened: those since the last one that was, and those further back.

    The first are what nobody looked ahead for, since this program did not run meanwhile. The others lie between
    quarters that were opened: people may have meant to leave them for later.
    """
    current = calendar.quarter_of(now)
    before = sorted(quarter for quarter in opened if quarter < current)
    if not before:
        return (), ()
    missing = [one for one in calendar.quarters_between(before[0], current.previous) if one not in opened]
    last = max(quarter for quarter in opened if quarter <= current)
    return tuple(one for one in missing if one > last), tuple(one for one in missing if one < last)


def find_needs(calendar: FiscalCalendar, now: datetime, policy: RunwayPolicy, places: Places) -> tuple[Need, ...]:
    """Those of the needed quarters that lack something, oldest first."""
    needs: list[Need] = []
    for quarter in needed_quarters(calendar, now, policy):
        weeks = [week for week in calendar.weeks_of(quarter) if week not in places.settled]
        without_leaf = tuple(week for week in weeks if week not in places.attached)
        uncovered = () if places.under_cdc is None else tuple(week for week in weeks if week not in places.under_cdc)
        if without_leaf or uncovered:
            needs.append(Need(quarter, without_leaf, uncovered))
    return tuple(needs)


def reaches_present(calendar: FiscalCalendar, now: datetime, places: Places) -> bool:
    """Whether the stream follows this quarter, or followed the last one: the present is then its business.

    One that works its way up from old quarters is not late; one whose next quarter was not opened in time is, and stays
    so for the whole of that quarter.
    """
    if not places.under_cdc:
        return False
    current = calendar.quarter_of(now)
    return any(week.quarter in {current, current.previous} for week in places.under_cdc)


def measure_runway(calendar: FiscalCalendar, now: datetime, places: Places) -> Runway:
    """How long everything is ready from now on."""
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
    """How bad it is to have so many days left; what is open just now, for less than a day, is no warning yet.

    The quarter is opened when its time comes, which a look a second earlier must not call late.
    """
    if days <= 0 or days < wanted * CRITICAL_PART:
        return Severity.CRITICAL
    return Severity.WARNING if ceil(days) < wanted else None


def judge_runway(runway: Runway, policy: RunwayPolicy) -> Severity | None:
    """By days, and by quarters where those are enough."""
    by_days = judge_days(runway.days, policy.days)
    return by_days or (Severity.WARNING if runway.quarters < policy.quarters else None)
