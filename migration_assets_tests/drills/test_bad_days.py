"""The runbook, tried: each test breaks the stream, sees what the watch says, does that, and compares all rows."""

import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from pydantic import SecretStr

from migration_assets.copying.weeks import validate_week
from migration_assets.domain.errors import MigrationError
from migration_assets.domain.samples import ProblemCode
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.postgres.sessions import Databases
from migration_assets.runtime import Migration, open_migration
from migration_assets.settings import MigrationSettings
from migration_assets.watch.watching import observe
from migration_assets_tests.freezes import patience
from migration_assets_tests.ground import Ground, wait_for, week
from migration_assets_tests.server_pairs import quick_pair


@pytest.fixture(scope="module")
def pair() -> Generator[EmbeddedServers]:
    with quick_pair() as made:
        yield made


@pytest.fixture
def ground(pair: EmbeddedServers) -> Generator[Ground]:
    """A quarter under CDC."""
    for side in ("legacy", "base"):
        pair.recreate_database(side, "drill")
    made = Ground(Databases(pair.legacy_url("drill"), pair.base_url("drill")))
    made.fill(910)
    made.run("legacy", "ALTER TABLE bookings ALTER COLUMN id RESTART WITH 100000")
    made.streamed()
    yield made
    pair.drop_database("base", "drill")
    pair.drop_database("legacy", "drill")


@pytest.fixture
def migration(ground: Ground) -> Migration:
    return open_migration(
        MigrationSettings(
            _env_file=None,  # pyright: ignore[reportCallIssue]
            legacy_url=SecretStr(ground.databases.legacy_url),
            base_url=SecretStr(ground.databases.base_url),
            table="public.bookings",
            as_of=None,
            heartbeat_seconds=0.5,
            stream_patience_seconds=60,
        )
    )


@contextmanager
def writing(ground: Ground) -> Generator[None]:
    """One writer that goes on through everything."""
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(ground.databases.legacy_url, autocommit=True) as connection:
            while not stop.wait(0.01):
                connection.execute("UPDATE bookings SET guests = guests + 1 WHERE id % 97 = (random() * 96)::int")
                connection.execute(
                    "INSERT INTO bookings (booked_at, guests)"
                    " SELECT '2024-04-01 00:00+00'::timestamptz + random() * interval '90 days', 1"
                )

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(write)
        try:
            yield
        finally:
            stop.set()
            future.result()


def codes(migration: Migration) -> set[ProblemCode]:
    return {problem.code for problem in observe(migration).problems}


@pytest.mark.long
def test_a_lost_slot_is_said_and_a_rebuild_brings_everything_back(ground: Ground, migration: Migration) -> None:
    stream = ground.stream_record()
    ground.run("legacy", "ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'", "SELECT pg_reload_conf()")
    with writing(ground):
        ground.run("base", f"ALTER SUBSCRIPTION {stream.subscription} DISABLE")  # pyright: ignore[reportArgumentType]
        lost = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s"

        def fill() -> bool:
            for _ in range(4):
                ground.run("legacy", "SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1000))")
                ground.run("legacy", "SELECT pg_switch_wal()")
            ground.run("legacy", "CHECKPOINT")
            return bool(ground.one("legacy", lost, stream.slot) == "lost")

        wait_for(fill, "the slot is lost", seconds=60)
        assert ProblemCode.SLOT_LOST in codes(migration)
        ground.run("legacy", "ALTER SYSTEM RESET max_slot_wal_keep_size", "SELECT pg_reload_conf()")
        assert ground.stream(rebuild=True).how == "rebuilt"
        assert codes(migration) == set()
        ground.validate(3)
    ground.assert_same()


@pytest.mark.long
def test_a_column_added_in_mid_stream_is_said_and_the_same_change_lets_the_stream_go_on(
    ground: Ground, migration: Migration
) -> None:
    with writing(ground):
        ground.run("legacy", "ALTER TABLE bookings ADD COLUMN floor integer DEFAULT 3")
        wait_for(lambda: ProblemCode.COLUMNS_DIFFER in codes(migration), "the watch sees it")
        with pytest.raises(MigrationError, match="floor"):
            validate_week(migration, week(2))
        ground.run("base", "ALTER TABLE bookings ADD COLUMN floor integer DEFAULT 3")
        wait_for(lambda: codes(migration) == set(), "the stream goes on by itself", seconds=60)
        validate_week(migration, week(2))
    ground.assert_same()


@pytest.mark.long
def test_a_right_that_was_revoked_is_said_and_given_back_lets_the_stream_go_on(
    ground: Ground, migration: Migration
) -> None:
    ground.run("base", "CREATE ROLE drill_keeper", "ALTER TABLE bookings OWNER TO drill_keeper")
    ground.run("base", "GRANT USAGE ON SCHEMA public, migration TO drill_keeper")
    try:
        with writing(ground):
            wait_for(lambda: ProblemCode.RIGHTS_MISSING in codes(migration), "the watch sees it")
            ground.run(
                "base",
                "GRANT ALL ON ALL TABLES IN SCHEMA public TO drill_keeper",
                "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA migration TO drill_keeper",
            )
            wait_for(lambda: codes(migration) == set(), "the stream goes on by itself", seconds=60)
            validate_week(migration, week(4))
        ground.assert_same()
    finally:
        ground.run("base", "REASSIGN OWNED BY drill_keeper TO migrator", "DROP OWNED BY drill_keeper")
        ground.run("base", "DROP ROLE drill_keeper")


@pytest.mark.long
def test_a_base_without_free_connections_delays_a_step_and_loses_nothing(ground: Ground, migration: Migration) -> None:
    with writing(ground), ThreadPoolExecutor(1) as pool, ExitStack() as hogs:
        with pytest.raises(psycopg.OperationalError, match="too many clients"):  # noqa: PT012 - which one is the last
            while True:
                hogs.enter_context(psycopg.connect(ground.databases.base_url))
        assert ProblemCode.BASE_UNREACHABLE in codes(migration)
        future = pool.submit(validate_week, migration, week(5))
        with pytest.raises(TimeoutError):
            future.result(timeout=1.5)  # it tries again by itself
        hogs.close()
        assert future.result(timeout=patience(60)).week == week(5)
    ground.assert_same()
