"""A further quarter joins the running stream at one moment, or the stream waits until it has."""

import threading
from collections.abc import Generator
from dataclasses import replace

import psycopg
import pytest

from migration_assets.domain.errors import CutError, SliceBusyError, SliceMismatchError, StreamError
from migration_assets.domain.states import SliceState
from migration_assets.ledger.slices import slice_lock
from migration_assets.ledger.stream import StreamLock
from migration_assets.stream.holding import continue_stream, hold_stream
from migration_assets.stream.joining import join_stream
from migration_assets_tests.clones import Clones
from migration_assets_tests.freezes import patience
from migration_assets_tests.ground import QUARTER, Ground, at_once, validation_of

_NEXT = QUARTER.next
_BEFORE = QUARTER.previous


@pytest.fixture
def streamed(clones: Clones) -> Generator[Ground]:
    """FY25-Q2 under CDC; its neighbours have rows on the legacy alone."""
    with clones.streamed(364) as databases:
        ground = Ground(databases)
        ground.run(
            "legacy",
            "INSERT INTO bookings (id, booked_at, guests) SELECT 10000 + n, '2024-07-01Z'::timestamptz"
            " + n * interval '11 h', n FROM generate_series(0, 190) n",
            "INSERT INTO bookings (id, booked_at, guests) SELECT 20000 + n, '2024-01-01Z'::timestamptz"
            " + n * interval '11 h', n FROM generate_series(0, 190) n",
        )
        yield ground


def _filter(ground: Ground) -> str:
    return str(ground.stream_record().row_filter)


@pytest.mark.long
def test_a_quarter_joins_under_writers_who_move_rows_between_old_new_and_foreign_weeks(streamed: Ground) -> None:
    stop = threading.Event()
    moments = ["2024-04-10Z", "2024-08-10Z", "2024-02-02Z", "2024-06-29Z", "2024-07-01Z", "2023-01-01Z"]

    def move(first: int) -> None:
        with psycopg.connect(streamed.databases.legacy_url, autocommit=True) as legacy:
            turn = 0
            while not stop.is_set():
                turn += 1
                legacy.execute(
                    "UPDATE bookings SET booked_at = %s, guests = %s WHERE id %% 6 = %s AND id BETWEEN %s AND %s + 60",
                    [moments[turn % 6], turn, turn * 5 % 6, first, first],
                )

    movers = [threading.Thread(target=move, args=(first,)) for first in (1, 10_001, 20_001)]
    for mover in movers:
        mover.start()
    try:
        for quarter in (_NEXT, _BEFORE):
            streamed.copy_all(quarter)
            joined = streamed.stream(quarter)
            assert (joined.how, len(joined.weeks)) == ("joined", 13)
            assert joined.marker is not None
            assert joined.paused_ms > 0
            assert all(done.legacy == done.base for done in joined.weeks)
    finally:
        stop.set()
        for mover in movers:
            mover.join()
    streamed.assert_same(_BEFORE, QUARTER, _NEXT)
    assert "2024-01-01" in _filter(streamed)
    assert "2024-10-01" in _filter(streamed)
    assert " OR " not in _filter(streamed)
    stream = streamed.stream_record()
    assert (stream.status, stream.exact_since_marker, stream.exact_since_lsn) == ("live", joined.marker, joined.lsn)
    assert streamed.record(1, _NEXT).state is SliceState.STREAMING


@pytest.mark.long
def test_two_quarters_that_begin_at_once_are_both_published(ground: Ground) -> None:
    """A backfill over change_stream does just that; the second must know of the first."""
    ground.fill(364)
    for quarter in (QUARTER, _NEXT):
        ground.copy_all(quarter)
    results = at_once([ground.stream, lambda: ground.stream(_NEXT)])
    assert {getattr(result, "how", result) for result in results} == {"activated", "joined"}
    ground.run("legacy", "UPDATE bookings SET booked_at = booked_at + interval '40 days', guests = 8")
    ground.assert_same(QUARTER, _NEXT)


@pytest.mark.long
def test_two_quarters_that_join_at_once_are_both_published(streamed: Ground) -> None:
    for quarter in (_BEFORE, _NEXT):
        streamed.copy_all(quarter)
    results = at_once([lambda: streamed.stream(_BEFORE), lambda: streamed.stream(_NEXT)])
    assert [getattr(result, "how", result) for result in results] == ["joined", "joined"]
    streamed.run("legacy", "UPDATE bookings SET guests = 8")
    streamed.assert_same(_BEFORE, QUARTER, _NEXT)


@pytest.mark.long
def test_a_join_that_finds_no_moment_leaves_the_stream_as_it_was(streamed: Ground) -> None:
    streamed.copy_all(_NEXT)
    before, published = streamed.stream_record(), streamed.ask("legacy", "SELECT prqual FROM pg_publication_rel")
    hasty = replace(streamed, stream_limits=replace(streamed.stream_limits, cut_patience_seconds=0.3))
    with psycopg.connect(streamed.databases.legacy_url) as writer:
        writer.execute("UPDATE bookings SET guests = 5 WHERE id = 5")
        with pytest.raises(CutError, match=" s old: UPDATE"):
            hasty.stream(_NEXT)
    after = streamed.stream_record()
    assert replace(after, status_since=before.status_since) == before
    assert streamed.ask("legacy", "SELECT prqual FROM pg_publication_rel") == published
    assert streamed.record(1, _NEXT).state is SliceState.COPIED
    streamed.validate()
    assert streamed.stream(_NEXT).how == "joined"
    streamed.assert_same(QUARTER, _NEXT)


def _spoil(ground: Ground) -> None:
    """A row of W05 of the next quarter cannot be put right: the join fails in the middle of its weeks."""
    ground.run("legacy", "UPDATE bookings SET guests = 0 WHERE booked_at >= '2024-07-29Z'")
    ground.spoil("bookings_fy25_q3_w05")


@pytest.mark.long
@pytest.mark.parametrize("again", ["resume", "join", "rebuild"])
def test_a_join_that_failed_keeps_the_stream_at_rest_until_it_is_done_again(streamed: Ground, again: str) -> None:
    streamed.copy_all(_NEXT)
    _spoil(streamed)
    with pytest.raises(SliceMismatchError, match="FY25-Q3"):
        streamed.stream(_NEXT)
    assert streamed.stream_record().status == "joining"
    streamed.run(
        "legacy", "UPDATE bookings SET booked_at = booked_at + interval '30 days' WHERE id < 9000 AND id % 3 > 0"
    )
    for step in (streamed.validate, streamed.repair, streamed.copy, streamed.reconcile):
        with pytest.raises(StreamError, match="a join was never finished") as caught:
            step()
        assert "stream resume" in caught.value.next_step
    streamed.run("base", "DROP TRIGGER spoil ON bookings_fy25_q3_w05")
    if again == "resume":
        assert "never finished" in continue_stream(streamed.plan)
        streamed.stream(_NEXT)
    else:
        assert streamed.stream(_NEXT, rebuild=again == "rebuild").how == "rebuilt"
    assert streamed.stream_record().status == "live"
    assert {streamed.record(number, _NEXT).state for number in (1, 5, 13)} <= {
        SliceState.STREAMING,
        SliceState.VALIDATED,
    }
    streamed.run("legacy", "UPDATE bookings SET guests = 8")
    streamed.assert_same(QUARTER, _NEXT)
    assert streamed.reconcile(_NEXT).equal


@pytest.mark.long
def test_a_quarter_with_late_copies_of_some_weeks_joins_with_those_alone(streamed: Ground) -> None:
    """As after a new week was opened or one was copied before its first join: what follows already is left alone."""
    streamed.copy_all(_NEXT)
    streamed.stream(_NEXT)
    streamed.validate()
    marker = validation_of(streamed.record()).marker
    streamed.copy_all(_BEFORE)
    assert len(streamed.stream(_BEFORE).weeks) == 13
    assert validation_of(streamed.record()).marker == marker
    streamed.assert_same(_BEFORE, QUARTER, _NEXT)


@pytest.mark.long
def test_a_week_that_somebody_works_on_refuses_the_join_before_anything_is_touched(streamed: Ground) -> None:
    streamed.copy_all(_NEXT)
    before = streamed.base_state(), _filter(streamed)
    with (
        streamed.databases.session("base", "the-other-run") as base,
        slice_lock(base, streamed.record(3, _NEXT)),
        pytest.raises(SliceBusyError, match="the-other-run"),
    ):
        streamed.stream(_NEXT)
    assert (streamed.base_state(), _filter(streamed)) == before
    assert streamed.stream(_NEXT).how == "joined"


@pytest.mark.long
def test_a_person_s_hold_refuses_a_join_and_a_rebuild(streamed: Ground) -> None:
    streamed.copy_all(_NEXT)
    hold_stream(streamed.plan, "lunch")
    for rebuild in (False, True):
        with pytest.raises(StreamError, match=r"a person holds the stream \(lunch\)"):
            streamed.stream(_NEXT, rebuild=rebuild)
    assert streamed.record(1, _NEXT).state is SliceState.COPIED
    continue_stream(streamed.plan)
    streamed.stream(_NEXT)
    streamed.assert_same(QUARTER, _NEXT)


def test_a_hold_that_comes_while_a_rebuild_waits_for_the_stream_is_kept(streamed: Ground) -> None:
    lock = StreamLock.STREAM.named(streamed.spec.relation)
    with streamed.holding(lock, shared=True) as base:
        results: list[object] = []

        def rebuild() -> None:
            try:
                results.append(streamed.stream(rebuild=True))
            except StreamError as error:
                results.append(error)

        thread = threading.Thread(target=rebuild)
        thread.start()
        while streamed.queue(lock) < 2:
            assert thread.is_alive()
        base.execute("UPDATE migration.streams SET status = 'held', reason = 'tea'")
    thread.join(patience(30))
    assert len(results) == 1
    assert "a person holds the stream (tea)" in str(results[0])
    assert streamed.stream_record().status == "held"


@pytest.mark.long
def test_the_quarters_under_cdc_are_rebuilt_together_and_none_is_forgotten(streamed: Ground) -> None:
    streamed.copy_all(_NEXT)
    streamed.stream(_NEXT)
    for quarter in (QUARTER, None):
        streamed.run("base", "DELETE FROM bookings WHERE id % 9 = 0")
        rebuilt = join_stream(streamed.plan, quarter, rebuild=True)
        assert (rebuilt.how, rebuilt.quarter, len(rebuilt.weeks)) == ("rebuilt", quarter, 26)
        streamed.run("legacy", "UPDATE bookings SET guests = guests + 1")
        streamed.assert_same(QUARTER, _NEXT)


def test_without_a_quarter_and_without_a_week_under_cdc_there_is_nothing_to_rebuild(ground: Ground) -> None:
    ground.fill(91).open()
    with pytest.raises(StreamError, match="no week is under CDC yet"):
        join_stream(ground.plan, None, rebuild=True)
    with pytest.raises(StreamError, match="there is no change stream yet"):
        continue_stream(ground.plan)
