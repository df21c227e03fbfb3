"""Labels: every quarter and week has exactly one key, one place in the order, and cannot be wrong."""

from itertools import pairwise

import pytest

from migration_assets.domain.errors import CalendarError
from migration_assets.domain.fiscal_calendar import WEEK_NAMES, FiscalQuarter, FiscalWeek

# fmt: off
SHORT_LABELS = ((1970, "FY70-Q2"), (1999, "FY99-Q2"), (2000, "FY00-Q2"), (2025, "FY25-Q2"), (2069, "FY69-Q2"))
LONG_LABELS = ((1969, "FY1969-Q2"), (2070, "FY2070-Q2"), (2125, "FY2125-Q2"), (1, "FY0001-Q2"), (9999, "FY9999-Q2"))
NO_QUARTERS = (
    "", "FY25", "FY25-Q0", "FY25-Q5", "FY25-Q", "FY5-Q2", "FY125-Q2", "FY12025-Q2", "fy25-q2", "FY25_Q2", "25-Q2",
    "FY2025-Q2", "FY1970-Q1", "FY2069-Q4", " FY25-Q2", "FY25-Q2 ", "FY25-Q2\n", "FY25-Q2|W01", "FY-5-Q2", "FY0000-Q1",
    "FY\u0662\u0665-Q2",  # Arabic digits, which int() would read
)
NO_WEEKS = (
    "", "|", "W05", "FY25-Q2", "FY25-Q2|", "FY25-Q2|W00", "FY25-Q2|W14", "FY25-Q2|W5", "FY25-Q2|w05", "FY25-Q2|W05\n",
    "FY25-Q2W05", "FY25-Q2|W05|W06", "FY2025-Q2|W05", "W05|FY25-Q2", "FY25-Q2 | W05",
)
# fmt: on
EVERY_QUARTER = [FiscalQuarter(year, number) for year in range(1, 10_000) for number in range(1, 5)]


def test_every_quarter_of_all_years_has_its_own_key_that_is_parsed_back() -> None:
    keys = {quarter.key for quarter in EVERY_QUARTER}
    assert len(keys) == len(EVERY_QUARTER)
    assert all(FiscalQuarter.parse(quarter.key) == quarter for quarter in EVERY_QUARTER)


@pytest.mark.parametrize(("year", "key"), [*SHORT_LABELS, *LONG_LABELS])
def test_two_digits_stand_for_1970_to_2069_and_four_for_all_other_years(year: int, key: str) -> None:
    assert FiscalQuarter(year, 2).key == str(FiscalQuarter(year, 2)) == key


@pytest.mark.parametrize("key", NO_QUARTERS)
def test_any_other_spelling_of_a_quarter_is_refused(key: str) -> None:
    with pytest.raises(CalendarError):
        FiscalQuarter.parse(key)


def test_a_refused_spelling_says_what_is_expected() -> None:
    with pytest.raises(CalendarError, match="Next: Write it like FY25-Q2"):
        FiscalQuarter.parse("2025Q2")
    with pytest.raises(CalendarError, match="Next: Write FY25-Q2"):
        FiscalQuarter.parse("FY2025-Q2")
    with pytest.raises(CalendarError, match=r"Next: Write it like FY25-Q2\|W05"):
        FiscalWeek.parse("FY25-Q2")


@pytest.mark.parametrize("key", NO_WEEKS)
def test_any_other_spelling_of_a_week_is_refused(key: str) -> None:
    with pytest.raises(CalendarError):
        FiscalWeek.parse(key)


def test_weeks_have_the_names_w01_to_w13() -> None:
    quarter = FiscalQuarter(2025, 2)
    chain = [FiscalWeek(quarter, number) for number in range(1, 14)]
    assert tuple(week.name for week in chain) == WEEK_NAMES
    assert (WEEK_NAMES[0], WEEK_NAMES[-1], len(WEEK_NAMES)) == ("W01", "W13", 13)
    assert chain[4].key == str(chain[4]) == "FY25-Q2|W05"
    assert [FiscalWeek.parse(week.key) for week in chain] == chain


def test_quarters_form_one_chain_in_chronological_order() -> None:
    for earlier, later in pairwise(EVERY_QUARTER):
        assert earlier.next == later
        assert later.previous == earlier
        assert earlier < later
        assert later.ordinal == earlier.ordinal + 1


def test_weeks_form_one_chain_across_quarters_and_years() -> None:
    week, seen = FiscalWeek(FiscalQuarter(1969, 1), 1), 0
    while week.quarter.fiscal_year < 2071:
        assert week < week.next
        assert week.next.previous == week
        week, seen = week.next, seen + 1
    assert seen == (2071 - 1969) * 52
    assert FiscalWeek.parse("FY24-Q4|W13").next.key == "FY25-Q1|W01"


def test_the_chains_end_with_a_calendar_error() -> None:
    with pytest.raises(CalendarError):
        _ = EVERY_QUARTER[0].previous
    with pytest.raises(CalendarError):
        _ = EVERY_QUARTER[-1].next
    with pytest.raises(CalendarError):
        _ = FiscalWeek(EVERY_QUARTER[0], 1).previous
    with pytest.raises(CalendarError):
        _ = FiscalWeek(EVERY_QUARTER[-1], 13).next


@pytest.mark.parametrize(
    ("year", "number"), [(0, 1), (-1, 1), (10_000, 1), (2025, 0), (2025, 5), (2025.0, 1), (True, 1), ("2025", 1)]
)
def test_an_invalid_quarter_cannot_be_built(year: int, number: int) -> None:
    with pytest.raises(CalendarError, match="must be a whole number in"):
        FiscalQuarter(year, number)


@pytest.mark.parametrize("number", [0, 14, -1, 1.0, True, "1"])
def test_an_invalid_week_cannot_be_built(number: int) -> None:
    with pytest.raises(CalendarError, match="must be a whole number in"):
        FiscalWeek(FiscalQuarter(2025, 2), number)


@pytest.mark.parametrize("quarter", ["FY25-Q2", None])
def test_a_week_needs_a_quarter(quarter: FiscalQuarter) -> None:
    with pytest.raises(CalendarError, match="must be a FiscalQuarter"):
        FiscalWeek(quarter, 1)
