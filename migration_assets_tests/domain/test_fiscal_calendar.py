"""The calendar tiles time: every label has days, every instant has one label, in every zone and at every edge."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migration_assets.domain.errors import CalendarError
from migration_assets.domain.fiscal_calendar import (
    WEEK_NAMES,
    ControlKind,
    DayRange,
    FiscalCalendar,
    FiscalQuarter,
    FiscalWeek,
    InstantRange,
)

STRANGE_ZONES = (
    "America/St_Johns",  # fell back at 00:01 to 23:01 of the day before
    "America/Havana",  # shows 00:00 twice, skips it in spring
    "America/Sao_Paulo",  # skips midnight
    "Asia/Beirut",  # skips midnight
    "Pacific/Apia",  # skipped 2011-12-30
    "Pacific/Kwajalein",  # skipped 1993-08-21
    "Australia/Lord_Howe",  # half an hour
    "America/Toronto",  # skipped 23:30 to 00:30 in 1919
    "Africa/Monrovia",  # an offset with seconds until 1972
    "America/Juneau",  # repeated a whole day in 1867
)
ZONES = ("UTC", "America/New_York", "Europe/Berlin", "Asia/Kolkata", "Pacific/Kiritimati", *STRANGE_ZONES)
FIRST, LAST = FiscalQuarter(1950, 1), FiscalQuarter(2110, 4)
MOST_QUARTERS = FiscalCalendar.quarters_between(FIRST, LAST)
DEFAULT = FiscalCalendar()

quarters = st.builds(FiscalQuarter, st.integers(1, 9999), st.integers(1, 4))
weeks = st.builds(FiscalWeek, quarters, st.integers(1, 13))
calendars = st.builds(FiscalCalendar, st.integers(1, 12), st.integers(-1, 2), st.sampled_from(ZONES))
instants = st.datetimes(datetime(1860, 1, 1), datetime(2150, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def days_in_year(year: int) -> int:
    return (date(year + 1, 1, 1) - date(year, 1, 1)).days


@pytest.mark.parametrize("start_month", range(1, 13))
def test_quarters_and_weeks_tile_the_days_of_1950_to_2110(start_month: int) -> None:
    calendar = FiscalCalendar(start_month)
    expected_first = date(1949, start_month, 1)
    for quarter in MOST_QUARTERS:
        whole = calendar.days_of(quarter)
        assert whole.first == expected_first
        for week in calendar.weeks_of(quarter)[:12]:
            days = calendar.days_of(week)
            assert (days.first, days.days) == (expected_first, 7)
            expected_first = days.end
        remainder = calendar.days_of(FiscalWeek(quarter, 13))
        assert (remainder.first, remainder.end) == (expected_first, whole.end)
        february_to_april = whole.first.month == 2 and days_in_year(whole.first.year) == 365
        assert remainder.days == 5 if february_to_april else 6 <= remainder.days <= 8
        expected_first = whole.end
    assert expected_first == date(2110, start_month, 1)


def test_the_thirteenth_week_has_6_to_8_days_when_quarters_begin_in_january() -> None:
    sizes = {DEFAULT.days_of(FiscalWeek(quarter, 13)).days for quarter in MOST_QUARTERS}
    assert sizes == {6, 7, 8}


@pytest.mark.parametrize(("start_month", "offset"), [(1, 1), (2, 0), (4, 0), (7, 1), (10, 544), (12, -1)])
def test_every_day_of_seven_years_has_the_one_week_that_contains_it(start_month: int, offset: int) -> None:
    calendar = FiscalCalendar(start_month, offset)
    day, days = date(2022, 1, 1), DayRange(date(1, 1, 1), date(1, 1, 2))
    week = calendar.week_of_day(day)
    while day < date(2029, 1, 1):
        found = calendar.week_of_day(day)
        if found != week:
            assert day == days.end
            assert found == week.next
        week, days = found, calendar.days_of(found)
        assert day in days
        assert calendar.quarter_of_day(day) == week.quarter
        day += timedelta(days=1)


@pytest.mark.parametrize(
    ("calendar", "key", "first", "last"),
    [
        (FiscalCalendar(), "FY25-Q2", date(2024, 4, 1), date(2024, 6, 30)),
        (FiscalCalendar(), "FY25-Q2|W01", date(2024, 4, 1), date(2024, 4, 7)),
        (FiscalCalendar(), "FY25-Q2|W13", date(2024, 6, 24), date(2024, 6, 30)),
        (FiscalCalendar(), "FY25-Q1|W13", date(2024, 3, 25), date(2024, 3, 31)),  # leap year: 7 days
        (FiscalCalendar(), "FY26-Q1|W13", date(2025, 3, 26), date(2025, 3, 31)),  # common year: 6 days
        (FiscalCalendar(), "FY25-Q4|W13", date(2024, 12, 24), date(2024, 12, 31)),  # 8 days
        (FiscalCalendar(1, 0), "FY24-Q2", date(2024, 4, 1), date(2024, 6, 30)),
        (FiscalCalendar(10, 1), "FY25-Q1", date(2024, 10, 1), date(2024, 12, 31)),  # United States
        (FiscalCalendar(10, 1), "FY25-Q2", date(2025, 1, 1), date(2025, 3, 31)),
        (FiscalCalendar(4, 0), "FY24-Q4", date(2025, 1, 1), date(2025, 3, 31)),
        (FiscalCalendar(12, 1), "FY25-Q1", date(2024, 12, 1), date(2025, 2, 28)),
        (FiscalCalendar(10, 544), "FY2568-Q1", date(2024, 10, 1), date(2024, 12, 31)),  # Thailand
    ],
)
def test_known_periods_have_their_days(calendar: FiscalCalendar, key: str, first: date, last: date) -> None:
    period = FiscalWeek.parse(key) if "|" in key else FiscalQuarter.parse(key)
    days = calendar.days_of(period)
    assert (days.first, days.end - timedelta(days=1)) == (first, last)
    assert first in days
    assert last in days
    assert days.end not in days


def test_the_year_turns_in_the_instant_of_local_midnight() -> None:
    calendar = FiscalCalendar(time_zone="America/New_York")
    turn = datetime(2024, 1, 1, 5, tzinfo=UTC)
    assert calendar.week_of(turn - timedelta(microseconds=1)).key == "FY24-Q4|W13"
    assert calendar.week_of(turn).key == "FY25-Q1|W01"
    assert calendar.quarter_of(turn.astimezone(ZoneInfo("Asia/Tokyo"))).key == "FY25-Q1"
    assert DEFAULT.week_of(turn - timedelta(hours=5)).key == "FY25-Q1|W01"


@pytest.mark.parametrize("zone", ZONES)
def test_bounds_tile_the_instants_of_1950_to_2110_in_every_zone(zone: str) -> None:
    calendar = FiscalCalendar(time_zone=zone)
    previous_upper = calendar.bounds(FIRST).lower
    for quarter in MOST_QUARTERS:
        bounds = calendar.bounds(quarter)
        assert bounds.lower == previous_upper
        previous_upper = bounds.upper


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("start_month", [1, 2, 3])
def test_the_ends_of_every_week_belong_to_it_in_every_zone(zone: str, start_month: int) -> None:
    calendar = FiscalCalendar(start_month, time_zone=zone)
    parts: list[InstantRange] = []
    for quarter in calendar.quarters_between(FiscalQuarter(2010, 1), FiscalQuarter(2012, 4)):
        for week in calendar.weeks_of(quarter):
            bounds = calendar.bounds(week)
            parts.append(bounds)
            assert calendar.week_of(bounds.lower) == week
            assert calendar.week_of(bounds.upper - timedelta(microseconds=1)) == week
            assert calendar.week_of(bounds.upper) == week.next
        assert (parts[-13].lower, parts[-1].upper) == (calendar.bounds(quarter).lower, calendar.bounds(quarter).upper)
    assert all(left.upper == right.lower for left, right in pairwise(parts))


def test_a_week_in_which_the_clock_is_changed_lasts_167_or_169_hours() -> None:
    calendar = FiscalCalendar(time_zone="America/New_York")
    hours = [
        calendar.bounds(week).duration // timedelta(hours=1)
        for quarter in calendar.quarters_between(FiscalQuarter(2025, 1), FiscalQuarter(2025, 4))
        for week in calendar.weeks_of(quarter)[:12]
    ]
    assert (hours.count(167), hours.count(169), hours.count(168)) == (1, 1, 46)
    assert calendar.week_of(datetime(2024, 3, 10, 12, tzinfo=UTC)).number == hours.index(167) + 1
    half = FiscalCalendar(time_zone="Australia/Lord_Howe")
    october = half.bounds(half.week_of(datetime(2024, 10, 6, tzinfo=UTC)))
    assert october.duration == timedelta(hours=167, minutes=30)


@settings(max_examples=250, deadline=None)
@given(calendars, instants)
def test_any_instant_in_any_zone_is_in_the_bounds_of_its_week(calendar: FiscalCalendar, instant: datetime) -> None:
    week = calendar.week_of(instant)
    assert instant in calendar.bounds(week)
    assert instant in calendar.bounds(calendar.quarter_of(instant))
    assert instant not in calendar.bounds(week.next)
    assert instant not in calendar.bounds(week.previous)
    assert calendar.week_of(instant.astimezone(ZoneInfo("Pacific/Apia"))) == week


@settings(max_examples=100, deadline=None)
@given(calendars, weeks)
def test_any_week_leads_to_its_days_and_bounds_and_back(calendar: FiscalCalendar, week: FiscalWeek) -> None:
    assert FiscalWeek.parse(week.key) == week
    if 10 <= week.quarter.fiscal_year <= 9990:
        days, bounds = calendar.days_of(week), calendar.bounds(week)
        assert calendar.week_of_day(days.first) == calendar.week_of_day(days.end - timedelta(days=1)) == week
        assert calendar.week_of(bounds.lower) == calendar.week_of(bounds.upper - timedelta(microseconds=1)) == week


def test_values_fit_the_kind_of_the_control_column() -> None:
    calendar = FiscalCalendar(time_zone="America/New_York")
    week = FiscalWeek.parse("FY25-Q2|W01")
    lower, upper = calendar.bound_values(week, ControlKind.TIMESTAMPTZ)
    assert (lower, upper) == (datetime(2024, 4, 1, 4, tzinfo=UTC), datetime(2024, 4, 8, 4, tzinfo=UTC))
    walls = calendar.bound_values(week, ControlKind.TIMESTAMP)
    assert walls == (datetime(2024, 4, 1), datetime(2024, 4, 8))  # noqa: DTZ001
    days = calendar.bound_values(week, ControlKind.DATE)
    assert [type(day) for day in days] == [date, date]
    assert days == (date(2024, 4, 1), date(2024, 4, 8))
    for kind in ControlKind:
        parts = [calendar.bound_values(part, kind) for part in calendar.weeks_of(week.quarter)]
        assert (parts[0][0], parts[-1][1]) == calendar.bound_values(week.quarter, kind)
        assert all(left[1] == right[0] for left, right in pairwise(parts))


def test_quarters_between_includes_both_and_crosses_years() -> None:
    between = DEFAULT.quarters_between(FiscalQuarter(2024, 3), FiscalQuarter(2025, 2))
    assert [quarter.key for quarter in between] == ["FY24-Q3", "FY24-Q4", "FY25-Q1", "FY25-Q2"]
    assert DEFAULT.quarters_between(between[0], between[0]) == between[:1]
    with pytest.raises(CalendarError, match="earlier"):
        DEFAULT.quarters_between(between[1], between[0])
    assert tuple(week.name for week in DEFAULT.weeks_of(between[0])) == WEEK_NAMES
