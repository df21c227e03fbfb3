"""Both checks of what lies ahead, run alone: green, red for every cause, and red long before an insert could fail."""

from datetime import UTC, datetime

import dagster as dg
import pytest

from migration_assets.defs.checks import runway_is_sufficient
from migration_assets.embedded.bookings import AS_OF
from migration_assets.quarters.opening import open_quarter
from migration_assets.stream.holding import start_stream
from migration_assets_tests.defs.conftest import QUARTER, Project, at, table_rows

NEXT = QUARTER.next
WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


@pytest.fixture
def ahead(opened_project: Project) -> Project:
    """FY25-Q2 and FY25-Q3 open on 2024-06-24 at noon, no stream."""
    opened = at(opened_project, AS_OF)
    open_quarter(opened.migration, NEXT)
    return opened


def runway(project: Project) -> dg.AssetCheckEvaluation:
    return project.run_check("quarter_partitions", "runway_is_sufficient")


def gaps(project: Project) -> dg.AssetCheckEvaluation:
    return project.run_check("quarter_partitions", "no_gap_no_overlap")


def test_two_open_quarters_are_enough_and_the_figures_can_be_plotted(ahead: Project) -> None:
    found = runway(ahead)
    assert found.passed, found.description
    assert found.partition == "FY25-Q2"
    assert (found.metadata["days"].value, found.metadata["quarters"].value) == (98.5, 2)
    assert found.metadata["last_bound"].value == "2024-10-01 00:00 UTC"
    assert found.metadata["ends_with"].value == "FY25-Q4|W01 has no leaf"


@pytest.mark.long(but=1)
@pytest.mark.parametrize(
    ("now", "severity"),
    [
        (datetime(2024, 7, 1, tzinfo=UTC), WARN),  # one quarter is left of two
        (datetime(2024, 9, 17, 13, tzinfo=UTC), WARN),
        (datetime(2024, 9, 27, 11, tzinfo=UTC), WARN),
        (datetime(2024, 9, 27, 13, tzinfo=UTC), ERROR),  # less than a quarter of 14 days
        (datetime(2024, 10, 1, tzinfo=UTC), ERROR),
    ],
)
def test_the_runway_is_red_long_before_its_end(ahead: Project, now: datetime, severity: dg.AssetCheckSeverity) -> None:
    found = runway(at(ahead, now))
    assert (found.passed, found.severity) == (False, severity), found.description
    assert "Next: read the last tick of quarter_opener" in str(found.description)


def test_days_alone_are_red_where_one_quarter_is_enough(ahead: Project) -> None:
    assert runway(at(ahead, datetime(2024, 9, 16, tzinfo=UTC), runway_quarters=1)).passed
    late = runway(at(ahead, datetime(2024, 9, 18, 1, tzinfo=UTC), runway_quarters=1))
    assert (late.passed, late.severity) == (False, WARN)


def test_a_leaf_that_is_gone_ends_the_runway(ahead: Project) -> None:
    ahead.on_base("DROP TABLE amenity_bookings_fy25_q3_w01")
    found = runway(ahead)
    assert (found.passed, found.severity) == (False, WARN)
    assert found.metadata["days"].value == 6.5
    ahead.on_base("ALTER TABLE amenity_bookings_fy25_q2 DETACH PARTITION amenity_bookings_fy25_q2_w13")
    assert (runway(ahead).severity, runway(ahead).metadata["days"].value) == (ERROR, 0.0)


@pytest.mark.long
def test_where_a_stream_runs_a_quarter_that_it_does_not_cover_ends_the_runway(ahead: Project) -> None:
    start_stream(ahead.migration, QUARTER)
    found = runway(ahead)
    assert (found.passed, found.severity) == (False, WARN)
    assert found.metadata["ends_with"].value == "FY25-Q3|W01 is not under CDC"
    start_stream(ahead.migration, NEXT)
    assert runway(ahead).passed


def test_gaps_strangers_and_wrong_bounds_are_red_and_listed(ahead: Project) -> None:
    assert gaps(ahead).passed
    ahead.on_base("DROP TABLE amenity_bookings_fy25_q3_w05")
    ahead.on_base("CREATE TABLE rest PARTITION OF amenity_bookings DEFAULT")
    found = gaps(ahead)
    assert (found.passed, found.severity, found.metadata["flaws"].value) == (False, ERROR, 2)
    assert {row["severity"] for row in table_rows(found.metadata["list"])} == {"critical"}
    assert "gap in FY25-Q3: no partition takes rows of W05" in str(found.description)
    assert "public.rest is a default partition" in str(found.description)


def test_a_quarter_that_was_never_opened_between_others_is_a_warning(ahead: Project) -> None:
    open_quarter(ahead.migration, NEXT.next.next)
    found = gaps(ahead)
    assert (found.passed, found.severity) == (False, WARN)


@pytest.mark.parametrize("check", ["runway_is_sufficient", "no_gap_no_overlap"])
def test_before_anything_was_opened_both_are_red_and_no_error(empty_project: Project, check: str) -> None:
    empty_project.instance.add_dynamic_partitions("fiscal_quarter", [QUARTER.key])
    found = empty_project.run_check("quarter_partitions", check)
    assert not found.passed
    assert "no quarter was ever opened" in str(found.description)


def test_in_one_run_the_runway_is_measured_after_the_join() -> None:
    """Before it, every run of the opener would be yellow."""
    [spec] = runway_is_sufficient.check_specs
    assert [dep.asset_key.to_user_string() for dep in spec.additional_deps] == ["change_stream"]
