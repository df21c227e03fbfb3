"""ADBC in a snapshot: what it sees, which settings hold, what is left when it is stopped, and what its errors say."""

import signal
import time
from collections.abc import Generator

import psycopg
import pyarrow as pa
import pytest
from psycopg.conninfo import make_conninfo

from migration_assets.domain.errors import ArchiveError, ConnectionLostError, SettingsError
from migration_assets.postgres.arrow_stream import arrow_stream
from migration_assets.postgres.retries import is_transient
from migration_assets.postgres.sessions import Timeouts
from migration_assets_tests.conftest import Databases as Urls
from migration_assets_tests.freezes import patience
from migration_assets_tests.ground import wait_for

_WRONG = {"password": "geheim", "passfile": "/dev/null"}
_SLOW = "SELECT g, repeat('x', 1000) AS x FROM generate_series(1, 20000000) g"


@pytest.fixture
def holder(databases: Urls) -> Generator[psycopg.Connection[tuple[str, ...]]]:
    """A session in a transaction that exports snapshots."""
    with psycopg.connect(databases.base_url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        yield connection


def _snapshot(holder: psycopg.Connection[tuple[str, ...]]) -> str:
    row = holder.execute("SELECT pg_export_snapshot()").fetchone()
    assert row is not None
    return row[0]


def _ours(url: str, state: str = "") -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'migration_assets:archive'"
            " AND (%(state)s = '' OR state = %(state)s)",
            {"state": state},
        ).fetchone()
        assert row is not None
        return row[0]


def _is_gone(url: str) -> None:
    wait_for(lambda: _ours(url) == 0, "the stream's session ends", seconds=5)


def test_it_reads_what_the_snapshot_shows_with_our_settings(
    databases: Urls, holder: psycopg.Connection[tuple[str, ...]]
) -> None:
    with psycopg.connect(databases.base_url, autocommit=True) as other:
        other.execute("CREATE TABLE t (a integer)")
        other.execute("INSERT INTO t VALUES (1)")
        name = other.info.dbname
        other.execute(f"ALTER DATABASE \"{name}\" SET DateStyle = 'SQL, DMY'".encode())
        other.execute(f"ALTER DATABASE \"{name}\" SET TimeZone = 'Asia/Kathmandu'".encode())
        other.execute(f"ALTER DATABASE \"{name}\" SET client_encoding = 'LATIN1'".encode())
        snapshot = _snapshot(holder)
        other.execute("INSERT INTO t VALUES (2)")
        query = (
            "SELECT a, format('%s', date '2024-04-01') AS d, current_setting('TimeZone') AS z, 'é' AS e,"
            " current_setting('transaction_isolation') || current_setting('transaction_read_only') AS i,"
            " current_setting('search_path') AS s, current_setting('statement_timeout') AS t FROM public.t"
        )
        with arrow_stream(databases.base_url, snapshot, query, timeouts=Timeouts(statement=7000)) as reader:
            rows = reader.read_all().to_pylist()
    assert rows == [
        {"a": 1, "d": "2024-04-01", "z": "UTC", "e": "é", "i": "repeatable readon", "s": "pg_catalog", "t": "7s"}
    ]
    _is_gone(databases.base_url)


def test_batches_are_as_large_as_was_asked_for(databases: Urls, holder: psycopg.Connection[tuple[str, ...]]) -> None:
    query = "SELECT repeat('x', 1000) AS x FROM generate_series(1, 5000)"
    with arrow_stream(databases.base_url, _snapshot(holder), query, batch_bytes=200_000) as reader:
        batches = list(reader)
    assert sum(batch.num_rows for batch in batches) == 5000
    assert max(batch.nbytes for batch in batches) < 300_000


@pytest.mark.long
@pytest.mark.parametrize("batches", [0, 1, 3])
def test_left_early_the_query_ends_at_once(
    databases: Urls, holder: psycopg.Connection[tuple[str, ...]], batches: int
) -> None:
    with arrow_stream(databases.base_url, _snapshot(holder), _SLOW, batch_bytes=100_000) as reader:
        for _ in range(batches):
            assert reader.read_next_batch().num_rows
    wait_for(lambda: _ours(databases.base_url) == 0, "the stream's session ends", seconds=4)


@pytest.mark.long
def test_an_error_of_the_caller_comes_through_as_it_is(
    databases: Urls, holder: psycopg.Connection[tuple[str, ...]]
) -> None:
    def write(reader: pa.RecordBatchReader) -> None:
        reader.read_next_batch()
        raise OSError("the disk is full")

    with (
        pytest.raises(OSError, match="the disk is full"),
        arrow_stream(databases.base_url, _snapshot(holder), _SLOW, batch_bytes=100_000) as reader,
    ):
        write(reader)
    _is_gone(databases.base_url)


class _Interrupted(BaseException):
    pass


@pytest.mark.parametrize(
    "rows", ["SELECT 1 AS a, pg_sleep(60)::text AS b", f"{_SLOW} WHERE g > 50000 AND pg_sleep(g / 50001) IS NOT NULL"]
)
def test_an_interrupt_while_the_server_takes_its_time_cancels_the_query(
    databases: Urls, holder: psycopg.Connection[tuple[str, ...]], rows: str
) -> None:
    """As Dagster ends a run: a signal, which Python only sees when it is not inside the driver."""

    def interrupt(*_: object) -> None:
        raise _Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    started = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        with pytest.raises(_Interrupted), arrow_stream(databases.base_url, _snapshot(holder), rows) as reader:
            reader.read_all()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < patience(5)
    _is_gone(databases.base_url)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1 / (g - 1) AS a FROM generate_series(1, 3) g",
        "SELECT 1 / (g - 90000) AS a FROM generate_series(1, 100000) g",
        "SELECT nowhere",
        "SELEC",
    ],
)
def test_an_error_of_the_server_is_told_in_one_readable_line(
    databases: Urls, holder: psycopg.Connection[tuple[str, ...]], query: str
) -> None:
    with (
        pytest.raises(ArchiveError) as caught,
        arrow_stream(databases.base_url, _snapshot(holder), query, batch_bytes=10_000) as reader,
    ):
        reader.read_all()
    assert "ERROR: " in caught.value.what
    assert any(word in caught.value.what for word in ("division by zero", "nowhere", "syntax error"))
    assert len(caught.value.what.splitlines()) == 1
    assert "COPY" not in str(caught.value)
    assert not is_transient(caught.value), "the session lives, and would be told the same again"
    _is_gone(databases.base_url)


def test_a_server_that_goes_away_in_between_is_told(
    databases: Urls, holder: psycopg.Connection[tuple[str, ...]]
) -> None:
    with arrow_stream(databases.base_url, _snapshot(holder), _SLOW, batch_bytes=100_000) as reader:
        reader.read_next_batch()
        with psycopg.connect(databases.base_url, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'migration_assets:archive'"
            )
        with pytest.raises(ConnectionLostError, match="reading from the base failed") as caught:
            reader.read_all()
    assert is_transient(caught.value)


@pytest.mark.parametrize(
    ("change", "expected", "transient"),
    [
        ({"port": "1", **_WRONG}, "Connection refused", True),
        ({"user": "nobody", **_WRONG}, "nobody", False),
        ({"dbname": "nowhere"}, "nowhere", False),
    ],
)
def test_a_base_that_cannot_be_reached_is_told_without_the_password(
    databases: Urls, change: dict[str, str], expected: str, *, transient: bool
) -> None:
    url = make_conninfo(databases.base_url, **change)
    with pytest.raises(ArchiveError) as caught, arrow_stream(url, "00000003-00000002-1", "SELECT 1"):
        pass
    assert expected in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert is_transient(caught.value) is transient


def test_a_url_that_cannot_be_read_is_refused_before_anybody_quotes_it() -> None:
    url = "postgresql://u:ge%heim@127.0.0.1/x"
    with pytest.raises(SettingsError) as caught, arrow_stream(url, "00000003-00000002-1", "SELECT 1"):
        pass
    assert "heim" not in str(caught.value)


@pytest.mark.parametrize("snapshot", ["00000003-00000002-1", "'; DROP TABLE t; --"])
def test_a_snapshot_that_is_gone_is_told(databases: Urls, snapshot: str) -> None:
    with pytest.raises(ArchiveError, match="snapshot"), arrow_stream(databases.base_url, snapshot, "SELECT 1"):
        pass
    _is_gone(databases.base_url)


@pytest.mark.parametrize("before", [True, False])
def test_an_error_says_no_value_of_a_row(
    databases: Urls, holder: psycopg.Connection[tuple[str, ...]], before: bool
) -> None:
    """The driver puts the server's message behind its own words; half-way through it does not even say the code."""
    broken = 1 if before else 200_000
    query = f"SELECT CASE n WHEN {broken} THEN ('4111 '||n)::int END FROM generate_series(1, 200000) n"
    name = _snapshot(holder)
    with (
        pytest.raises(ArchiveError, match="invalid input syntax for type integer; the server's log has") as caught,
        arrow_stream(databases.base_url, name, query, batch_bytes=1000) as reader,
    ):
        list(reader)
    assert "4111" not in str(caught.value)
