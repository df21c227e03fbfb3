"""Midnights where clocks were changed at midnight, each a fact of the zone's history."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalWeek, first_midnight
from migration_assets_tests.domain.test_fiscal_calendar import STRANGE_ZONES

SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("zone", "day", "expected"),
    [
        ("UTC", date(2024, 4, 1), "2024-04-01T00:00:00"),
        ("America/St_Johns", date(2010, 11, 7), "2010-11-07T02:30:00"),  # 00:00 again an hour later
        ("America/Havana", date(2024, 11, 3), "2024-11-03T04:00:00"),  # 01:00 becomes 00:00
        ("America/Havana", date(2024, 3, 10), "2024-03-10T05:00:00"),  # 00:00 becomes 01:00
        ("America/Sao_Paulo", date(2018, 11, 4), "2018-11-04T03:00:00"),  # 00:00 becomes 01:00
        ("Asia/Beirut", date(2022, 3, 27), "2022-03-26T22:00:00"),  # 00:00 becomes 01:00
        ("America/Toronto", date(1919, 3, 31), "1919-03-31T04:30:00"),  # 23:30 becomes 00:30
        ("Pacific/Apia", date(2011, 12, 30), "2011-12-30T10:00:00"),  # a day that never was
        ("Pacific/Apia", date(2011, 12, 31), "2011-12-30T10:00:00"),
        ("Pacific/Kwajalein", date(1993, 8, 21), "1993-08-21T12:00:00"),
        ("Pacific/Kwajalein", date(1993, 8, 22), "1993-08-21T12:00:00"),
        ("Africa/Monrovia", date(1970, 1, 1), "1970-01-01T00:44:30"),
    ],
)
def test_a_day_begins_at_its_first_midnight_or_at_the_end_of_the_gap(zone: str, day: date, expected: str) -> None:
    assert first_midnight(day, ZoneInfo(zone)) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@settings(max_examples=150, deadline=None)
@given(st.dates(date(1860, 1, 1), date(2150, 1, 1)), st.sampled_from(STRANGE_ZONES))
def test_no_clock_shows_a_day_before_its_first_midnight(day: date, zone_name: str) -> None:
    zone = ZoneInfo(zone_name)
    begin = first_midnight(day, zone)
    assert begin.astimezone(zone).date() >= day
    assert all((begin - n * 17 * 60 * SECOND).astimezone(zone).date() < day for n in range(1, 100))
    assert (begin - SECOND).astimezone(zone).date() < day
    assert begin <= first_midnight(day + timedelta(days=1), zone)


@pytest.mark.parametrize("zone", STRANGE_ZONES)
def test_days_never_begin_earlier_than_the_days_before_them(zone: str) -> None:
    begins = [first_midnight(date(1993, 1, 1) + timedelta(days=n), ZoneInfo(zone)) for n in range(7000)]
    assert begins == sorted(begins)


def test_a_date_that_the_clock_shows_again_after_the_bound_stays_in_the_new_week() -> None:
    # St. John's, 2009-11-01: at 00:01 the clock went back to 23:01 of October 31. With quarters that begin on November
    # 1 the bound is 02:30 UTC, and one minute later the local date is October 31 for another 59 minutes.
    calendar = FiscalCalendar(start_month=11, time_zone="America/St_Johns")
    bound = datetime(2009, 11, 1, 2, 30, tzinfo=UTC)
    november = FiscalWeek.parse("FY10-Q1|W01")
    assert calendar.bounds(november).lower == bound
    assert calendar.week_of(bound - SECOND) == november.previous
    repeated = bound + timedelta(minutes=30)
    assert repeated.astimezone(calendar.zone).date() == date(2009, 10, 31)
    assert calendar.week_of(repeated) == november
    assert calendar.bounds(november).duration == timedelta(hours=169)


def test_the_week_that_lost_a_day_is_shorter_and_its_neighbours_are_whole() -> None:
    calendar = FiscalCalendar(time_zone="Pacific/Apia")
    last_week = FiscalWeek.parse("FY12-Q4|W13")
    assert calendar.days_of(last_week).days == 8
    assert calendar.bounds(last_week).duration == timedelta(days=7)
    assert calendar.bounds(last_week.previous).duration == calendar.bounds(last_week.next).duration == timedelta(days=7)
