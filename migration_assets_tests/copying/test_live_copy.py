"""A week under CDC is copied again while it follows the legacy, and goes on following it."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest

from migration_assets.domain.errors import PartitionError, SliceMismatchError, StreamError, UnavailableError
from migration_assets.domain.states import SliceState
from migration_assets.stream.holding import hold_stream
from migration_assets_tests.clones import Clones
from migration_assets_tests.freezes import patience
from migration_assets_tests.ground import IMPATIENT, Ground, at_once, copy_of, validation_of


@pytest.fixture
def streamed(clones: Clones) -> Generator[Ground]:
    with clones.streamed(364) as databases:
        yield Ground(databases)


@contextmanager
def writing(ground: Ground) -> Generator[None]:
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(ground.databases.legacy_url, autocommit=True) as legacy:
            turn = 0
            while not stop.is_set():
                turn += 1
                legacy.execute("UPDATE bookings SET guests = guests + 1 WHERE id %% 9 = %s", [turn % 9])
                legacy.execute("UPDATE bookings SET booked_at = '2024-04-03Z' WHERE id = %s", [100 + turn % 50])
                legacy.execute("UPDATE bookings SET booked_at = '2024-05-03Z' WHERE id = %s", [100 + (turn + 20) % 50])
                legacy.execute("INSERT INTO bookings (id, booked_at) VALUES (%s, '2024-04-03Z')", [20_000 + turn])
                legacy.execute("DELETE FROM bookings WHERE id = %s", [20_000 + turn - 30])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()


@pytest.mark.long
def test_a_damaged_week_is_replaced_under_writers_and_stays_under_cdc(streamed: Ground) -> None:
    oid = streamed.one("base", "SELECT 'bookings_fy25_q2_w01'::regclass::oid::bigint")
    streamed.run("base", "UPDATE bookings SET guests = -99 WHERE booked_at < '2024-04-08Z'")
    evidence = None
    with writing(streamed):
        for _ in range(3):
            evidence = streamed.copy()
            assert evidence.legacy == evidence.base
            streamed.validate()
    assert streamed.one("base", "SELECT 'bookings_fy25_q2_w01'::regclass::oid::bigint") != oid
    assert streamed.record().state is SliceState.VALIDATED
    assert evidence is not None
    assert {"true-up", "swap", "copy"} <= set(evidence.seconds)
    streamed.assert_same()
    assert streamed.attempts()[1:] == [("copy", "succeeded"), ("validate", "succeeded")] * 3
    pauses = "SELECT purpose, apply_held_ms > 0 FROM migration.cuts WHERE kind = 'pause'"
    assert set(streamed.ask("base", pauses)) == {("FY25-Q2|W01:copy", True)}


def test_the_ledger_tells_the_cut_that_the_new_leaf_stands_at(streamed: Ground) -> None:
    evidence = streamed.copy()
    record = streamed.record()
    cut = streamed.ask("base", "SELECT marker, lsn::text, taken_at FROM migration.cuts WHERE kind = 'pause'")
    assert cut == [(validation_of(record).marker, validation_of(record).lsn, copy_of(record).snapshot_at)]
    assert (copy_of(record).snapshot_lsn, validation_of(record).equal) == (evidence.snapshot_lsn, True)
    assert validation_of(record).lsn == evidence.snapshot_lsn
    assert record.copied is not None
    assert record.changed_at is not None
    assert record.validated is not None
    assert record.changed_at <= validation_of(record).at
    purposes = "SELECT purpose FROM migration.validations WHERE week = 'W01' ORDER BY id"
    assert streamed.ask("base", purposes) == [("join",), ("copy",)]


@pytest.mark.long
def test_three_weeks_at_once_are_copied_again_and_take_turns_at_the_pause(streamed: Ground) -> None:
    with writing(streamed):
        results = at_once([lambda number=number: streamed.copy(number) for number in (1, 2, 5)])
    assert not [result for result in results if isinstance(result, Exception)], results
    streamed.assert_same()
    assert streamed.reconcile().equal


def test_readers_who_do_not_let_go_of_the_quarter_stop_the_copy_and_not_the_stream(streamed: Ground) -> None:
    streamed.run("base", "UPDATE bookings SET guests = -99 WHERE id = 1")
    before = streamed.base_state()
    with psycopg.connect(streamed.databases.base_url) as reader:
        reader.execute("SELECT count(*) FROM bookings")
        with pytest.raises(UnavailableError, match="lock timeout"):
            streamed.copy(limits=IMPATIENT)
        assert streamed.stream_record().status == "live"
        streamed.run("legacy", "UPDATE bookings SET guests = 7 WHERE id > 1")
        streamed.drain()
        reader.rollback()
        assert reader.execute("SELECT count(*) FROM bookings WHERE guests = 7").fetchone() == (363,)
    assert streamed.base_state()[:2] == before[:2]
    assert streamed.staging() == []
    assert streamed.attempts()[-1] == ("copy", "failed")
    streamed.copy(limits=IMPATIENT)
    streamed.assert_same()


def test_rows_that_are_changed_on_their_way_stop_the_copy_and_not_the_stream(streamed: Ground) -> None:
    streamed.meddle("NEW.guests := NEW.guests + 1; RETURN NEW;")
    before = streamed.base_state()
    with pytest.raises(SliceMismatchError):
        streamed.copy()
    assert streamed.base_state() == before
    assert streamed.stream_record().status == "live"
    streamed.assert_same()


def test_a_leaf_that_a_key_points_at_is_not_replaced_and_a_repair_does_instead(streamed: Ground) -> None:
    streamed.run(
        "base",
        "CREATE TABLE payments (booking bigint, at timestamptz, FOREIGN KEY (booking, at) REFERENCES bookings)",
        "INSERT INTO payments SELECT id, booked_at FROM bookings WHERE id = 1",
        "UPDATE bookings SET guests = -1 WHERE id = 1",
    )
    before = streamed.base_state()
    with pytest.raises(PartitionError, match=r"cannot be replaced .* constraint payments_booking_at_fkey") as refused:
        streamed.copy()
    assert streamed.base_state() == before
    assert "`migration-assets repair FY25-Q2 W01 --apply`" in refused.value.next_step
    streamed.repair()
    streamed.assert_same()
    assert streamed.one("base", "SELECT count(*) FROM payments") == 1


def test_a_held_stream_refuses_the_copy_before_a_row_is_read(streamed: Ground) -> None:
    hold_stream(streamed.plan, "lunch")
    rows: list[int] = []
    before = streamed.base_state()
    with pytest.raises(StreamError, match=r"a person holds the stream \(lunch\)"):
        streamed.copy()
    assert rows == []
    assert streamed.base_state() == before
    assert streamed.attempts() == [("join", "succeeded")]


def test_a_person_who_holds_the_stream_during_the_copy_stops_it_before_the_swap(streamed: Ground) -> None:
    slow = replace(streamed.limits, attempts=1)
    before = streamed.base_state()
    with psycopg.connect(streamed.databases.base_url) as reader:
        # The copy's transaction waits in CREATE TABLE … LIKE for whoever alters the root.
        reader.execute("LOCK TABLE bookings IN ACCESS EXCLUSIVE MODE")
        results: list[object] = []

        def copy() -> None:
            try:
                results.append(streamed.copy(limits=slow))
            except StreamError as error:
                results.append(error)

        thread = threading.Thread(target=copy)
        thread.start()
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'migration_assets:FY25-Q2|W01%'"
            " AND wait_event_type = 'Lock'"
        )
        while not streamed.one("base", waiting):
            assert thread.is_alive()
        hold_stream(streamed.plan, "tea")
        reader.rollback()
    thread.join(patience(30))
    assert len(results) == 1
    assert "a person holds the stream (tea)" in str(results[0])
    assert streamed.base_state() == before
    assert streamed.stream_record().status == "held"
