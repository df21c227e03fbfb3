"""Quarters and weeks as a person types them."""

import pytest

from migration_assets.domain.errors import CalendarError
from migration_assets.terminal.arguments import parse_quarter, parse_weeks


@pytest.mark.parametrize(
    ("words", "weeks"),
    [
        ("FY25-Q2 W05", ["FY25-Q2|W05"]),
        ("fy25-q2 w05", ["FY25-Q2|W05"]),
        ("FY25-Q2|W05", ["FY25-Q2|W05"]),
        ("FY25-Q2|W05 W06", ["FY25-Q2|W05", "FY25-Q2|W06"]),
        ("FY25-Q2 W12-W13", ["FY25-Q2|W12", "FY25-Q2|W13"]),
        ("FY25-Q2|W01-W02", ["FY25-Q2|W01", "FY25-Q2|W02"]),
        ("FY25-Q2 W03 W02-W04", ["FY25-Q2|W03", "FY25-Q2|W02", "FY25-Q2|W04"]),
        ("FY25-Q1 W13 FY25-Q2 W01", ["FY25-Q1|W13", "FY25-Q2|W01"]),
    ],
)
def test_weeks_are_read_in_every_way_of_writing_them(words: str, weeks: list[str]) -> None:
    assert [week.key for week in parse_weeks(words.split())] == weeks


def test_a_quarter_alone_is_all_of_its_weeks() -> None:
    assert [week.name for week in parse_weeks(["FY25-Q2"])] == [f"W{number:02d}" for number in range(1, 14)]
    assert len(parse_weeks(["FY25-Q1", "FY25-Q2"])) == 26
    assert len(parse_weeks(["FY25-Q1", "FY25-Q2", "W05"])) == 14
    assert parse_weeks([]) == ()
    assert parse_quarter(" fy25-q2 ").key == "FY25-Q2"


@pytest.mark.parametrize(
    "words",
    ["W05", "FY25-Q5", "FY25-Q2 W14", "FY25-Q2 W5", "FY25-Q2 W07-W03", "FY25-Q2|", "FY25-Q2 W03-", "FY25-Q2 all", "2"],
)
def test_what_is_no_period_is_refused_with_a_way_to_write_it(words: str) -> None:
    with pytest.raises(CalendarError) as caught:
        parse_weeks(words.split())
    assert "Write" in caught.value.next_step
