"""The opener's rule against the calendar: a clock that runs for years, and what the runway says at every moment."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest

from migration_assets.domain.fiscal_calendar import ControlKind, FiscalCalendar, FiscalQuarter, FiscalWeek
from migration_assets.domain.runway import (
    NO_LEAF,
    NOT_UNDER_CDC,
    Places,
    RunwayPolicy,
    find_needs,
    judge_days,
    judge_runway,
    left_behind,
    measure_runway,
    needed_quarters,
    reaches_present,
)
from migration_assets.domain.samples import Severity

Q2 = FiscalQuarter(2025, 2)
CALENDARS = [
    FiscalCalendar(),
    FiscalCalendar(start_month=2, label_offset=0),  # has a quarter of 89 days
    FiscalCalendar(start_month=11, time_zone="America/St_Johns"),  # clocks went back over the midnight of a bound
    FiscalCalendar(start_month=4, time_zone="Europe/Berlin"),
    FiscalCalendar(start_month=7, label_offset=0, time_zone="Pacific/Apia"),  # a day was skipped
]
POLICIES = [RunwayPolicy(14, 1), RunwayPolicy(0, 1), RunwayPolicy(200, 2), RunwayPolicy(1, 8)]


def whole(*quarters: FiscalQuarter) -> frozenset[FiscalWeek]:
    return frozenset(week for quarter in quarters for week in FiscalCalendar.weeks_of(quarter))


def at(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(tzinfo=UTC)


@pytest.mark.long(but=1)
@pytest.mark.parametrize(
    ("calendar", "policy"),
    [*((calendar, RunwayPolicy()) for calendar in CALENDARS), *((CALENDARS[2], policy) for policy in POLICIES)],
    ids=str,
)
def test_a_clock_that_runs_for_years_finds_everything_open_that_it_needs(
    calendar: FiscalCalendar, policy: RunwayPolicy
) -> None:
    """Day by day over year turns and leap years, with an opener that does only what it is told to."""
    now, end = datetime(2007, 10, 20, 3, 30, tzinfo=UTC), datetime(2012, 3, 3, tzinfo=UTC)
    opened: list[FiscalQuarter] = []
    places = Places()
    while now < end:
        needed = needed_quarters(calendar, now, policy)
        assert all(left.next == right for left, right in pairwise(needed))
        assert now in calendar.bounds(needed[0])
        assert calendar.bounds(needed[-1]).upper > now + timedelta(days=policy.days)
        assert len(needed) >= policy.quarters
        spare = needed[:-1]
        assert len(spare) < policy.quarters or calendar.bounds(spare[-1]).upper <= now + timedelta(days=policy.days)
        if opened:
            assert measure_runway(calendar, now, places).days > policy.days - 1, "due within a day, never late"
        needs = find_needs(calendar, now, policy, places)
        assert [need.quarter for need in needs] == [quarter for quarter in needed if quarter not in opened]
        if needs:
            opened += [need.quarter for need in needs]
            places = Places(whole(*opened))
            runway = measure_runway(calendar, now, places)
            assert runway.ends_at > now + timedelta(days=policy.days)
            assert judge_runway(runway, policy) is None
        now += timedelta(days=1)
    assert opened == sorted(opened), "keys are added in the order of time"
    assert calendar.quarters_between(opened[0], opened[-1]) == tuple(opened)


@pytest.mark.parametrize("calendar", CALENDARS, ids=lambda c: f"{c.start_month}-{c.time_zone}")
@pytest.mark.parametrize("kind", list(ControlKind))
def test_the_leaves_of_what_was_opened_tile_the_time_around_every_change_of_clocks(
    calendar: FiscalCalendar, kind: ControlKind
) -> None:
    first = calendar.quarter_of(at("2006-10-20"))
    weeks = [
        week for number in range(28) for week in calendar.weeks_of(FiscalQuarter.from_ordinal(first.ordinal + number))
    ]
    bounds = [calendar.bound_values(week, kind) for week in weeks]
    assert all(left[1] == right[0] for left, right in pairwise(bounds))


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2024-04-01", ["FY25-Q2"]),
        ("2024-06-16T23:59:59", ["FY25-Q2"]),
        ("2024-06-17", ["FY25-Q2", "FY25-Q3"]),  # 14 days before 2024-07-01
        ("2024-06-30T23:59:59.999999", ["FY25-Q2", "FY25-Q3"]),
        ("2024-07-01", ["FY25-Q3"]),
        ("2024-12-18", ["FY25-Q4", "FY26-Q1"]),  # over the turn of the year
    ],
)
def test_the_next_quarter_is_due_exactly_so_many_days_early(now: str, expected: list[str]) -> None:
    assert [quarter.key for quarter in needed_quarters(FiscalCalendar(), at(now), RunwayPolicy(14, 1))] == expected


@pytest.mark.parametrize(
    ("now", "opened", "behind", "between"),
    [
        ("2024-05-01", ["FY25-Q2"], [], []),
        ("2025-02-01", ["FY25-Q2"], ["FY25-Q3", "FY25-Q4"], []),  # it did not run for half a year
        ("2025-02-01", ["FY25-Q2", "FY25-Q4"], [], ["FY25-Q3"]),
        ("2025-02-01", ["FY25-Q1", "FY25-Q3"], ["FY25-Q4"], ["FY25-Q2"]),
        ("2025-02-01", ["FY25-Q2", "FY26-Q1", "FY26-Q2"], [], ["FY25-Q3", "FY25-Q4"]),
        ("2025-02-01", ["FY26-Q1", "FY26-Q2"], [], []),
        ("2025-02-01", ["FY26-Q2"], [], []),  # opened ahead, and nothing of the past
    ],
)
def test_quarters_that_nobody_opened_while_it_did_not_run_are_found(
    now: str, opened: list[str], behind: list[str], between: list[str]
) -> None:
    found = left_behind(FiscalCalendar(), at(now), [FiscalQuarter.parse(key) for key in opened])
    assert [[quarter.key for quarter in quarters] for quarters in found] == [behind, between]


def test_two_quarters_always_exist_however_far_away_the_second_is() -> None:
    found = needed_quarters(FiscalCalendar(), at("2024-04-01"), RunwayPolicy(14, 2))
    assert [quarter.key for quarter in found] == ["FY25-Q2", "FY25-Q3"]


def test_a_leap_day_is_counted() -> None:
    calendar = FiscalCalendar(start_month=3)
    assert calendar.days_of(calendar.quarter_of(at("2024-02-29"))).end == date(2024, 3, 1)
    assert len(needed_quarters(calendar, at("2024-02-15"), RunwayPolicy(14, 1))) == 1
    assert len(needed_quarters(calendar, at("2024-02-16"), RunwayPolicy(14, 1))) == 2


def test_the_bound_of_st_johns_is_where_the_clock_first_shows_the_day() -> None:
    """On 2009-11-01 at 00:01 clocks went back to 23:01: a quarter that begins on November 1 begins before that."""
    calendar = FiscalCalendar(start_month=11, time_zone="America/St_Johns")
    bound = at("2009-11-01T02:30")
    assert len(needed_quarters(calendar, bound - timedelta(seconds=1), RunwayPolicy(0, 1))) == 1
    before = needed_quarters(calendar, bound - timedelta(seconds=1), RunwayPolicy(0, 1))[0]
    again = [needed_quarters(calendar, bound + timedelta(minutes=m), RunwayPolicy(0, 1))[0] for m in (0, 1, 30, 61)]
    assert again == [before.next] * 4
    runway = measure_runway(calendar, bound - timedelta(hours=1), Places(whole(before)))
    assert (runway.ends_at, runway.ends_with.quarter) == (bound, before.next)


def test_the_runway_ends_at_the_first_week_without_a_leaf() -> None:
    lost = FiscalWeek(Q2, 9)
    places = Places(whole(Q2, Q2.next) - {lost})
    runway = measure_runway(FiscalCalendar(), at("2024-05-20T12:00"), places)
    assert (runway.ends_with, runway.because, runway.quarters) == (lost, NO_LEAF, 0)
    assert (runway.ends_at, runway.days) == (at("2024-05-27"), 6.5)


def test_a_week_of_the_past_does_not_shorten_the_runway_but_its_quarter_is_not_whole() -> None:
    runway = measure_runway(FiscalCalendar(), at("2024-05-20"), Places(whole(Q2, Q2.next) - {FiscalWeek(Q2, 1)}))
    assert (runway.ends_at, runway.quarters) == (at("2024-10-01"), 0)


def test_where_there_is_no_leaf_now_nothing_is_left() -> None:
    runway = measure_runway(FiscalCalendar(), at("2024-05-20"), Places(whole(Q2.next)))
    assert (runway.days, judge_runway(runway, RunwayPolicy(0, 1))) == (0.0, Severity.CRITICAL)


def test_a_stream_in_the_present_must_cover_the_weeks_too() -> None:
    places = Places(whole(Q2, Q2.next), under_cdc=whole(Q2))
    runway = measure_runway(FiscalCalendar(), at("2024-06-24"), places)
    assert (runway.days, runway.because, runway.quarters, runway.followed) == (7.0, NOT_UNDER_CDC, 1, True)
    [need] = find_needs(FiscalCalendar(), at("2024-06-24"), RunwayPolicy(), places)
    assert (need.quarter, need.without_leaf, len(need.not_under_cdc)) == (Q2.next, (), 13)


def test_a_stream_that_works_on_the_past_is_not_late_and_one_that_missed_its_quarter_is() -> None:
    calendar, leaves = FiscalCalendar(), whole(Q2, Q2.next, Q2.next.next, FiscalQuarter(2026, 1))
    places = Places(leaves, under_cdc=whole(Q2))
    assert reaches_present(calendar, at("2024-06-30"), places)
    assert reaches_present(calendar, at("2024-09-30"), places), "for the whole of the quarter that it missed"
    assert measure_runway(calendar, at("2024-09-30"), places).days == 0
    assert not reaches_present(calendar, at("2024-10-01"), places)
    assert measure_runway(calendar, at("2024-10-01"), places).quarters == 2
    assert not reaches_present(calendar, at("2024-06-30"), Places(leaves))


def test_what_is_retired_or_released_is_nobodys_need() -> None:
    gone = FiscalWeek(Q2, 3)
    places = Places(whole(Q2, Q2.next) - {gone}, whole(Q2, Q2.next) - {gone}, frozenset({gone}))
    assert find_needs(FiscalCalendar(), at("2024-06-24"), RunwayPolicy(), places) == ()
    assert measure_runway(FiscalCalendar(), at("2024-06-24"), places).quarters == 2


@pytest.mark.parametrize(
    ("days", "wanted", "expected"),
    [
        (14.0, 14, None),
        (13.01, 14, None),  # opened when its time comes: within the day
        (13.0, 14, Severity.WARNING),
        (3.5, 14, Severity.WARNING),
        (3.49, 14, Severity.CRITICAL),
        (0.0, 0, Severity.CRITICAL),
        (0.1, 0, None),
    ],
)
def test_the_runway_warns_early_and_is_critical_at_a_quarter(
    days: float, wanted: float, expected: Severity | None
) -> None:
    assert judge_days(days, wanted) is expected


def test_too_few_quarters_warn_however_many_days_they_last() -> None:
    runway = measure_runway(FiscalCalendar(), at("2024-04-01"), Places(whole(Q2)))
    assert judge_runway(runway, RunwayPolicy(14, 1)) is None
    assert judge_runway(runway, RunwayPolicy(14, 2)) is Severity.WARNING
