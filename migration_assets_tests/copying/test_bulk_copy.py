"""A slice is copied whole and proven, or the base stays as it was."""

import json
import subprocess
import sys
import threading
from typing import LiteralString

import psycopg
import pytest
from psycopg import errors

from migration_assets.copying import loading as slice_loading
from migration_assets.copying.throttle import CopyLimits
from migration_assets.domain.errors import (
    MigrationError,
    PartitionError,
    SliceBusyError,
    SliceMismatchError,
    SliceStateError,
    StreamError,
    TableSpecError,
)
from migration_assets.domain.states import SliceState
from migration_assets.ledger.slices import CopyEvidence, slice_lock
from migration_assets_tests.ground import BOOKINGS, Ground, at_once, attempt_of, copy_of, week
from migration_assets_tests.stream.rewriting import before

_MEMORY = """
import json, resource, sys
from migration_assets_tests.ground import Ground
from migration_assets.postgres.sessions import Databases
urls = json.load(sys.stdin)
ground = Ground(Databases(*urls))
ground.copy(2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
evidence = ground.copy(1)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([evidence.wire_bytes, after - before]))
"""


@pytest.fixture
def filled(ground: Ground) -> Ground:
    """910 rows, 70 a week, and the quarter open."""
    ground.fill().open()
    return ground


def test_a_copied_slice_equals_the_legacy_and_the_ledger_says_so(filled: Ground) -> None:
    evidence = filled.copy(1)
    assert filled.contents("base") == filled.contents("legacy", 1)
    record = filled.record(1)
    assert record.state is SliceState.COPIED
    assert record.legacy == record.base == evidence.legacy == evidence.base
    assert record.base is not None
    assert record.base.rows == 70
    assert (record.run_id, record.copies, record.working) == ("test", 1, False)
    assert record.verified is None
    assert copy_of(record).wire_bytes == evidence.wire_bytes > 70 * 40
    assert set(copy_of(record).seconds) == {
        "copy",
        "indexes",
        "base fingerprint",
        "legacy fingerprint",
        "swap",
        "total",
    }
    statistics = filled.one("base", "SELECT count(*) FROM pg_stats WHERE tablename = %s", record.leaf)
    assert statistics > 0
    pending = filled.one("base", "SELECT n_mod_since_analyze FROM pg_stat_user_tables WHERE relname = %s", record.leaf)
    assert pending == 0, "autovacuum would analyze it again"
    assert filled.attempts(1) == [("copy", "succeeded")]


@pytest.mark.long
def test_thirteen_weeks_make_the_quarter_and_leave_nothing_in_the_staging_schema(filled: Ground) -> None:
    for number in range(1, 14):
        filled.copy(number)
    assert filled.contents("base") == filled.contents("legacy")
    assert filled.staging() == []


def test_a_copied_leaf_is_born_frozen_so_that_no_vacuum_reads_it_again(filled: Ground) -> None:
    filled.copy(1)
    pages, visible, frozen = filled.ask(
        "base",
        "SELECT relpages, relallvisible, relallfrozen FROM pg_class WHERE oid = 'bookings_fy25_q2_w01'::regclass",
    )[0]
    assert pages == visible == frozen > 0


def test_a_copied_leaf_has_the_roots_indexes_and_no_constraint_of_its_own(filled: Ground) -> None:
    before = filled.one(
        "base", "SELECT count(*) FROM pg_index WHERE indrelid = 'bookings_fy25_q2_w01'::regclass AND indisvalid"
    )
    filled.copy(1)
    indexes = filled.ask(
        "base",
        "SELECT c.relname, c.relispartition, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        " WHERE i.indrelid = 'bookings_fy25_q2_w01'::regclass ORDER BY 1",
    )
    assert indexes == [("bookings_fy25_q2_w01_booked_at_idx", True, True), ("bookings_fy25_q2_w01_pkey", True, True)]
    assert len(indexes) == before
    checks = "SELECT conname FROM pg_constraint WHERE conrelid = 'bookings_fy25_q2_w01'::regclass AND contype = 'c'"
    assert filled.ask("base", checks) == []
    other_indexes = "SELECT count(*) FROM pg_index WHERE indrelid = 'bookings'::regclass AND NOT indisvalid"
    assert filled.one("base", other_indexes) == 0


def test_a_reader_sees_the_old_slice_or_the_new_one_never_none_and_never_both(filled: Ground) -> None:
    filled.copy(1)
    counts: list[tuple[int, int]] = []
    stop = threading.Event()

    def read() -> None:
        query = "SELECT count(*), count(DISTINCT guests) FROM bookings WHERE booked_at < '2024-04-08Z'"
        with psycopg.connect(filled.databases.base_url, autocommit=True) as connection:
            while not stop.is_set():
                row = connection.execute(query).fetchone()
                assert row is not None
                counts.append(row)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for turn in range(5):
            # Old and new differ in every row: a mixture would show more than one value.
            filled.ask("legacy", "UPDATE bookings SET guests = %s RETURNING 1", turn)
            filled.copy(1)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert len(counts) > 50
    assert {rows for rows, _ in counts} == {70}
    assert {guests for _, guests in counts[len(counts) // 2 :]} == {1}


def test_a_reader_with_an_older_snapshot_sees_the_new_slice_whole(filled: Ground) -> None:
    """Frozen rows are visible to every snapshot: it sees the new contents early, but never a part of them."""
    filled.copy(1)
    filled.run("legacy", "UPDATE bookings SET guests = -1")
    with psycopg.connect(filled.databases.base_url) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT 1")
        filled.copy(1)
        query = "SELECT count(*), min(guests), max(guests) FROM bookings WHERE booked_at < '2024-04-08Z'"
        assert reader.execute(query).fetchall() == [(70, -1, -1)]


@pytest.mark.long
def test_writers_on_the_legacy_do_not_disturb_a_copy(filled: Ground) -> None:
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(filled.databases.legacy_url, autocommit=True) as connection:
            while not stop.is_set():
                connection.execute("UPDATE bookings SET guests = guests + 1 WHERE id % 9 = 1")
                connection.execute(
                    "INSERT INTO bookings (id, booked_at) SELECT max(id) + 1, '2024-04-02Z' FROM bookings"
                )
                connection.execute("DELETE FROM bookings WHERE id IN (SELECT min(id) FROM bookings)")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(4):
            filled.copy(1)
            filled.verify(1)
    finally:
        stop.set()
        writer.join()
    filled.copy(1)
    assert filled.contents("base") == filled.contents("legacy", 1)


def test_four_weeks_at_once_do_not_disturb_each_other(filled: Ground) -> None:
    results = at_once([lambda n=n: filled.copy(n) for n in (1, 2, 3, 13)])
    assert [type(result) for result in results] == [CopyEvidence] * 4, results
    assert all(filled.verify(number).base.rows == 70 for number in (1, 2, 3, 13))


def test_weeks_are_copied_while_other_quarters_open_and_others_write_to_the_base(filled: Ground) -> None:
    filled.open(week(1).quarter.next)
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(filled.databases.base_url, autocommit=True) as connection:
            while not stop.is_set():
                connection.execute("INSERT INTO bookings (booked_at) VALUES ('2024-07-02Z')")
                connection.execute("DELETE FROM bookings WHERE booked_at = '2024-07-02Z'")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        quarter = week(1).quarter
        calls = [lambda n=n: filled.copy(n) for n in (1, 2)]
        results = at_once([*calls, lambda: filled.open(quarter.previous), lambda: filled.open(quarter)])
    finally:
        stop.set()
        writer.join()
    assert not [result for result in results if isinstance(result, Exception)], results
    assert [filled.verify(number).base.rows for number in (1, 2)] == [70, 70]


@pytest.mark.long
def test_the_second_copy_of_the_same_slice_is_told_who_holds_it(filled: Ground) -> None:
    with filled.databases.session("base", "the-other-run") as base, slice_lock(base, filled.record(1)):
        assert filled.record(1).working
        with pytest.raises(SliceBusyError, match="the-other-run") as caught:
            filled.copy(1)
        assert str(base.info.backend_pid) in caught.value.what
    assert not filled.record(1).working
    assert filled.attempts(1) == []
    filled.copy(1)


def test_rows_that_no_copy_put_there_are_never_dropped(filled: Ground) -> None:
    filled.run("base", "INSERT INTO bookings (id, booked_at) VALUES (1, '2024-04-01 12:00Z')")
    state = filled.base_state()
    with pytest.raises(PartitionError, match="holds rows"):
        filled.copy(1)
    assert filled.base_state() == state
    assert filled.attempts(1) == [("copy", "failed")]
    filled.copy(2)


def test_a_quarter_that_is_not_open_is_refused(ground: Ground) -> None:
    ground.fill().open(week(1).quarter.next)
    with pytest.raises(PartitionError, match="not open"):
        ground.copy(1)


def test_a_missing_leaf_is_refused_and_nothing_is_left(filled: Ground) -> None:
    filled.run("base", "DROP TABLE bookings_fy25_q2_w01")
    with pytest.raises(PartitionError, match="missing"):
        filled.copy(1)
    assert filled.staging() == []


def test_an_archived_slice_that_the_stream_let_go_of_is_not_copied_over(filled: Ground) -> None:
    filled.copy(1)
    filled.run("base", "UPDATE migration.slices SET released_at = now() WHERE week = 'W01'")
    for state in ("archived", "retired"):
        filled.ask("base", "UPDATE migration.slices SET state = %s WHERE week = 'W01' RETURNING 1", state)
        before = filled.base_state()
        with pytest.raises(SliceStateError, match=state):
            filled.copy(1)
        assert filled.base_state() == before
    assert filled.attempts(1) == [("copy", "succeeded")]


def test_a_slice_under_cdc_is_not_copied_over_where_the_stream_is_gone(filled: Ground) -> None:
    filled.copy(1)
    for state in ("streaming", "validated", "signed_off", "archived"):
        filled.ask("base", "UPDATE migration.slices SET state = %s WHERE week = 'W01' RETURNING 1", state)
        before = filled.base_state()
        with pytest.raises(StreamError, match="no change stream"):
            filled.copy(1)
        assert filled.base_state() == before


_ON_THE_WAY: dict[LiteralString, tuple[LiteralString, str]] = {
    "value": ("NEW.guests := NEW.guests + 1; RETURN NEW;", "mismatch"),
    "scale": ("NEW.price := trim_scale(NEW.price); RETURN NEW;", "mismatch"),
    "null": ("IF NEW.id % 9 = 1 THEN NEW.note := NULL; END IF; RETURN NEW;", "mismatch"),
    "microsecond": ("NEW.booked_at := NEW.booked_at + interval '1 microsecond'; RETURN NEW;", "mismatch"),
    "added rows": (
        (
            "IF NEW.id < 10000 THEN"
            " EXECUTE format('INSERT INTO %s (id, booked_at) VALUES ($1, $2)', TG_RELID::regclass)"
            " USING NEW.id + 10000, NEW.booked_at; END IF; RETURN NEW;"
        ),
        "mismatch",
    ),
    "lost rows": ("IF NEW.id % 91 = 1 THEN RETURN NULL; END IF; RETURN NEW;", "failed"),
    "all lost": ("RETURN NULL;", "failed"),
}


def test_rows_that_were_changed_on_the_way_never_arrive(filled: Ground) -> None:
    filled.copy(1)
    outcomes = ["succeeded"]
    state = filled.base_state()
    for what, (change, outcome) in _ON_THE_WAY.items():
        filled.meddle(change)
        with pytest.raises(MigrationError) as caught:
            filled.copy(1)
        outcomes.append(outcome)
        if outcome == "mismatch":
            assert isinstance(caught.value, SliceMismatchError), what
            assert caught.value.legacy != caught.value.base
            assert caught.value.legacy.checksum in str(caught.value)
            assert caught.value.base.checksum in str(caught.value)
            figures = "SELECT legacy_rows, base_rows FROM migration.attempts ORDER BY id DESC LIMIT 1"
            assert filled.ask("base", figures) == [(caught.value.legacy.rows, caught.value.base.rows)]
        else:
            assert "70 rows" in caught.value.what, what
        assert filled.base_state() == state, what
        assert [found for _, found in filled.attempts(1)] == outcomes, what
        assert attempt_of(filled.record(1)).outcome == outcome
        filled.run("base", "DROP EVENT TRIGGER add_meddler", "DROP FUNCTION add_meddler, meddle")
    filled.copy(1)
    filled.verify(1)


@pytest.mark.parametrize(
    ("side", "change"),
    [
        ("legacy", "ALTER TABLE bookings ADD COLUMN late integer"),
        ("base", "ALTER TABLE bookings ALTER COLUMN guests TYPE bigint"),
        ("legacy", "ALTER TABLE bookings RENAME note TO remark"),
    ],
)
def test_columns_that_differ_by_now_are_refused(filled: Ground, side: str, change: LiteralString) -> None:
    filled.run("legacy" if side == "legacy" else "base", change)
    with pytest.raises(TableSpecError, match="differ"):
        filled.copy(1)
    assert filled.staging() == []


def test_a_leaf_has_the_indexes_of_the_root_and_one_that_came_while_it_was_proven_stops_it_before_attach(
    filled: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.run("base", "CREATE INDEX added_by_hand ON bookings (price)")
    filled.copy(1)
    adopted = "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relispartition"
    assert filled.one("base", f"{adopted} AND i.indrelid = 'bookings_fy25_q2_w01'::regclass") == 3
    state = filled.base_state()

    def another() -> None:
        filled.run("base", "CREATE INDEX added_meanwhile ON bookings (guests)")

    with monkeypatch.context() as patch:
        # ATTACH would build it, while everybody waits for the root.
        before(patch, slice_loading, "seen_definitions", another)
        with pytest.raises(PartitionError, match="4 indexes instead of 3"):
            filled.copy(2)
    filled.run("base", "DROP INDEX added_meanwhile")
    assert filled.base_state() == state


def test_a_row_that_the_base_refuses_stops_the_copy_and_nothing_is_left(filled: Ground) -> None:
    filled.run("base", "ALTER TABLE bookings ADD CONSTRAINT stricter CHECK (guests < 3)")
    with pytest.raises(psycopg.errors.CheckViolation):
        filled.copy(1)
    assert filled.staging() == []
    assert filled.record(1).state is SliceState.ABSENT
    assert filled.attempts(1) == [("copy", "failed")]


def test_no_error_and_no_attempt_tells_a_value_of_a_row(filled: Ground) -> None:
    """PostgreSQL quotes the whole row that breaks a constraint, and what a function raises may be made of values."""
    filled.run("legacy", "UPDATE bookings SET note = 'a secret' WHERE id = 182")
    filled.run("base", "ALTER TABLE bookings ADD CONSTRAINT plain CHECK (note <> 'a secret')")
    with pytest.raises(errors.CheckViolation, match=r"violates check constraint .*constraint plain") as refused:
        filled.copy(1)
    told = [str(refused.value)]
    filled.run("base", "ALTER TABLE bookings DROP CONSTRAINT plain")
    filled.meddle("IF NEW.id = 182 THEN RAISE EXCEPTION 'what is %', NEW.note; END IF; RETURN NEW;")
    with pytest.raises(errors.RaiseException) as refused:
        filled.copy(1)
    told += [str(refused.value), *filled.ask("base", "SELECT error FROM migration.attempts")]
    assert not [one for one in map(str, told) if "secret" in one]
    with filled.databases.session("base", "test") as base, pytest.raises(errors.DependentObjectsStillExist) as needed:
        base.execute("CREATE VIEW public.seen AS TABLE public.bookings; DROP TABLE public.bookings")
    assert "view public.seen" in str(needed.value)


@pytest.mark.long
def test_infinite_and_foreign_times_belong_to_no_slice(ground: Ground) -> None:
    ground.run(
        "legacy",
        BOOKINGS,
        "INSERT INTO bookings (booked_at) VALUES ('infinity'), ('-infinity'), ('2024-04-01Z'),"
        " ('2024-07-01Z'), ('2024-03-31 23:59:59.999999Z'), ('2024-06-30 23:59:59.999999Z')",
    )
    ground.open()
    assert [ground.copy(number).base.rows for number in range(1, 14)] == [1] + 11 * [0] + [1]


def test_an_empty_slice_and_an_empty_legacy_are_copied_and_verified(ground: Ground) -> None:
    ground.run("legacy", BOOKINGS)
    ground.open()
    evidence = ground.copy(4)
    assert (evidence.base.rows, evidence.base.sum_a) == (0, 0)
    assert ground.verify(4).base.rows == 0
    assert ground.record(4).state is SliceState.COPIED


@pytest.mark.long
def test_rows_of_several_megabytes_arrive_exactly(ground: Ground) -> None:
    ground.run(
        "legacy",
        BOOKINGS,
        "INSERT INTO bookings (booked_at, note) SELECT '2024-04-02Z', string_agg(md5(m::text || n), '') FROM"
        " generate_series(1, 3) n, generate_series(1, 160000) m GROUP BY n",
    )
    ground.open()
    assert ground.copy(1).wire_bytes > 15_000_000
    ground.verify(1)
    digests = "SELECT id, length(note), md5(note) FROM bookings ORDER BY id"
    assert ground.ask("base", digests) == ground.ask("legacy", digests)


@pytest.mark.long
def test_a_copy_of_150_megabytes_needs_no_more_memory_than_a_small_one(ground: Ground) -> None:
    ground.run("legacy", BOOKINGS)
    ground.ask(
        "legacy",
        "INSERT INTO bookings (booked_at, note) SELECT '2024-04-02Z'::timestamptz + n * interval '1 second',"
        " repeat(md5(n::text), 80) FROM generate_series(1, 60000) n RETURNING 1",
    )
    ground.open()
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY],
        input=json.dumps([ground.databases.legacy_url, ground.databases.base_url]),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    wire_bytes, grown_kib = json.loads(done.stdout)
    print(f"{wire_bytes / 1e6:.0f} MB copied, memory grew by {grown_kib / 1024:.1f} MiB")
    assert wire_bytes > 150_000_000
    assert grown_kib < 60 * 1024


@pytest.mark.long
def test_one_side_may_wait_for_the_other_longer_than_a_frozen_controller_may(ground: Ground) -> None:
    """The legacy's fingerprint is ready long before the indexes of a large leaf: its session then waits, idle."""
    ground.run("legacy", "CREATE FUNCTION public.nap(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1'")
    ground.fill(91)
    ground.run("legacy", "CREATE INDEX ON bookings (nap(guests))")
    ground.run(
        "base",
        "CREATE FUNCTION public.nap(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS"
        " 'BEGIN PERFORM pg_sleep(0.6); RETURN $1; END'",
    )
    ground.open()
    evidence = ground.copy(1, limits=CopyLimits(idle_timeout_seconds=2, attempts=1))
    assert evidence.seconds["indexes"] > 4
