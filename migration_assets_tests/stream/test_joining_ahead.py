"""A quarter that was opened ahead of its time joins without a copy, and its bookings flow from their first second."""

import threading
from collections.abc import Generator
from dataclasses import replace

import psycopg
import pytest

from migration_assets.domain.errors import DeletionError, SliceMismatchError, StreamError
from migration_assets.domain.fingerprint import EMPTY
from migration_assets.domain.states import SliceState
from migration_assets.stream.holding import continue_stream
from migration_assets.stream.joining import join_stream
from migration_assets_tests.clones import Clones
from migration_assets_tests.ground import QUARTER, Ground, attempt_of, validation_of, wait_for, week

_NEXT = QUARTER.next
_AFTER = _NEXT.next


@pytest.fixture
def streamed(clones: Clones) -> Generator[Ground]:
    """FY25-Q2 under CDC; nothing was ever booked after it, and the statistics know."""
    with clones.streamed(364) as databases:
        ground = Ground(databases)
        ground.run("legacy", "ANALYZE bookings")
        yield ground


def limited(ground: Ground, rows: int) -> Ground:
    return replace(ground, stream_limits=replace(ground.stream_limits, join_rows=rows))


def seq_scans(ground: Ground) -> int:
    return int(ground.one("legacy", "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'bookings'"))


@pytest.mark.long
def test_bookings_of_a_quarter_that_joined_ahead_arrive_from_their_first_second(streamed: Ground) -> None:
    streamed.open(_NEXT)
    joined = streamed.stream(_NEXT)
    assert (joined.how, len(joined.weeks)) == ("joined", 13)
    assert {(one.legacy, one.base) for one in joined.weeks} == {(EMPTY, EMPTY)}
    record = streamed.record(1, _NEXT)
    assert (record.state, record.under_cdc, validation_of(record).equal) == (SliceState.STREAMING, True, True)
    # It got its rows by joining, and no copy: what shows a copy's figures has none of it.
    assert (record.copied, record.copied_at is not None) == (None, True)
    assert (attempt_of(record).action, attempt_of(record).outcome) == ("join", "succeeded")
    streamed.run(
        "legacy",
        "INSERT INTO bookings (id, booked_at, guests) VALUES (9001, '2024-07-01 00:00:00Z', 1),"
        " (9002, '2024-09-30 23:59:59.999999Z', 2), (9003, '2024-08-15Z', 3)",
        "UPDATE bookings SET booked_at = booked_at + interval '91 days' WHERE id % 7 = 0 AND id < 9000",
        "UPDATE bookings SET booked_at = '2024-06-30 23:59:59.999999Z' WHERE id = 9003",
        "DELETE FROM bookings WHERE id = 9002",
    )
    streamed.assert_same(QUARTER, _NEXT)
    assert streamed.reconcile(_NEXT).equal
    assert streamed.stream(_NEXT).how == "already under CDC"


@pytest.mark.long
def test_it_joins_under_writers_who_book_into_it_and_move_rows_over_its_edges(streamed: Ground) -> None:
    """Rows that are there before the join, during it and after it; exact at a cut, and at the end."""
    stop = threading.Event()
    moments = ["2024-06-29Z", "2024-07-01Z", "2024-09-30 23:59Z", "2024-10-02Z", "2024-05-02Z"]

    def write(first: int) -> None:
        with psycopg.connect(streamed.databases.legacy_url, autocommit=True) as legacy:
            turn = 0
            while not stop.is_set():
                turn += 1
                legacy.execute(
                    "UPDATE bookings SET booked_at = %s, guests = %s WHERE id %% 5 = %s AND id BETWEEN %s AND %s + 99",
                    [moments[turn % 5], turn, turn * 3 % 5, first, first],
                )
                legacy.execute(
                    "INSERT INTO bookings (id, booked_at, guests) VALUES (%s, %s, 0)",
                    [100_000 * first + turn, moments[(turn + 1) % 5]],
                )

    writers = [threading.Thread(target=write, args=(first,)) for first in (1, 101, 201)]
    for writer in writers:
        writer.start()
    try:
        for quarter in (_NEXT, _AFTER):
            streamed.open(quarter)
            joined = streamed.stream(quarter)
            assert (joined.how, len(joined.weeks)) == ("joined", 13)
            assert all(one.legacy == one.base for one in joined.weeks)
            assert any(one.differences.missing for one in joined.weeks), "somebody had booked into it already"
        assert streamed.reconcile(_NEXT).equal
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    streamed.assert_same(QUARTER, _NEXT, _AFTER)


def test_a_week_with_too_many_rows_is_refused_by_name_and_number_and_nothing_is_touched(streamed: Ground) -> None:
    streamed.open(_NEXT)
    streamed.run(
        "legacy",
        "INSERT INTO bookings (id, booked_at) SELECT 9000 + n, '2024-07-09Z' FROM generate_series(1, 21) n",
        "INSERT INTO bookings (id, booked_at) SELECT 9100 + n, '2024-08-01Z' FROM generate_series(1, 20) n",
    )
    before = streamed.base_state(), streamed.stream_record().row_filter
    with pytest.raises(StreamError, match=r"FY25-Q3: not copied yet: W02 \(about 2\d rows\); up to 20 rows") as caught:
        limited(streamed, 20).stream(_NEXT)
    assert "migrated_slice" in caught.value.next_step
    assert (streamed.base_state(), streamed.stream_record().row_filter) == before
    streamed.copy(2, quarter=_NEXT)
    joined = limited(streamed, 20).stream(_NEXT)
    assert sum(one.legacy.rows for one in joined.weeks) == 41
    streamed.assert_same(QUARTER, _NEXT)


@pytest.mark.long
def test_a_planner_that_hopes_for_many_rows_is_not_believed_where_there_is_an_index(ground: Ground) -> None:
    ground.fill(364).streamed()
    ground.run(
        "legacy",
        "ALTER TABLE bookings ALTER booked_at SET STATISTICS 0",
        # Autovacuum may have come by before, and what it learned stays.
        "DELETE FROM pg_statistic WHERE starelid = 'bookings'::regclass",
        "ANALYZE bookings",
    )
    plan = "EXPLAIN SELECT FROM bookings WHERE booked_at >= '2024-07-01Z' AND booked_at < '2024-07-08Z'"
    assert "rows=2 " in str(ground.one("legacy", plan)), "it knows nothing, and guesses"
    ground.open(_NEXT)
    assert limited(ground, 0).stream(_NEXT).how == "joined"
    ground.assert_same(QUARTER, _NEXT)


@pytest.mark.long
def test_a_planner_that_knows_of_no_rows_makes_a_join_slower_and_not_wrong(streamed: Ground) -> None:
    """Without an index nobody tests what it says: the true-up brings all rows that it did not know of."""
    streamed.open(_NEXT)
    streamed.run(
        "legacy",
        "DROP INDEX bookings_booked_at_idx",
        "ALTER TABLE bookings SET (autovacuum_enabled = off)",
        "INSERT INTO bookings (id, booked_at) SELECT 10000 + n, '2024-07-09Z'::timestamptz + n * interval '1 minute'"
        " FROM generate_series(1, 20000) n",
    )
    joined = limited(streamed, 5000).stream(_NEXT)
    assert sum(one.differences.missing for one in joined.weeks) == 20_000
    streamed.assert_same(QUARTER, _NEXT)


def test_a_planner_that_knows_of_many_rows_is_believed_where_there_is_no_index(streamed: Ground) -> None:
    streamed.open(_NEXT)
    streamed.run(
        "legacy",
        "DROP INDEX bookings_booked_at_idx",
        "INSERT INTO bookings (id, booked_at) SELECT 10000 + n, '2024-07-09Z' FROM generate_series(1, 2000) n",
        "ANALYZE bookings",
    )
    with pytest.raises(StreamError, match=r"not copied yet: W02 \(about 2,000 rows\)"):
        limited(streamed, 1000).stream(_NEXT)


def test_an_empty_quarter_costs_a_legacy_without_an_index_one_scan_and_not_thirteen(streamed: Ground) -> None:
    streamed.open(_NEXT)
    streamed.run("legacy", "DROP INDEX bookings_booked_at_idx", "ANALYZE bookings")
    before = seq_scans(streamed)
    assert streamed.stream(_NEXT).how == "joined"
    assert seq_scans(streamed) == before + 1
    streamed.assert_same(QUARTER, _NEXT)


def test_rows_that_somebody_wrote_into_the_base_alone_do_not_pass_for_empty(streamed: Ground) -> None:
    streamed.open(_NEXT)
    streamed.run("base", "INSERT INTO bookings (id, booked_at) VALUES (77, '2024-07-09Z')")
    with pytest.raises(DeletionError, match=r"FY25-Q3\|W02: 1 of the week's 1 rows"):
        streamed.stream(_NEXT)
    assert streamed.stream_record().status == "live"
    joined = join_stream(replace(streamed.plan, confirmed_deletes={week(2, _NEXT): 1}), _NEXT)
    assert sum(one.differences.extra for one in joined.weeks) == 1
    streamed.assert_same(QUARTER, _NEXT)


def test_copied_weeks_and_weeks_of_the_future_join_together(streamed: Ground) -> None:
    streamed.open(_NEXT)
    streamed.run(
        "legacy",
        "INSERT INTO bookings (id, booked_at) SELECT 9000 + n, '2024-07-01Z'::timestamptz + n * interval '1 hour'"
        " FROM generate_series(1, 300) n",
    )
    for number in (1, 2):
        streamed.copy(number, quarter=_NEXT)
    streamed.run("legacy", "DELETE FROM bookings WHERE id = 9010")
    joined = streamed.stream(_NEXT)
    assert len(joined.weeks) == 13
    assert streamed.record(13, _NEXT).base == EMPTY
    streamed.assert_same(QUARTER, _NEXT)


def test_the_first_quarter_of_all_needs_no_copy_where_it_is_small(ground: Ground) -> None:
    ground.fill(91)
    ground.open()
    activated = ground.stream()
    assert (activated.how, sum(one.differences.missing for one in activated.weeks)) == ("activated", 91)
    ground.run("legacy", "UPDATE bookings SET guests = 8, booked_at = booked_at + interval '3 days'")
    ground.assert_same()


def test_a_week_that_came_back_joins_again_and_a_retired_one_stays_away(streamed: Ground) -> None:
    streamed.run(
        "base",
        "UPDATE migration.slices SET state = 'archived', released_at = now() WHERE week IN ('W03', 'W04')",
        "UPDATE migration.slices SET state = 'retired', released_at = now() WHERE week = 'W05'",
        "ALTER TABLE bookings_fy25_q2 DETACH PARTITION bookings_fy25_q2_w05",
        "UPDATE bookings SET guests = -1 WHERE id = (SELECT min(id) FROM bookings_fy25_q2_w04)",
    )
    joined = streamed.stream()
    assert (joined.how, sorted(one.week.name for one in joined.weeks)) == ("joined", ["W03", "W04"])
    same, late, retired = (streamed.record(number) for number in (3, 4, 5))
    for record in (same, late):
        # What came meanwhile is what the stream would have brought; that the archive is stale its fingerprint tells.
        assert (record.state, record.released, record.under_cdc) == (SliceState.ARCHIVED, None, True)
    assert late.changed_at is not None
    assert same.changed_at is not None
    assert late.changed_at > same.changed_at
    assert (retired.state, retired.under_cdc) == (SliceState.RETIRED, False)
    streamed.run("legacy", "UPDATE bookings SET guests = 8")
    streamed.drain()
    rows = "SELECT count(*) FROM bookings WHERE guests = 8"
    assert streamed.one("base", rows) == streamed.one(
        "legacy", rows + " AND NOT (booked_at >= '2024-04-29Z' AND booked_at < '2024-05-06Z')"
    )


def test_a_week_without_a_leaf_does_not_join(streamed: Ground) -> None:
    streamed.open(_NEXT)
    streamed.run("base", "DROP TABLE bookings_fy25_q3_w07")
    with pytest.raises(StreamError, match=r"no leaf is attached for FY25-Q3\|W07") as caught:
        streamed.stream(_NEXT)
    assert "quarter_partitions for FY25-Q3" in caught.value.next_step
    streamed.open(_NEXT)
    assert streamed.stream(_NEXT).how == "joined"
    streamed.assert_same(QUARTER, _NEXT)


@pytest.mark.long
def test_a_join_ahead_that_failed_is_finished_by_resume_and_the_next_try(streamed: Ground) -> None:
    streamed.open(_NEXT)
    streamed.run("legacy", "INSERT INTO bookings (id, booked_at, guests) VALUES (9001, '2024-07-30Z', 0)")
    streamed.spoil("bookings_fy25_q3_w05")
    with pytest.raises(SliceMismatchError, match="FY25-Q3"):
        streamed.stream(_NEXT)
    assert streamed.stream_record().status == "joining"
    streamed.run("base", "DROP TRIGGER spoil ON bookings_fy25_q3_w05")
    continue_stream(streamed.plan)
    streamed.stream(_NEXT)
    streamed.run("legacy", "INSERT INTO bookings (id, booked_at) VALUES (9002, '2024-07-31Z')")
    streamed.assert_same(QUARTER, _NEXT)


def test_a_booking_beyond_the_last_partition_is_not_sent_and_arrives_when_its_quarter_joins(streamed: Ground) -> None:
    """The filter holds only weeks under CDC: nothing can come for which there is no place."""
    streamed.run(
        "legacy",
        "INSERT INTO bookings (id, booked_at, note) VALUES (9001, '2031-01-01Z', 'far away')",
        "UPDATE bookings SET booked_at = '2024-07-02Z', note = 'moved' WHERE id = 5",
        "INSERT INTO bookings (id, booked_at, note) VALUES (9002, '2024-06-30Z', 'here')",
    )
    streamed.assert_same()
    assert streamed.one("base", "SELECT count(*) FROM bookings WHERE id IN (5, 9001)") == 0
    subscription = streamed.stream_record().subscription
    errors = "SELECT apply_error_count FROM pg_stat_subscription_stats WHERE subname = %s"
    assert streamed.one("base", errors, subscription) == 0
    streamed.open(_NEXT)
    joined = streamed.stream(_NEXT)
    assert sum(one.differences.missing for one in joined.weeks) == 1
    streamed.run("legacy", "UPDATE bookings SET booked_at = '2024-08-01Z' WHERE id = 9001")
    wait_for(lambda: streamed.one("base", "SELECT count(*) FROM bookings WHERE id = 9001") == 1, "it has come near")
    streamed.assert_same(QUARTER, _NEXT)
