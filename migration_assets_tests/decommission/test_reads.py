"""Every way in which a client reads the legacy is seen; the reverse stream's own work never is."""

import random
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import LiteralString

import psycopg
import pytest
from pydantic import SecretStr

from migration_assets.postgres.sessions import Connected, Databases, uncounted
from migration_assets.runtime import Migration
from migration_assets.settings import MigrationSettings
from migration_assets.watch.legacy_reads import ReadWatch, count_reads, look_for_reads, note_legacy_reads
from migration_assets.watch.watching import watch_stream
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.cutover.kills import settle_down
from migration_assets_tests.ground import wait_for

_APART = timedelta(milliseconds=1)


class Watch:
    """Looks as the watch does; the second of two that are not apart is not waited for."""

    def __init__(self, ground: CutoverGround) -> None:
        self.ground = ground
        self.cutover = ground.records()[-1].id

    def look(self, times: int = 1, apart: timedelta = _APART) -> ReadWatch:
        with self.sides() as (base, legacy):
            for _ in range(times - 1):
                look_for_reads(base, legacy, self.ground.spec, self.cutover, apart=apart)
            return look_for_reads(base, legacy, self.ground.spec, self.cutover, apart=apart)

    @contextmanager
    def sides(self) -> Generator[tuple[Connected, Connected]]:
        databases = self.ground.databases
        with databases.session("base", "test") as base, databases.session("legacy", "test") as legacy:
            yield base, legacy


@pytest.fixture
def watch(ground: CutoverGround) -> Watch:
    """Begun, when all that the reverse stream had to do is done and told."""
    settle_down(ground)
    found = Watch(ground)
    quiet = wait_for_statistics(found)
    assert quiet.last_read_at is None
    return found


def wait_for_statistics(watch: Watch) -> ReadWatch:
    """Until two looks a second apart see the same."""
    seen = [watch.look(3)]

    def still() -> bool:
        before = seen[-1].memory
        time.sleep(1.1)
        seen.append(watch.look())
        now = seen[-1].memory
        return before is not None and now is not None and before.raw == now.raw

    wait_for(still, "the statistics rest")
    watch.ground.run("base", "DELETE FROM migration.legacy_reads")
    return watch.look(3)


def write(ground: CutoverGround, stop: threading.Event, seed: int) -> dict[str, int]:
    """Inserts, updates, deletes, and rows that change their week, on the base."""
    chance = random.Random(seed)
    done: dict[str, int] = dict.fromkeys(("insert", "update", "move", "delete"), 0)
    with psycopg.connect(ground.databases.base_url, autocommit=True) as base:
        while not stop.is_set():
            # Two writers may take the same rows in another order.
            with suppress(psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected), base.transaction():
                for _ in range(chance.randint(1, 20)):
                    what = chance.choice(list(done))
                    day = f"2024-0{chance.randint(4, 6)}-{chance.randint(1, 28):02} 10:00+00"
                    key = chance.randint(1, 3000)
                    if what == "insert":
                        base.execute("INSERT INTO bookings (booked_at, guests) VALUES (%s, 1)", [day])
                    elif what == "update":
                        base.execute("UPDATE bookings SET guests = guests + 1 WHERE id = %s", [key])
                    elif what == "move":
                        base.execute("UPDATE bookings SET booked_at = %s WHERE id = %s", [day, key])
                    else:
                        base.execute("DELETE FROM bookings WHERE id = %s", [key])
                    done[what] += 1
            if chance.random() < 0.1:
                time.sleep(chance.random() * 0.3)
    return done


@pytest.mark.long
def test_the_reverse_streams_own_work_is_never_taken_for_a_read(
    ground: CutoverGround, watch: Watch, soak: bool
) -> None:
    before = counters(ground)
    stop = threading.Event()
    done: list[dict[str, int]] = []

    def work(seed: int) -> None:
        done.append(write(ground, stop, seed))

    writers = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for writer in writers:
        writer.start()
    torn, looks = 0, 0
    end = time.monotonic() + (32 if soak else 11)
    try:
        with watch.sides() as (base, legacy):
            while time.monotonic() < end:
                seen = look_for_reads(base, legacy, ground.spec, watch.cutover, apart=timedelta(seconds=3))
                looks += 1
                torn += seen.unsettled
                assert seen.last_read_at is None, seen.memory
                time.sleep(0.05)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    settle_down(ground)
    time.sleep(1.1)
    assert watch.look(3).last_read_at is None
    assert counters(ground) > before + 100, "the reverse stream changed few rows"
    print(f"{looks} looks, {torn} of them unsettled, {done}")
    ground.equal()


def counters(ground: CutoverGround) -> int:
    return int(ground.one("legacy", "SELECT n_tup_upd + n_tup_del FROM pg_stat_user_tables WHERE relname = 'bookings'"))


def _cursor(connection: psycopg.Connection) -> None:
    with connection.transaction(), connection.cursor(name="slow") as cursor:
        cursor.execute("SELECT * FROM bookings")
        cursor.fetchmany(10)


def _copy(connection: psycopg.Connection) -> None:
    with connection.cursor().copy("COPY bookings TO STDOUT") as copy:
        for _ in copy:
            pass


def _with(*settings: str, query: LiteralString) -> Callable[[psycopg.Connection], None]:
    def read(connection: psycopg.Connection) -> None:
        for setting in settings:
            connection.execute(f"SET {setting}".encode())
        connection.execute(query).fetchall()

    return read


_NO_SEQ = ("enable_seqscan = off",)
READERS: dict[str, Callable[[psycopg.Connection], None]] = {
    "sequential": _with(query="SELECT * FROM bookings"),
    "count": _with(query="SELECT count(*) FROM bookings"),
    "one row by its key": _with(query="SELECT * FROM bookings WHERE id = 5"),
    "a key that is not there": _with(*_NO_SEQ, query="SELECT * FROM bookings WHERE id = -5"),
    "index": _with(*_NO_SEQ, "enable_bitmapscan = off", query="SELECT * FROM bookings WHERE booked_at < '2024-04-03'"),
    "bitmap": _with(*_NO_SEQ, "enable_indexscan = off", "enable_indexonlyscan = off",
                    query="SELECT * FROM bookings WHERE booked_at < '2024-04-03'"),
    "index only": _with(*_NO_SEQ, "enable_bitmapscan = off", query="SELECT id FROM bookings WHERE id < 20"),
    "for update": _with(query="SELECT * FROM bookings WHERE id = 7 FOR UPDATE"),
    "sample": _with(query="SELECT * FROM bookings TABLESAMPLE SYSTEM (100)"),
    "range of addresses": _with(query="SELECT * FROM bookings WHERE ctid < '(2,1)'"),
    "copy": _copy,
    "cursor": _cursor,
}  # fmt: skip


@pytest.mark.long
def test_every_kind_of_read_is_seen_once_and_its_reader_named(ground: CutoverGround, watch: Watch) -> None:
    for how, read in READERS.items():
        before = watch.look(3)
        with client(ground) as connection:
            read(connection)
            connection.execute("SELECT pg_stat_force_next_flush()")
            connection.execute("SELECT 1")
            connection.execute("SELECT 'bookings'")  # its last statement names the table, and does not read it
            seen = watch.look(3)
        assert seen.last_read_at is not None, how
        assert seen.last_read_at > before.seen_at, how
        assert seen.last_reader is not None, how
        assert "old app" in seen.last_reader, how
        assert watch.look(3).last_read_at == seen.last_read_at, f"{how}: seen more than once"


@pytest.mark.long
def test_a_read_under_reverse_traffic_is_seen(ground: CutoverGround, watch: Watch) -> None:
    stop = threading.Event()
    writer = threading.Thread(target=write, args=(ground, stop, 3))
    writer.start()
    try:
        time.sleep(2)
        assert watch.look(3).last_read_at is None
        ground.ask("legacy", "SELECT guests FROM bookings WHERE id = 900")
        time.sleep(2)
        assert watch.look(3).last_read_at is not None
    finally:
        stop.set()
        writer.join()


@pytest.mark.long
def test_an_open_cursor_is_seen_by_its_lock_before_the_statistics_have_it(ground: CutoverGround, watch: Watch) -> None:
    with client(ground) as connection, connection.transaction(), connection.cursor(name="slow") as cursor:
        cursor.execute("SELECT * FROM bookings")
        cursor.fetchmany(10)
        seen = watch.look()
    assert seen.last_read_at == seen.seen_at
    assert seen.last_reader is not None
    assert seen.last_reader.startswith(f"{_user(ground)} (old app, ")


@pytest.mark.long
def test_what_reads_nothing_of_the_table_is_no_read(ground: CutoverGround, watch: Watch) -> None:
    with client(ground) as connection:
        connection.execute("SELECT 'bookings'")
        connection.execute("CREATE TABLE other AS SELECT 1 AS id")
        connection.execute("SELECT * FROM other")
        connection.execute("SELECT pg_total_relation_size('bookings')")
    ground.run("legacy", "VACUUM bookings", "ANALYZE bookings")
    with ground.databases.session("legacy", "readiness") as legacy:
        uncounted(legacy)
        legacy.execute("SELECT count(*) FROM public.bookings")
    seen = watch.look(3)
    assert (seen.last_read_at, seen.unsettled) == (None, False)
    assert seen.watched_since < seen.seen_at


@pytest.mark.long
def test_statistics_that_begin_anew_begin_the_watch_anew(ground: CutoverGround, watch: Watch) -> None:
    before = watch.look()
    assert watch.look(2).watched_since == before.watched_since
    resets: tuple[LiteralString, ...] = (
        "SELECT pg_stat_reset()",
        "SELECT pg_stat_reset_single_table_counters('bookings'::regclass)",
    )
    for reset in resets:
        ground.run("legacy", reset)
        after = watch.look()
        assert after.watched_since == after.seen_at, reset
        assert after.last_read_at is None, reset
        settled = watch.look(2)
        assert settled.watched_since > after.watched_since, "only the second look knows what there was before"
        assert watch.look(2).watched_since == settled.watched_since
    watch.cutover += 1
    again = watch.look()
    assert again.watched_since == again.seen_at, "the watch is one cutover's"


def test_an_index_that_inserts_scan_is_left_out(ground: CutoverGround) -> None:
    ground.run(
        "legacy",
        "ALTER TABLE bookings ADD CONSTRAINT late UNIQUE (id, guests) DEFERRABLE",
        "ALTER TABLE bookings ADD CONSTRAINT apart EXCLUDE (id WITH =)",
    )
    with ground.databases.session("legacy", "test") as legacy:
        names = {
            str(name): int(oid)
            for name, oid in legacy.execute(
                "SELECT relname, oid FROM pg_class WHERE oid IN (SELECT indexrelid FROM pg_index"
                " WHERE indrelid = 'public.bookings'::regclass)"
            )
        }
        counted = count_reads(legacy, ground.spec, 1, None)
    assert {f"i{names[name]}" for name in ("bookings_pkey", "bookings_booked_at_idx")} == {
        name for name in counted.excess if name.startswith("i")
    }


@pytest.mark.long
def test_a_watch_looks_and_never_fails(ground: CutoverGround) -> None:
    settings = MigrationSettings(
        _env_file=None,  # pyright: ignore[reportCallIssue]
        legacy_url=SecretStr(ground.databases.legacy_url), base_url=SecretStr(ground.databases.base_url),
        table="public.bookings",
    )  # fmt: skip
    migration = Migration(settings, ground.databases)
    assert ground.ask("base", "SELECT 1 FROM migration.legacy_reads") == []
    watch_stream(migration)
    assert len(ground.ask("base", "SELECT 1 FROM migration.legacy_reads")) == 1
    away = Databases("postgresql://nobody@127.0.0.1:1/nowhere", ground.databases.base_url)
    assert note_legacy_reads(Migration(settings, away)) is None
    watch_stream(Migration(settings, away))
    ground.back()
    ground.run("base", "DELETE FROM migration.legacy_reads")
    watch_stream(migration)
    assert ground.ask("base", "SELECT 1 FROM migration.legacy_reads") == [], "the legacy is in charge"


def client(ground: CutoverGround) -> psycopg.Connection:
    return psycopg.connect(ground.databases.legacy_url, autocommit=True, application_name="old app")


def _user(ground: CutoverGround) -> str:
    return str(ground.one("legacy", "SELECT current_user"))
