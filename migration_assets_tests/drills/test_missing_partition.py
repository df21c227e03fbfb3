"""A leaf under CDC that somebody detached or dropped by hand: named, explained, mended as the alert says, compared."""

import re
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import LiteralString

import psycopg
import pytest
from pydantic import SecretStr

from migration_assets.domain.errors import PartitionError, StreamError
from migration_assets.domain.samples import ProblemCode, Severity
from migration_assets.domain.states import SliceState
from migration_assets.domain.stream_watch import Problem
from migration_assets.postgres.sessions import Databases
from migration_assets.preflight.run import examine
from migration_assets.quarters.opening import open_quarter
from migration_assets.runtime import Migration, open_migration
from migration_assets.settings import MigrationSettings
from migration_assets.stream.holding import start_stream
from migration_assets.watch.watching import observe
from migration_assets_tests.conftest import Databases as Urls
from migration_assets_tests.ground import QUARTER, Ground, validation_of, wait_for

LEAF = "public.bookings_fy25_q2_w05"
PARENT = "public.bookings_fy25_q2"


@pytest.fixture
def ground(databases: Urls) -> Ground:
    """A quarter under CDC."""
    made = Ground(Databases(databases.legacy_url, databases.base_url)).fill(910)
    made.run("legacy", "ALTER TABLE bookings ALTER COLUMN id RESTART WITH 100000")
    return made.streamed()


@pytest.fixture
def migration(ground: Ground) -> Migration:
    made = open_migration(
        MigrationSettings(
            _env_file=None,  # pyright: ignore[reportCallIssue]
            legacy_url=SecretStr(ground.databases.legacy_url),
            base_url=SecretStr(ground.databases.base_url),
            table="public.bookings",
            as_of=None,
            heartbeat_seconds=0.5,
            lock_patience_seconds=5,
        )
    )
    examine(made)
    return made


@contextmanager
def writing(ground: Ground) -> Generator[None]:
    """One writer that goes on through everything: it changes, moves, adds and deletes rows of every week."""
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(ground.databases.legacy_url, autocommit=True) as connection:
            while not stop.wait(0.01):
                connection.execute("UPDATE bookings SET guests = guests + 1 WHERE id % 97 = (random() * 96)::int")
                connection.execute(
                    "UPDATE bookings SET booked_at = '2024-04-01Z'::timestamptz + random() * interval '90 days'"
                    " WHERE id = (random() * 900)::int"
                )
                connection.execute(
                    "INSERT INTO bookings (booked_at, guests)"
                    " SELECT '2024-04-01Z'::timestamptz + random() * interval '90 days', 1"
                )
                connection.execute("DELETE FROM bookings WHERE id = (random() * 900)::int")

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(write)
        try:
            yield
        finally:
            stop.set()
            future.result()


def problem(migration: Migration) -> Problem | None:
    found = [one for one in observe(migration).problems if one.code is ProblemCode.LEAF_MISSING]
    return found[0] if found else None


def alert(migration: Migration) -> Problem:
    """What the watch says, once it says it."""
    seen: list[Problem] = []

    def says() -> bool:
        seen.extend(one for one in [problem(migration)] if one)
        return bool(seen)

    wait_for(says, "the watch names the leaf")
    assert seen[0].severity is Severity.CRITICAL
    return seen[0]


def is_well(migration: Migration) -> bool:
    return observe(migration).problems == ()


def wait_until_stuck(ground: Ground) -> None:
    """The apply worker has met a row without a place, and ends with an error, again and again."""
    query = "SELECT apply_error_count FROM pg_stat_subscription_stats WHERE subname = %s"
    wait_for(lambda: ground.one("base", query, ground.stream_record().subscription) >= 2, "the worker loops")


def do_what_it_says(ground: Ground, what: str) -> list[str]:
    """Run the statements of the alert's text, as a person pastes them."""
    statements = re.findall(r"ALTER TABLE [^;]+;", what)
    with psycopg.connect(ground.databases.base_url, autocommit=True) as person:
        for statement in statements:
            person.execute(statement.encode())
    return statements


@pytest.mark.long
@pytest.mark.parametrize(
    ("accident", "named"),
    [
        (
            f"ALTER TABLE {PARENT} DETACH PARTITION {LEAF}",
            f"FY25-Q2|W05 is under CDC, and its leaf {LEAF} was detached",
        ),
        (
            f"ALTER TABLE public.bookings DETACH PARTITION {PARENT}",
            f"FY25-Q2 is under CDC, and its partition {PARENT} was detached",
        ),
    ],
    ids=["leaf", "quarter"],
)
def test_what_was_detached_is_attached_again_with_the_statement_of_the_alert_and_nothing_is_lost(
    ground: Ground, migration: Migration, accident: LiteralString, named: str
) -> None:
    with writing(ground):
        ground.run("base", accident)
        wait_until_stuck(ground)
        told = alert(migration)
        assert named in told.what
        with pytest.raises(PartitionError, match="a table of this name exists and is not a partition"):
            open_quarter(migration, QUARTER)
        [statement] = do_what_it_says(ground, told.what)
        assert "ATTACH PARTITION" in statement
        wait_for(lambda: is_well(migration), "the stream goes on by itself", seconds=60)
        ground.validate(5)
    ground.assert_same()


@pytest.mark.long
def test_a_detach_that_was_begun_and_never_finished_is_finished_and_undone_with_the_statements_of_the_alert(
    ground: Ground, migration: Migration
) -> None:
    with writing(ground):
        with psycopg.connect(ground.databases.base_url) as reader:
            reader.execute("SELECT FROM bookings LIMIT 1")
            with psycopg.connect(ground.databases.base_url, autocommit=True) as person:
                person.execute("SET lock_timeout = '300ms'")
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    person.execute(f"ALTER TABLE {PARENT} DETACH PARTITION {LEAF} CONCURRENTLY")
        told = alert(migration)
        assert f"its leaf {LEAF} is being detached" in told.what
        assert len(do_what_it_says(ground, told.what)) == 2
        wait_for(lambda: is_well(migration), "the stream goes on by itself", seconds=60)
        ground.validate(5)
    ground.assert_same()


@pytest.mark.long
def test_a_leaf_that_was_dropped_is_made_again_and_a_rebuild_brings_its_rows_and_those_that_moved_out_of_it(
    ground: Ground, migration: Migration
) -> None:
    with writing(ground):
        ground.run("base", f"DROP TABLE {LEAF}")
        wait_until_stuck(ground)
        told = alert(migration)
        assert told.what == f"FY25-Q2|W05 is under CDC, and its leaf {LEAF} is gone"
        assert "materialize quarter_partitions for its quarter, then change_stream with rebuild set" in told.next_step
        with pytest.raises(StreamError, match=r"no leaf is attached for FY25-Q2\|W05"):
            start_stream(migration, QUARTER, rebuild=True)
        opened, _ = open_quarter(migration, QUARTER)
        assert opened.created == ("bookings_fy25_q2_w05",)
        # The stream goes on now, and its alert is over: the ledger must not go on calling an empty week equal.
        assert (ground.record(5).state, validation_of(ground.record(5)).equal) == (SliceState.STREAMING, False)
        assert validation_of(ground.record(6)).equal
        rebuilt = start_stream(migration, QUARTER, rebuild=True)
        assert rebuilt.how == "rebuilt"
        assert sum(one.differences.missing for one in rebuilt.weeks) > 30
        wait_for(lambda: is_well(migration), "nothing is wrong any more", seconds=60)
    ground.assert_same()


@pytest.mark.long
def test_a_quarter_that_was_dropped_with_all_its_leaves_comes_back_whole(ground: Ground, migration: Migration) -> None:
    with writing(ground):
        ground.run("base", f"DROP TABLE {PARENT}")
        wait_until_stuck(ground)
        assert f"its partition {PARENT} is gone" in alert(migration).what
        open_quarter(migration, QUARTER)
        start_stream(migration, QUARTER, rebuild=True)
        wait_for(lambda: is_well(migration), "nothing is wrong any more", seconds=60)
    ground.assert_same()
