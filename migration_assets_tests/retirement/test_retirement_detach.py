"""DETACH CONCURRENTLY beside readers: who is waited for, who is not, and what one that was never finished needs."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from migration_assets.domain.errors import RetirementError, SliceBusyError
from migration_assets.domain.states import SliceState
from migration_assets.ledger.retirements import Step
from migration_assets_tests.clones import Clones
from migration_assets_tests.freezes import patience
from migration_assets_tests.ground import wait_for
from migration_assets_tests.retirement.signed_off_quarter import Departure, leaf

_WAITS = """
SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()
AND application_name LIKE '%:retire'
"""
_PENDING = "SELECT count(*) FROM pg_inherits WHERE inhdetachpending AND inhrelid = to_regclass(%s)"


@pytest.fixture
def departure(clones: Clones) -> Generator[Departure]:
    with Departure.copied(clones, 5, 6, 7) as departure:
        yield departure


@contextmanager
def _reader(departure: Departure) -> Generator[psycopg.Connection[Any]]:
    """A report that has read the whole root and goes on."""
    url = departure.ground.databases.base_url
    with psycopg.connect(url, application_name="a long report") as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM bookings")
        yield reader
        reader.rollback()


def _pending(departure: Departure, number: int = 5) -> bool:
    return bool(departure.ground.one("base", _PENDING, leaf(number)))


@pytest.mark.long
def test_a_long_reader_is_named_and_the_same_call_goes_on_once_it_has_ended(departure: Departure) -> None:
    rows = departure.ground.contents("base", 5)
    with _reader(departure) as reader:
        with pytest.raises(RetirementError, match=r"did not end within 0\.5 s") as caught:
            departure.impatient(0.5).retire()
        said = str(caught.value)
        assert f"backend {reader.info.backend_pid} (migrator, a long report, idle in transaction)" in said
        assert "s old: SELECT" in said
        assert "count(" not in said, "a statement of others holds their data"
        assert _pending(departure)
        assert departure.state() is SliceState.RETIRED
        # Impatience again: now it is FINALIZE that waits.
        with pytest.raises(RetirementError, match="a long report"):
            departure.impatient(0.5).retire()
        # The report reads on as if nothing had happened; whoever writes to other weeks is not held up.
        assert reader.execute("SELECT count(*) FROM bookings").fetchone() == (910,)
        assert departure.covered(6)
        departure.archive(6)
    assert departure.retire().step is Step.QUARANTINED
    assert departure.in_quarantine() == rows


@pytest.mark.long
def test_a_week_whose_rows_others_point_at_is_refused_before_the_stream_lets_go_of_it(departure: Departure) -> None:
    departure.ground.run(
        "base",
        "CREATE TABLE payments (booking bigint, at timestamptz, FOREIGN KEY (booking, at) REFERENCES bookings)",
        "INSERT INTO payments SELECT id, booked_at FROM bookings WHERE id IN (31, 38)",
    )
    before = departure.state()
    with pytest.raises(RetirementError, match=r"rows of public\.payments reference its rows") as refused:
        departure.retire()
    assert departure.state() is before
    assert "DROP CONSTRAINT payments_booking_at_fkey;" in str(refused.value)
    departure.ground.run("base", "DELETE FROM payments WHERE booking = 31")
    assert departure.retire().step is Step.QUARANTINED


def test_patience_outlasts_a_reader_that_ends(departure: Departure) -> None:
    with ThreadPoolExecutor(1) as pool:
        with _reader(departure):
            done = pool.submit(departure.impatient(60).retire)
            wait_for(lambda: _pending(departure), "the detach begins")
            assert not done.done()
        assert done.result(patience(60)).step is Step.QUARANTINED


def test_weeks_of_one_quarter_leave_at_the_same_time_without_disturbing_each_other(departure: Departure) -> None:
    patient = departure.impatient(60)
    with ThreadPoolExecutor(2) as pool:
        with _reader(departure):
            first = pool.submit(patient.retire, 5)
            wait_for(lambda: _pending(departure), "the first detach waits")
            second = pool.submit(patient.retire, 6)
            wait_for(lambda: departure.state(6) is SliceState.RETIRED, "the second is on its way")
            assert not _pending(departure, 6)
        assert [first.result(patience(60)).step, second.result(patience(60)).step] == [Step.QUARANTINED] * 2
    assert len(departure.in_quarantine(5)) == len(departure.in_quarantine(6)) == 70


def test_a_pending_leaf_of_a_dead_run_does_not_stop_another_week(departure: Departure) -> None:
    with _reader(departure), pytest.raises(RetirementError):
        departure.impatient(0.3).retire(5)
    assert _pending(departure, 5)
    assert departure.retire(6).step is Step.QUARANTINED
    assert departure.retire(5).step is Step.QUARANTINED
    assert len(departure.in_quarantine(5)) == 70


@pytest.mark.long
def test_while_a_week_waits_for_its_detach_nobody_else_works_on_it(departure: Departure) -> None:
    with ThreadPoolExecutor(1) as pool:
        with _reader(departure):
            done = pool.submit(departure.impatient(60).retire)
            wait_for(lambda: _pending(departure), "the detach waits")
            with pytest.raises(SliceBusyError, match="W05:retire"):
                departure.give_back()
        assert done.result(patience(60)).step is Step.QUARANTINED
    assert departure.give_back().equal


def test_opening_the_quarter_again_makes_no_leaf_in_the_place_of_one_that_left(departure: Departure) -> None:
    departure.retire()
    assert departure.ground.open().created == ()
    assert departure.ground.one("base", "SELECT to_regclass(%s)", f"public.{leaf(5)}") is None


def test_a_leaf_that_was_dropped_by_hand_on_its_way_is_not_taken_for_quarantined(departure: Departure) -> None:
    with _reader(departure), pytest.raises(RetirementError):
        departure.impatient(0.3).retire()
    departure.ground.run("base", "ALTER TABLE bookings_fy25_q2 DETACH PARTITION bookings_fy25_q2_w05 FINALIZE",
                         "DROP TABLE bookings_fy25_q2_w05")  # fmt: skip
    with pytest.raises(RetirementError, match="moved or dropped by hand"):
        departure.retire()
    found = departure.retirement()
    assert found
    assert found.step is Step.DETACHING


def test_a_name_that_is_taken_in_quarantine_stops_the_move_and_nothing_is_lost(departure: Departure) -> None:
    departure.ground.run("base", "CREATE SCHEMA migration_quarantine",
                         "CREATE TABLE migration_quarantine.bookings_fy25_q2_w05 ()")  # fmt: skip
    with pytest.raises(RetirementError, match="exists already and belongs to no week"):
        departure.retire()
    assert departure.ground.one("base", f"SELECT count(*) FROM {leaf(5)}") == 70  # pyright: ignore[reportArgumentType]
    departure.ground.run("base", "DROP TABLE migration_quarantine.bookings_fy25_q2_w05")
    assert departure.retire().step is Step.QUARANTINED


def test_the_first_two_weeks_that_leave_do_not_both_make_the_quarantine(departure: Departure) -> None:
    with psycopg.connect(departure.ground.databases.base_url) as other, ThreadPoolExecutor(1) as pool:
        other.execute("CREATE SCHEMA migration_quarantine")
        done = pool.submit(departure.retire)
        wait_for(lambda: departure.ground.one("base", _WAITS), "it waits for the other week")
        other.commit()
        assert done.result(patience(60)).step is Step.QUARANTINED
