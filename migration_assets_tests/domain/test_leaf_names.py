"""Names of partitions fit into PostgreSQL's 63 bytes, never collide, and are parsed back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migration_assets.domain.errors import TableSpecError
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.domain.table_spec import (
    leaf_name,
    parse_leaf_name,
    parse_quarter_table_name,
    quarter_table_name,
)

WEEK = FiscalWeek.parse("FY25-Q2|W05")
quarters = st.builds(FiscalQuarter, st.integers(1, 9999), st.integers(1, 4))
weeks = st.builds(FiscalWeek, quarters, st.integers(1, 13))
# Every shape of name: letters of one to four bytes, digits and underscores that imitate suffixes and hashes.
tables = st.text(st.sampled_from("ab_w0159fyq éß漢🎉\"'%"), min_size=1, max_size=70)

# fmt: off
NO_LEAVES = (
    "", "t", "t_", "t_fy25_q2_", "t_fy25_q2_w14", "t_fy25_q2_w00", "t_fy25_q2_w5", "t_fy25_q5_w05", "t_FY25_q2_w05",
    "t_fy2025_q2_w05", "t_fy025_q2_w05", "t_fy25_q2_w05x", "t_fy25_q2_w05\n", "x_fy25_q2_w05", "tt_fy25_q2_w05",
    "t_fy25_q2_w05_old", "t_fy\u0662\u0665_q2_w05", "t_fy0000_q2_w05", "t_fy25_q2_W05",
)
# fmt: on


def test_names_are_as_the_design_writes_them() -> None:
    assert quarter_table_name("amenity_bookings", WEEK.quarter) == "amenity_bookings_fy25_q2"
    assert leaf_name("amenity_bookings", WEEK) == "amenity_bookings_fy25_q2_w05"
    assert leaf_name("Amenity Bookings", WEEK) == "Amenity Bookings_fy25_q2_w05"
    assert quarter_table_name("t", FiscalQuarter(2125, 1)) == "t_fy2125_q1"


@settings(max_examples=150, deadline=None)
@given(tables, weeks)
def test_any_leaf_fits_and_is_parsed_back(table: str, week: FiscalWeek) -> None:
    leaf, parent = leaf_name(table, week), quarter_table_name(table, week.quarter)
    assert len(leaf.encode()) <= 63
    assert leaf.startswith(parent)
    assert parse_leaf_name(table, leaf) == week
    assert parse_quarter_table_name(table, parent) == week.quarter
    assert parse_leaf_name(table, parent) is None
    assert parse_quarter_table_name(table, leaf) is None


@settings(max_examples=150, deadline=None)
@given(tables, tables, weeks, weeks)
def test_different_tables_or_weeks_have_different_names(
    table: str, other: str, week: FiscalWeek, other_week: FiscalWeek
) -> None:
    names = {leaf_name(name, period) for name in {table, other} for period in {week, other_week}}
    assert len(names) == len({table, other}) * len({week, other_week})


@pytest.mark.parametrize("letter", ["a", "é", "漢", "🎉"])
def test_tables_that_differ_only_at_their_end_stay_different_at_every_length(letter: str) -> None:
    width = len(letter.encode())
    names = [leaf_name(letter * count + end, WEEK) for count in range(1, 63 // width) for end in ("", "x", "y", "_")]
    assert len(names) - len(set(names)) == 0
    assert max(len(name.encode()) for name in names) <= 63


def test_49_bytes_are_kept_as_they_are_and_50_are_shortened_with_a_hash() -> None:
    assert leaf_name("a" * 49, WEEK) == "a" * 49 + "_fy25_q2_w05"
    shortened = leaf_name("a" * 50, WEEK)
    # Spelled out: a change of the hash would orphan the leaves of tables that were already migrated.
    assert shortened == "a" * 40 + "_160b4e43_fy25_q2_w05"
    assert parse_leaf_name("a" * 51, shortened) is None


@pytest.mark.parametrize(("table", "size"), [("a" * 50, 49), ("a" + "🎉" * 13, 46)])  # the second is cut in a character
def test_a_short_table_that_looks_like_a_shortened_one_does_not_take_its_names(table: str, size: int) -> None:
    stem = quarter_table_name(table, WEEK.quarter).removesuffix("_fy25_q2")
    assert len(stem.encode()) == size
    assert leaf_name(stem, WEEK) != leaf_name(table, WEEK)
    assert parse_leaf_name(stem, leaf_name(table, WEEK)) is None


@pytest.mark.parametrize("name", NO_LEAVES)
def test_a_name_that_is_no_leaf_of_the_table_is_not_parsed(name: str) -> None:
    assert parse_leaf_name("t", name) is None
    assert parse_quarter_table_name("t", name) is None


@pytest.mark.parametrize("table", ["", "a\0b", "\ud800"])
def test_a_name_that_no_table_can_have_is_refused(table: str) -> None:
    with pytest.raises(TableSpecError, match="cannot be the name of a table"):
        leaf_name(table, WEEK)
