"""A cut is exact, or there is none; whatever stands in its way is named, and nobody is held by it."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import LiteralString

import psycopg
import pytest

from migration_assets.domain.errors import CutError, StreamError
from migration_assets.domain.fiscal_calendar import FiscalCalendar
from migration_assets.ledger.stream import StreamLock
from migration_assets.postgres.sessions import Connected
from migration_assets.stream import arrival
from migration_assets.stream.arrival import MARKER_TABLE, marker_gate
from migration_assets.stream.cut import paired_snapshots, paused_stream
from migration_assets.stream.subscription import apply_worker
from migration_assets_tests.clones import Clones
from migration_assets_tests.freezes import patience
from migration_assets_tests.ground import QUARTER, Ground, at_once, wait_for

WEEKS = FiscalCalendar.weeks_of(QUARTER)
_SUM = (
    "SELECT count(*), sum(guests), sum(price), count(*) FILTER (WHERE booked_at < '2024-05-01Z') FROM public.bookings"
)


@pytest.fixture
def streamed(clones: Clones) -> Generator[Ground]:
    with clones.streamed(364) as databases:
        yield Ground(databases)


@contextmanager
def writing(ground: Ground, writers: int = 3) -> Generator[list[int]]:
    """Writers that never rest: every transaction moves a row to another week and makes the sum of guests grow."""
    stop = threading.Event()
    done: list[int] = []

    def write(number: int) -> None:
        with psycopg.connect(ground.databases.legacy_url, autocommit=True) as connection:
            turn = 0
            while not stop.is_set():
                turn += 1
                row = 1 + (turn * 7 + number * 31) % 360
                with connection.transaction():
                    connection.execute("UPDATE bookings SET guests = guests + 1 WHERE id = %s", [row])
                    connection.execute(
                        "UPDATE bookings SET booked_at = '2024-04-01Z'::timestamptz + mod(%s, 90) * interval '1 day'"
                        " WHERE id = %s",
                        [turn, row],
                    )
                done.append(turn)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _impatient(ground: Ground, seconds: float = 0.4) -> Ground:
    return replace(ground, stream_limits=replace(ground.stream_limits, cut_patience_seconds=seconds))


@pytest.mark.long
def test_both_sides_are_seen_at_the_same_moment_while_writers_never_rest(streamed: Ground) -> None:
    with writing(streamed) as done:
        seen: list[object] = []
        for _ in range(4):
            with paired_snapshots(streamed.plan, "test", WEEKS) as pair:
                of_legacy, of_base = (side.execute(_SUM).fetchone() for side in (pair.legacy, pair.base))
            assert of_legacy == of_base
            seen.append(of_legacy)
        with paused_stream(streamed.plan, "test") as pause:
            before = len(done)
            wait_for(lambda: len(done) > before + 20, "writers go on while the stream rests")
            assert pause.legacy.execute(_SUM).fetchone() == streamed.ask("base", _SUM)[0]
    assert len(set(seen)) > 1
    streamed.assert_same()


def test_a_cut_waits_for_a_stream_that_lags_and_the_base_is_not_seen_too_early(
    streamed: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    asked: list[int] = []
    waits_for = arrival.waits_for

    def counted(holder: Connected, pid: int) -> bool:
        asked.append(pid)
        return waits_for(holder, pid)

    monkeypatch.setattr(arrival, "waits_for", counted)

    def look() -> None:
        with paired_snapshots(streamed.plan, "test", WEEKS) as pair:
            seen.extend(side.execute(_SUM).fetchone() for side in (pair.legacy, pair.base))

    with psycopg.connect(streamed.databases.base_url) as reader:
        reader.execute("LOCK TABLE bookings IN SHARE MODE")  # the apply worker waits behind it
        streamed.run("legacy", "UPDATE bookings SET guests = guests + 10")
        thread = threading.Thread(target=look)
        thread.start()
        wait_for(lambda: streamed.one("legacy", "SELECT count(*) FROM migration.markers") == 1, "the marker is set")
        streamed.run("legacy", "UPDATE bookings SET guests = guests + 100")
        wait_for(lambda: len(asked) > 3 or seen, "it asks whether the worker has come")
        reader.rollback()
    thread.join(patience(30))
    assert len(seen) == 2
    assert seen[0] == seen[1]


def test_a_process_that_stands_still_at_a_marker_does_not_hold_the_stream(
    streamed: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "FROZEN_SECONDS", 0.3)
    raised: list[BaseException] = []
    newest: LiteralString = "SELECT coalesce(max(id), 0) FROM migration.markers"
    before = streamed.one("base", newest)

    def look() -> None:
        try:
            with paired_snapshots(streamed.plan, "test", WEEKS):
                pass
        except CutError as error:
            raised.append(error)

    with psycopg.connect(streamed.databases.base_url) as blocker:
        # Whoever takes the cut waits for this in the middle of it, and asks nothing meanwhile.
        blocker.execute("LOCK TABLE bookings IN ACCESS EXCLUSIVE MODE")
        thread = threading.Thread(target=look)
        thread.start()
        wait_for(lambda: streamed.one("base", newest) != before, "the stream goes on")
        blocker.rollback()
    thread.join(patience(30))
    assert "stalled" in str(raised[0])
    streamed.validate(2)
    streamed.assert_same()


def test_two_validations_at_once_and_one_pause_among_them_all_come_through(streamed: Ground) -> None:
    calls = [lambda number=number: streamed.validate(number) for number in (1, 2, 3)]
    with writing(streamed, 1):
        results = at_once([*calls, lambda: streamed.repair(4), lambda: streamed.repair(5)])
    assert not [result for result in results if isinstance(result, Exception)], results
    assert streamed.one("base", "SELECT count(DISTINCT marker) FROM migration.cuts") == 5
    streamed.assert_same()


def test_a_validation_waits_while_the_stream_rests_and_then_goes_through(streamed: Ground) -> None:
    with paused_stream(streamed.plan, "the long one"):
        thread = threading.Thread(target=lambda: results.append(streamed.validate(2)))
        results: list[object] = []
        thread.start()
        lock = StreamLock.STREAM.named(streamed.spec.relation)
        wait_for(lambda: streamed.queue(lock) == 2, "the validation waits for the stream")
        assert not results
    thread.join(patience(30))
    assert len(results) == 1


def test_a_pause_waits_for_those_who_are_taking_a_cut_and_not_for_those_who_read_in_one(streamed: Ground) -> None:
    with paired_snapshots(streamed.plan, "reads for hours", WEEKS), paused_stream(streamed.plan, "test"):
        assert streamed.stream_record().status == "paused"
        assert streamed.stream_record().reason == "test"
    assert streamed.stream_record().status == "live"


def test_a_cut_is_in_the_ledger_with_all_that_it_cost(streamed: Ground) -> None:
    cut = streamed.validate(2).cut
    with paused_stream(streamed.plan, "a reason") as pause:
        held = "SELECT apply_held_ms FROM migration.cuts WHERE marker = %s"
        assert streamed.one("base", held, pause.record.marker) is None
    rows = streamed.ask(
        "base",
        "SELECT marker, kind, purpose, lsn::text, tries, writers_held_ms <= longest_try_ms, writers_held_ms > 0,"
        " reached_ms > 0, apply_held_ms > 0, run_id FROM migration.cuts ORDER BY marker",
    )
    costs = (True, True, True, True, "test")
    assert rows == [
        (cut.marker, "validate", "FY25-Q2|W02:validate", cut.lsn, cut.tries, *costs),
        (pause.record.marker, "pause", "a reason", pause.record.lsn, pause.record.tries, *costs),
    ]


@contextmanager
def standing_gate(ground: Ground, marker: int) -> Generator[Connected]:
    """Somebody who takes a cut stands at that marker; his session."""
    with (
        ground.databases.session("base", "test") as holder,
        marker_gate(holder, MARKER_TABLE, ground.spec.relation, marker, moment_seconds=60),
    ):
        yield holder


def test_a_heartbeat_passes_while_a_cut_holds_its_own_marker(streamed: Ground) -> None:
    # As a validator that waits for its own marker, which never comes.
    with standing_gate(streamed, 999999) as holder:
        # Once it may go on it must not wait for a standby of the base, with the worker behind it.
        assert holder.execute("SHOW synchronous_commit").fetchone() == ("local",)
        streamed.drain()
        streamed.validate()


def test_a_sequence_of_markers_that_was_set_back_is_told_with_what_mends_it(streamed: Ground) -> None:
    last = streamed.validate().cut.marker
    for step in (streamed.validate, streamed.repair):
        streamed.ask("legacy", "SELECT setval('migration.marker_id', %s)", last - 1)
        with pytest.raises(CutError, match=rf"marker {last} was already used") as caught:
            step()
        assert streamed.stream_record().status == "live"
    words = caught.value.next_step
    newest = streamed.one("base", "SELECT max(id) FROM migration.markers")
    assert "SELECT setval('migration.marker_id', n), where n is the highest id of migration.markers" in words
    streamed.ask("legacy", "SELECT setval('migration.marker_id', %s)", newest)
    assert streamed.repair().cut.marker == newest + 1
    streamed.assert_same()


def test_the_stream_stands_at_a_marker_until_its_holder_s_session_dies(streamed: Ground) -> None:
    relation = streamed.spec.relation
    with standing_gate(streamed, 999999) as holder:
        streamed.ask("legacy", "INSERT INTO migration.markers VALUES (%s, 999999, 'cut') RETURNING 1", relation)
        streamed.run("legacy", "UPDATE bookings SET guests = 123")
        waiting = "SELECT count(*) FROM pg_stat_subscription s WHERE %s = ANY(pg_blocking_pids(s.pid))"
        stands = lambda: streamed.one("base", waiting, holder.info.backend_pid)  # noqa: E731
        wait_for(lambda: stands() == 1, "the worker stands at the marker")
        assert streamed.one("base", "SELECT count(*) FROM bookings WHERE guests = 123") == 0
        streamed.run("base", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                     " WHERE application_name = 'migration_assets:test' AND pid <> pg_backend_pid()")  # fmt: skip
    streamed.assert_same()


def test_a_writer_that_never_ends_is_named_and_nobody_waits_behind_the_cut(streamed: Ground) -> None:
    with psycopg.connect(streamed.databases.legacy_url, application_name="month end") as writer:
        writer.execute("UPDATE bookings SET guests = 5 WHERE id = 5")
        for step in (_impatient(streamed).validate, _impatient(streamed).repair):
            with pytest.raises(
                CutError, match=rf"backend {writer.info.backend_pid} \(\w+, month end, idle in"
            ) as caught:
                step()
            assert " s old: UPDATE" in caught.value.what
            assert "guests" not in str(caught.value), "a statement of others holds their data"
            assert "pg_terminate_backend" in caught.value.next_step
        # It was old enough to be seen beforehand: no lock was ever asked for.
        streamed.run("legacy", "SET lock_timeout = '1s'; UPDATE bookings SET guests = 6 WHERE id = 6")
    assert streamed.stream_record().status == "live"
    assert streamed.one("base", "SELECT count(*) FROM migration.cuts") == 0
    streamed.assert_same()


@pytest.mark.parametrize("statement", ["CREATE INDEX CONCURRENTLY slow ON bookings (guests)", "VACUUM bookings"])
def test_maintenance_by_hand_is_waited_for_and_named(streamed: Ground, statement: str) -> None:
    with psycopg.connect(streamed.databases.legacy_url) as reader:
        # It makes both wait in the middle of their work: the one for old snapshots, the other for a pinned row.
        reader.execute("DECLARE c CURSOR FOR SELECT * FROM bookings; FETCH 1 FROM c")
        if statement.startswith("VACUUM"):
            reader.rollback()
            reader.execute("LOCK TABLE bookings IN SHARE UPDATE EXCLUSIVE MODE")  # as a VACUUM of hours holds it
            with pytest.raises(CutError, match=r"In the way: backend \d+"):
                _impatient(streamed).validate()
            return
        worker = threading.Thread(target=lambda: _run_until_cancelled(streamed, statement))
        worker.start()
        working = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONC%' AND wait_event_type = 'Lock'"
        wait_for(lambda: streamed.ask("legacy", working), "the index build waits")
        try:
            with pytest.raises(CutError, match="CREATE INDEX CONCURRENTLY"):
                _impatient(streamed).validate()
        finally:
            streamed.ask("legacy", "SELECT pg_cancel_backend(%s)", streamed.one("legacy", working))
            worker.join()


def _run_until_cancelled(ground: Ground, statement: str) -> None:
    with (
        psycopg.connect(ground.databases.legacy_url, autocommit=True) as connection,
        pytest.raises(psycopg.errors.QueryCanceled),
    ):
        connection.execute(statement.encode())


def test_a_prepared_transaction_is_named(streamed: Ground) -> None:
    if streamed.one("legacy", "SELECT current_setting('max_prepared_transactions')::int") == 0:
        pytest.skip("max_prepared_transactions = 0 on this server: nobody can prepare one")
    with psycopg.connect(streamed.databases.legacy_url) as writer:
        writer.execute("UPDATE bookings SET guests = 5 WHERE id = 5")
        writer.execute("PREPARE TRANSACTION 'forgotten by the app'")
    try:
        with pytest.raises(CutError, match="prepared transaction 'forgotten by the app'"):
            _impatient(streamed).validate()
    finally:
        streamed.run("legacy", "ROLLBACK PREPARED 'forgotten by the app'")
    streamed.validate()


@pytest.mark.long
def test_a_stream_that_is_too_far_behind_gives_no_cut_and_goes_on(streamed: Ground) -> None:
    hasty = replace(streamed, stream_limits=replace(streamed.stream_limits, stream_patience_seconds=0.5))
    with psycopg.connect(streamed.databases.base_url) as reader:
        reader.execute("LOCK TABLE bookings IN SHARE MODE")  # the apply worker waits behind it
        streamed.run("legacy", "UPDATE bookings SET guests = 44 WHERE id < 100")
        for step in (hasty.validate, hasty.repair):
            with pytest.raises(CutError, match=r"did not arrive at marker \d+ within 0.5 s"):
                step()
    assert streamed.stream_record().status == "live"
    streamed.assert_same()
    streamed.validate()


def test_a_pause_that_a_dead_step_left_behind_is_ended_by_the_next_step(streamed: Ground) -> None:
    for step in (streamed.validate, streamed.repair, streamed.copy, streamed.reconcile):
        name = streamed.stream_record().subscription
        with psycopg.connect(streamed.databases.base_url) as base:
            base.execute("UPDATE migration.streams SET status = 'paused', reason = 'a step that died'")
            base.execute(f"ALTER SUBSCRIPTION {name} DISABLE".encode())
        streamed.run("legacy", "UPDATE bookings SET guests = guests + 1")
        step()
        assert streamed.stream_record().status == "live"
    streamed.assert_same()


def test_an_error_in_a_pause_lets_the_stream_go_on(streamed: Ground) -> None:
    with pytest.raises(ZeroDivisionError), paused_stream(streamed.plan, "test") as pause:  # noqa: PT012 - in the body
        with streamed.databases.session("base", "test") as base:
            worker = apply_worker(base, pause.stream.subscription)
        assert worker is not None
        assert (worker.enabled, worker.pid) == (False, None)
        streamed.run("legacy", "UPDATE bookings SET guests = 66")
        assert 1 / 0
    assert streamed.stream_record().status == "live"
    streamed.assert_same()


def test_a_server_that_ends_idle_sessions_does_not_end_those_that_keep_the_stream_at_rest(streamed: Ground) -> None:
    impatient = "EXECUTE format('ALTER DATABASE %I SET idle_session_timeout = ''150ms''', current_database())"
    for side in ("legacy", "base"):
        streamed.run(side, "DO $$ BEGIN " + impatient + "; END $$")
    with paused_stream(streamed.plan, "a long one"):
        streamed.run("base", "SELECT pg_sleep(0.6)")
    streamed.assert_same()


@pytest.mark.long
def test_a_slot_that_is_lost_is_told_as_a_worker_that_does_not_come(
    streamed: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migration_assets.stream.arrival._WORKER_MAY_BE_AWAY", 2.0)
    slot = streamed.stream_record().slot
    with paused_stream(streamed.plan, "test"):
        idle = "SELECT NOT active FROM pg_replication_slots WHERE slot_name = %s"
        wait_for(lambda: streamed.one("legacy", idle, slot), "the walsender ends")
        streamed.ask("legacy", "SELECT pg_drop_replication_slot(%s)", slot)
    with pytest.raises(StreamError, match="the apply worker has been away"):
        streamed.validate()
    assert streamed.stream(rebuild=True).how == "rebuilt"
    streamed.assert_same()
