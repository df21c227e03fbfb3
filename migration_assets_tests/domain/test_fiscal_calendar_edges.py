"""What the calendar refuses, and the ends of time."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migration_assets.domain.errors import CalendarError
from migration_assets.domain.fiscal_calendar import DayRange, FiscalCalendar, FiscalQuarter, FiscalWeek, InstantRange
from migration_assets_tests.domain.test_fiscal_calendar import ZONES, calendars

DEFAULT = FiscalCalendar()


def test_a_naive_datetime_is_refused_as_an_instant_and_a_datetime_as_a_day() -> None:
    naive = datetime(2024, 4, 1)  # noqa: DTZ001
    for ask in (DEFAULT.week_of, DEFAULT.quarter_of, DEFAULT.week_of_day, DEFAULT.quarter_of_day):
        with pytest.raises(CalendarError):
            ask(naive)


@pytest.mark.parametrize("zone", ["", "America", "New York", "../etc/passwd", "/etc/passwd", "localtime", "a\0b", None])
def test_a_zone_that_is_none_is_refused_with_advice(zone: str) -> None:
    with pytest.raises(CalendarError, match=r"is not a time zone\nNext: Use an IANA name"):
        FiscalCalendar(time_zone=zone)


@pytest.mark.parametrize(("month", "offset"), [(0, 1), (13, 1), (True, 1), (1.0, 1), (1, 9999), (1, -9999), (1, "1")])
def test_a_calendar_with_a_senseless_parameter_cannot_be_built(month: int, offset: int) -> None:
    with pytest.raises(CalendarError, match="must be a whole number in"):
        FiscalCalendar(month, offset)


def test_ranges_that_are_empty_or_of_the_wrong_type_cannot_be_built() -> None:
    day, noon = date(2024, 1, 1), datetime(2024, 1, 1, 12, tzinfo=UTC)
    for first, end in ((day, day), (noon, noon + timedelta(days=1))):
        with pytest.raises(CalendarError):
            DayRange(first, end)
    elsewhere = noon.astimezone(ZoneInfo("Asia/Tokyo"))
    for lower, upper in ((noon, noon), (noon.replace(tzinfo=None), noon), (noon, elsewhere + timedelta(hours=1))):
        with pytest.raises(CalendarError):
            InstantRange(lower, upper)


@settings(max_examples=150, deadline=None)
@given(
    calendars | st.builds(FiscalCalendar, st.integers(1, 12), st.integers(-9998, 9998), st.sampled_from(ZONES)),
    st.sampled_from([1, 2, 3, 9998, 9999]) | st.integers(1, 9999),
    st.integers(1, 4),
    st.integers(1, 13),
)
def test_the_edges_of_time_raise_nothing_but_calendar_errors(
    calendar: FiscalCalendar, year: int, number: int, week_number: int
) -> None:
    week = FiscalWeek(FiscalQuarter(year, number), week_number)
    day = date(year, number, week_number)
    for instant in (
        datetime.combine(day, time.min, UTC),
        datetime.min.replace(tzinfo=calendar.zone),
        datetime.max.replace(tzinfo=calendar.zone),
        datetime.max.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=UTC),
    ):
        for ask in (
            lambda: calendar.bounds(week),
            lambda: calendar.bounds(week.quarter),
            lambda: calendar.week_of_day(day),
            lambda moment=instant: calendar.week_of(moment),
        ):
            try:
                ask()
            except CalendarError as error:
                assert "1..9999" in str(error)  # noqa: PT017


def test_the_last_day_of_all_has_no_week_because_its_end_cannot_be_written() -> None:
    for calendar in (DEFAULT, FiscalCalendar(1, 0)):
        with pytest.raises(CalendarError, match=r"1\.\.9999"):
            calendar.week_of_day(date.max)
    assert DEFAULT.week_of_day(date.min).key == "FY0002-Q1|W01"
    assert DEFAULT.week_of(datetime.min.replace(tzinfo=UTC)).key == "FY0002-Q1|W01"
