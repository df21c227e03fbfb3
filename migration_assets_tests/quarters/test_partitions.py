"""Opening a quarter: repeatable, safe beside others, and never on top of something that is not ours."""

from itertools import pairwise
from typing import LiteralString

import psycopg
import pytest

from migration_assets.domain.errors import PartitionError
from migration_assets.domain.fiscal_calendar import FiscalCalendar
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import Timeouts
from migration_assets.quarters.partitions import OpenedQuarter, attach, ensure_quarter
from migration_assets_tests.ground import BOOKINGS, QUARTER, Ground, at_once


@pytest.fixture
def legacy_only(ground: Ground) -> Ground:
    ground.run("legacy", BOOKINGS)
    with ground.databases.session("base", "test") as base:
        ensure_ledger(base)
    return ground


def _other(ground: Ground, calendar: FiscalCalendar) -> Ground:
    return Ground(ground.databases, calendar=calendar)


def test_opening_a_quarter_twice_makes_it_once(legacy_only: Ground) -> None:
    first = legacy_only.open()
    state = legacy_only.base_state()
    second = legacy_only.open()
    assert len(first.created) == 13
    assert second.created == ()
    assert second.leaves == first.leaves == first.created
    assert legacy_only.base_state() == state


def test_four_that_open_the_same_quarter_at_once_make_it_once(legacy_only: Ground) -> None:
    results = at_once([legacy_only.open] * 4)
    assert all(isinstance(result, OpenedQuarter) for result in results), results
    assert sorted(len(r.created) for r in results if isinstance(r, OpenedQuarter)) == [0, 0, 0, 13]
    leaves = "SELECT count(*) FROM pg_partition_tree('bookings') WHERE isleaf"
    assert legacy_only.one("base", leaves) == 13


def test_four_that_open_four_quarters_at_once_make_them_all(legacy_only: Ground) -> None:
    quarters = [QUARTER, QUARTER.next, QUARTER.previous, QUARTER.next.next]
    results = at_once([lambda q=q: legacy_only.open(q) for q in quarters])
    assert [len(r.created) for r in results if isinstance(r, OpenedQuarter)] == [13] * 4, results


def test_the_leaves_of_a_year_tile_it_without_gap_or_overlap(legacy_only: Ground) -> None:
    for quarter in (QUARTER.previous, QUARTER, QUARTER.next):
        legacy_only.open(quarter)
    bounds = legacy_only.ask(
        "base", "SELECT lower_bound::timestamptz, upper_bound::timestamptz FROM migration.slices ORDER BY 1"
    )
    assert len(bounds) == 39
    assert all(left[1] == right[0] for left, right in pairwise(bounds))
    legacy_only.run(
        "base",
        "INSERT INTO bookings (booked_at) SELECT t FROM generate_series('2024-01-01Z'::timestamptz,"
        " '2024-09-30 23:59:59.999999Z', interval '1 hour') t",
    )
    with pytest.raises(psycopg.errors.CheckViolation):
        legacy_only.run("base", "INSERT INTO bookings (booked_at) VALUES ('2024-10-01Z')")


def test_a_leaf_that_was_dropped_is_made_again(legacy_only: Ground) -> None:
    legacy_only.open()
    legacy_only.run("base", "DROP TABLE bookings_fy25_q2_w05")
    assert legacy_only.open().created == ("bookings_fy25_q2_w05",)
    assert legacy_only.open().created == ()


def test_the_leaf_of_a_retired_slice_is_not_made_again(legacy_only: Ground) -> None:
    legacy_only.open()
    legacy_only.run(
        "base",
        "UPDATE migration.slices SET state = 'retired' WHERE week = 'W05'",
        "DROP TABLE bookings_fy25_q2_w05",
    )
    assert legacy_only.open().created == ()


@pytest.mark.parametrize(
    "lock",
    [
        "LOCK TABLE bookings IN ACCESS EXCLUSIVE MODE",
        "LOCK TABLE ONLY bookings IN SHARE UPDATE EXCLUSIVE MODE",  # what VACUUM takes
        "LOCK TABLE migration.slices IN SHARE UPDATE EXCLUSIVE MODE",  # another run makes partitions
    ],
)
def test_a_lock_in_the_way_is_an_error_soon_and_nothing_is_changed(legacy_only: Ground, lock: LiteralString) -> None:
    legacy_only.open()
    state = legacy_only.base_state()
    with (
        psycopg.connect(legacy_only.databases.base_url) as other,
        legacy_only.databases.session("legacy", "test") as legacy,
        legacy_only.databases.session("base", "test", Timeouts(lock=150)) as base,
    ):
        other.execute(lock)
        description = require_table(legacy, legacy_only.spec.table, "legacy")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            ensure_quarter(base, description, legacy_only.spec, legacy_only.calendar, QUARTER.next)
        other.rollback()
    assert legacy_only.base_state() == state
    assert len(legacy_only.open(QUARTER.next).created) == 13


def test_opening_a_quarter_stops_neither_readers_nor_writers_of_the_others(legacy_only: Ground) -> None:
    legacy_only.open()
    with psycopg.connect(legacy_only.databases.base_url) as other:
        other.execute("INSERT INTO bookings (booked_at) VALUES ('2024-04-01Z')")
        other.execute("SELECT count(*) FROM bookings")
        assert len(legacy_only.open(QUARTER.next).created) == 13


def test_a_calendar_that_changed_is_refused_and_nothing_is_changed(legacy_only: Ground) -> None:
    legacy_only.open()
    state = legacy_only.base_state()
    for calendar in (
        FiscalCalendar(time_zone="America/New_York"),
        FiscalCalendar(start_month=2),
        FiscalCalendar(label_offset=0),
    ):
        with pytest.raises(PartitionError, match="bounds"):
            _other(legacy_only, calendar).open()
        assert legacy_only.base_state() == state


def test_a_new_quarter_that_overlaps_an_old_one_is_refused_and_nothing_is_changed(legacy_only: Ground) -> None:
    legacy_only.open()
    state = legacy_only.base_state()
    with pytest.raises(PartitionError, match="overlap") as caught:
        _other(legacy_only, FiscalCalendar(start_month=2)).open(QUARTER.previous)
    assert "calendar" in caught.value.next_step
    assert legacy_only.base_state() == state


_COLUMNS = "(id bigint, booked_at timestamptz, guests integer, price numeric, note text)"
_NOT_OURS = {
    "CREATE TABLE public.bookings (id bigint)": "not partitioned",
    f"CREATE TABLE public.bookings {_COLUMNS} PARTITION BY LIST (booked_at)": "not partitioned by range",
    f"CREATE TABLE public.bookings {_COLUMNS} PARTITION BY RANGE (id)": "by range over 'booked_at' alone",
    f"CREATE TABLE public.bookings {_COLUMNS} PARTITION BY RANGE (booked_at, id)": "by range over 'booked_at' alone",
    f"CREATE TABLE public.bookings {_COLUMNS} PARTITION BY RANGE (booked_at);"
    " CREATE TABLE public.rest PARTITION OF public.bookings DEFAULT": "default partition",
    f"CREATE TABLE public.bookings {_COLUMNS.replace('integer', 'bigint')} PARTITION BY RANGE (booked_at)": (
        "guests: integer in the legacy, bigint in the base"
    ),
    f"CREATE TABLE public.bookings {_COLUMNS.replace(', note text', '')} PARTITION BY RANGE (booked_at)": (
        "only in the legacy: ['note']"
    ),
}


def test_a_base_table_that_is_not_what_we_need_is_refused(legacy_only: Ground) -> None:
    for statement, what in _NOT_OURS.items():
        with psycopg.connect(legacy_only.databases.base_url, autocommit=True) as connection:
            connection.execute(statement.encode())
        state = legacy_only.ask("base", "SELECT oid::bigint FROM pg_class ORDER BY 1")
        with pytest.raises(PartitionError) as caught:
            legacy_only.open()
        assert what in caught.value.what
        assert legacy_only.ask("base", "SELECT oid::bigint FROM pg_class ORDER BY 1") == state
        legacy_only.run("base", "DROP TABLE public.bookings")
    legacy_only.run("base", "CREATE VIEW public.bookings AS SELECT 1 AS id")
    with pytest.raises(PartitionError, match="not partitioned"):
        legacy_only.open()


def test_a_stranger_with_the_name_of_a_partition_is_refused(legacy_only: Ground) -> None:
    legacy_only.run("base", "CREATE TABLE public.bookings_fy25_q2 (precious integer)")
    with pytest.raises(PartitionError, match="not a partition"):
        legacy_only.open()
    assert legacy_only.one("base", "SELECT count(*) FROM public.bookings_fy25_q2") == 0


def test_a_quarter_that_hangs_on_another_table_is_refused(legacy_only: Ground) -> None:
    legacy_only.open()
    legacy_only.run(
        "base",
        "CREATE TABLE public.copy (LIKE public.bookings INCLUDING DEFAULTS) PARTITION BY RANGE (booked_at)",
        "ALTER TABLE public.bookings DETACH PARTITION public.bookings_fy25_q2",
    )
    with legacy_only.databases.session("base", "test") as base:
        bounds = legacy_only.ask(
            "base", "SELECT min(lower_bound::timestamptz), max(upper_bound::timestamptz) FROM migration.slices"
        )[0]
        attach(base, QualifiedName("public", "copy"), QualifiedName("public", "bookings_fy25_q2"), bounds)
    with pytest.raises(PartitionError, match=r"partition of public.copy, not of public.bookings"):
        legacy_only.open()


def test_a_quarter_and_its_leaves_have_the_identity_of_the_root_so_that_they_can_be_detached(
    legacy_only: Ground,
) -> None:
    legacy_only.open()
    tree = "SELECT DISTINCT attidentity FROM pg_attribute JOIN pg_partition_tree('bookings') ON relid = attrelid"
    assert legacy_only.ask("base", tree + " WHERE attname = 'id'") == [("d",)]
    legacy_only.copy(3)
    assert legacy_only.ask("base", tree + " WHERE attname = 'id'") == [("d",)]
    legacy_only.run(
        "base",
        "ALTER TABLE bookings_fy25_q2 DETACH PARTITION bookings_fy25_q2_w03 CONCURRENTLY",
        "ALTER TABLE bookings DETACH PARTITION bookings_fy25_q2 CONCURRENTLY",
    )


def test_the_week_in_which_a_clock_changes_has_the_bounds_of_local_midnights(legacy_only: Ground) -> None:
    new_york = _other(legacy_only, FiscalCalendar(time_zone="America/New_York"))
    new_york.open(QUARTER.previous)
    found = legacy_only.ask(
        "base", "SELECT lower_bound, upper_bound FROM migration.slices WHERE week = 'W10' AND quarter = 'FY25-Q1'"
    )
    assert found == [("2024-03-04 05:00:00+00", "2024-03-11 04:00:00+00")]
