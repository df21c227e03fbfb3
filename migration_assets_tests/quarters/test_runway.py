"""The base's partitions against the calendar: every way in which they can be wrong is found and named."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import LiteralString

import psycopg
import pytest

from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalQuarter
from migration_assets.domain.runway import RunwayPolicy, find_needs, measure_runway
from migration_assets.domain.samples import Severity
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.quarters.flaws import Flaw, find_flaws
from migration_assets.quarters.runway import Partition, attached_leaves, read_places
from migration_assets_tests.ground import BOOKINGS, QUARTER, SPEC, Ground, week


@pytest.fixture
def opened(ground: Ground) -> Ground:
    """FY25-Q2 and FY25-Q3 open, no stream."""
    ground.run("legacy", BOOKINGS)
    ground.open()
    ground.open(QUARTER.next)
    return ground


def flaws(ground: Ground) -> list[Flaw]:
    with ground.databases.session("base", "test") as base:
        return find_flaws(base, ground.spec, ground.calendar)


def one_flaw(ground: Ground) -> str:
    found = flaws(ground)
    assert len(found) == 1, found
    assert found[0].severity is Severity.CRITICAL, found
    assert found[0].next_step
    return found[0].what


def test_what_was_opened_has_no_flaw(opened: Ground) -> None:
    assert flaws(opened) == []
    with opened.databases.session("base", "test") as base:
        places = read_places(base, opened.spec)
    assert (len(places.attached), places.under_cdc, places.settled) == (26, None, frozenset())


RED: dict[str, tuple[list[LiteralString], str]] = {
    "a leaf is gone": (["DROP TABLE bookings_fy25_q2_w05"], "gap in FY25-Q2: no partition takes rows of W05"),
    "leaves are detached": (
        [
            "ALTER TABLE bookings_fy25_q3 DETACH PARTITION bookings_fy25_q3_w01",
            "ALTER TABLE bookings_fy25_q3 DETACH PARTITION bookings_fy25_q3_w13",
        ],
        "gap in FY25-Q3: no partition takes rows of W01, W13",
    ),
    "a quarter is detached": (
        ["ALTER TABLE bookings DETACH PARTITION bookings_fy25_q2"],
        "gap in FY25-Q2: no partition takes rows of W01, W02, W03",
    ),
    "a default partition": (
        ["CREATE TABLE rest PARTITION OF bookings DEFAULT"],
        "public.rest is a default partition",
    ),
    "a default partition in a quarter": (
        ["CREATE TABLE rest PARTITION OF bookings_fy25_q2 DEFAULT"],
        "public.rest is a default partition",
    ),
    "a stranger": (
        ["CREATE TABLE old_ones PARTITION OF bookings FOR VALUES FROM ('2001-01-01Z') TO ('2002-01-01Z')"],
        "public.old_ones under public.bookings is no partition of the calendar's",
    ),
    "a leaf at the root": (
        [
            (
                "CREATE TABLE bookings_fy26_q1_w01 PARTITION OF bookings"
                " FOR VALUES FROM ('2025-01-01Z') TO ('2025-01-08Z')"
            ),
        ],
        "public.bookings_fy26_q1_w01 under public.bookings is no partition of the calendar's",
    ),
    "a leaf that a crash empties": (
        ["ALTER TABLE bookings_fy25_q2_w05 SET UNLOGGED"],
        "public.bookings_fy25_q2_w05 is UNLOGGED",
    ),
    "other bounds": (
        [
            "ALTER TABLE bookings_fy25_q2 DETACH PARTITION bookings_fy25_q2_w05",
            (
                "ALTER TABLE bookings_fy25_q2 ATTACH PARTITION bookings_fy25_q2_w05"
                " FOR VALUES FROM ('2024-04-29Z') TO ('2024-05-05Z')"
            ),
        ],
        "public.bookings_fy25_q2_w05 has bounds FOR VALUES FROM ('2024-04-29 00:00:00+00') TO ('2024-05-05",
    ),
}


def test_a_leaf_is_one_in_its_roots_own_schema() -> None:
    name = "bookings_fy25_q2_w05"
    at = [Partition(QualifiedName(schema, name), SPEC.table, 2, "", False, True) for schema in ("public", "other")]
    assert attached_leaves(SPEC.table, at[:1]) == {week(5)}
    assert attached_leaves(SPEC.table, at[1:]) == frozenset()


@pytest.mark.long(but=1)
@pytest.mark.parametrize("cause", RED)
def test_a_flaw_is_found_and_named(opened: Ground, cause: str) -> None:
    statements, expected = RED[cause]
    opened.run("base", *statements)
    assert expected in one_flaw(opened)


def test_a_detach_that_was_never_finished_is_found_though_the_leaf_is_still_listed(opened: Ground) -> None:
    with psycopg.connect(opened.databases.base_url) as reader:
        reader.execute("SELECT FROM bookings")
        with psycopg.connect(opened.databases.base_url, autocommit=True) as person:
            person.execute("SET lock_timeout = '300ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                person.execute("ALTER TABLE bookings_fy25_q2 DETACH PARTITION bookings_fy25_q2_w05 CONCURRENTLY")
    found = [flaw.what for flaw in flaws(opened)]
    assert len(found) == 2
    assert "a detach of public.bookings_fy25_q2_w05 (FY25-Q2|W05) was begun and never finished" in found[0]
    assert "no partition takes rows of W05" in found[1]
    with opened.databases.session("base", "test") as base:
        assert week(5) not in read_places(base, opened.spec).attached


def test_another_calendar_than_the_base_was_made_with_is_told(opened: Ground) -> None:
    other = replace(opened, calendar=FiscalCalendar(time_zone="Europe/Berlin"))
    found = flaws(other)
    assert len(found) == 28, "two quarters and 26 leaves"
    assert "the calendar says FOR VALUES FROM ('2024-03-31 22:00:00+00')" in found[0].what


def test_a_retired_week_is_no_gap_and_one_that_is_attached_again_is_told(opened: Ground) -> None:
    opened.run(
        "base",
        "UPDATE migration.slices SET state = 'retired' WHERE quarter = 'FY25-Q2' AND week IN ('W01', 'W02')",
        "ALTER TABLE bookings_fy25_q2 DETACH PARTITION bookings_fy25_q2_w01",
    )
    [flaw] = flaws(opened)
    assert flaw.severity is Severity.WARNING
    assert "bookings_fy25_q2_w02 is attached, and the ledger says that FY25-Q2|W02 was retired" in flaw.what


def test_a_partition_that_the_ledger_does_not_know_is_told(opened: Ground) -> None:
    opened.run("base", "DELETE FROM migration.slices WHERE quarter = 'FY25-Q3' AND week = 'W13'")
    [flaw] = flaws(opened)
    assert (flaw.severity, "does not know public.bookings_fy25_q3_w13" in flaw.what) == (Severity.WARNING, True)


def test_quarters_that_were_never_opened_between_others_are_a_warning(opened: Ground) -> None:
    opened.open(FiscalQuarter(2024, 4))
    [flaw] = flaws(opened)
    assert (flaw.severity, "no partitions for FY25-Q1" in flaw.what) == (Severity.WARNING, True)


@pytest.mark.long
@pytest.mark.parametrize(
    "calendar",
    [
        FiscalCalendar(start_month=11, time_zone="America/St_Johns"),
        FiscalCalendar(start_month=4, time_zone="Europe/Berlin"),
        FiscalCalendar(start_month=2, label_offset=0, time_zone="Pacific/Apia"),
    ],
    ids=lambda calendar: calendar.time_zone,
)
@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date"])
def test_what_the_opener_opens_over_two_years_takes_every_row_and_has_no_flaw(
    ground: Ground, calendar: FiscalCalendar, kind: LiteralString
) -> None:
    """A year turn, a leap day, both changes of clocks: St. John's turned them back over a quarter's first midnight."""
    ground.run("legacy", BOOKINGS.replace("timestamptz", kind))
    run_by(replace(ground, calendar=calendar), datetime(2009, 10, 25, 1, tzinfo=UTC), lambda now: now.year < 2012)
    zone = calendar.time_zone
    ground.run(
        "base",
        "INSERT INTO bookings (booked_at) SELECT "
        + ("t" if kind == "timestamptz" else f"t AT TIME ZONE '{zone}'")  # pyright: ignore[reportArgumentType]
        + " FROM generate_series('2009-10-26Z'::timestamptz, '2012-01-10Z', interval '17 minutes') t",
    )
    assert flaws(replace(ground, calendar=calendar)) == []


def run_by(ground: Ground, now: datetime, goes_on: Callable[[datetime], bool]) -> None:
    """An opener with a clock of its own, three days a tick, on a real base; the runway is never too short."""
    ground.open(ground.calendar.quarter_of(now))
    with ground.databases.session("base", "test") as base:
        places = read_places(base, ground.spec)
        while goes_on(now):
            for need in find_needs(ground.calendar, now, RunwayPolicy(14, 1), places):
                ground.open(need.quarter)
                places = read_places(base, ground.spec)
            assert measure_runway(ground.calendar, now, places).days > 14
            now += timedelta(days=3)
