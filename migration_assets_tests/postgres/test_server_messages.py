"""What is told of an error holds neither a row nor a statement, and nothing that a terminal or a chat acts upon."""

import re
from collections.abc import Generator

import psycopg
import pytest

from migration_assets.domain.errors import SliceBusyError
from migration_assets.postgres.server_messages import LONGEST, clean, conceal, named, told
from migration_assets_tests.conftest import Databases

SECRET = "4111-1111"


@pytest.fixture
def base(databases: Databases) -> Generator[psycopg.Connection]:
    with psycopg.connect(databases.base_url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE guests (card text PRIMARY KEY CHECK (length(card) < 20), age int, born date,"
            " mood text CHECK (mood <> 'bad'))"
        )
        connection.execute("INSERT INTO guests VALUES (%s)", [SECRET])
        yield connection


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("INSERT INTO guests VALUES ('4111-1111')", 'duplicate key value violates unique constraint "guests_pkey"'),
        ("INSERT INTO guests (card, mood) VALUES ('4111-1111x', 'bad')", "violates check constraint"),
        ("UPDATE guests SET age = card::int", "invalid input syntax for type integer; the server's log has the rest"),
        (
            "UPDATE guests SET born = to_date(card || 'x', 'Mon')",
            "InvalidDatetimeFormat; the server",
        ),
        (
            "UPDATE guests SET born = date '2024-01-01' + interval '4111 years' * 9000",
            "DatetimeFieldOverflow; the server",
        ),
        ("SELECT '4111-1111' FROM nowhere", 'relation "nowhere" does not exist'),
        # Its locks go with the statement.
        (
            "SELECT count(pg_advisory_xact_lock(n)) FROM generate_series(1, 1000000) n",
            "out of shared memory: max_locks_per_transaction of that server is too small",
        ),
        ("DO $$ BEGIN RAISE 'no' USING DETAIL = '4111-1111', HINT = '4111-1111'; END $$", "RaiseException; the server"),
    ],
)
def test_what_a_server_says_without_its_rows(base: psycopg.Connection, statement: str, said: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        base.execute(statement.encode())
    assert said in told(caught.value)
    assert SECRET not in told(caught.value)
    assert "\n" not in told(caught.value)
    assert named(caught.value).startswith(type(caught.value).__name__)


@pytest.mark.parametrize("value", ["date '12345-06-07'", "timestamptz '12345-06-07'", "interval '4111111 years'"])
def test_a_value_that_python_cannot_hold_is_not_told_either(base: psycopg.Connection, value: str) -> None:
    """Then the server said nothing: the error is psycopg's own, and quotes the value."""
    with pytest.raises(psycopg.DataError) as caught:
        base.execute(f"SELECT {value}".encode()).fetchone()
    assert told(caught.value) == "DataError: a value that cannot be read or written"
    conceal(caught.value)
    assert not {"12345", "4111111"} & set(re.findall(r"\d+", str(caught.value)))


def test_a_connection_that_fails_is_told_without_its_password() -> None:
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect("host=127.0.0.1 port=1 user=u password=geheim dbname=d connect_timeout=2")
    assert "127.0.0.1" in told(caught.value)
    assert "geheim" not in told(caught.value)


def test_an_error_of_ours_is_kept_whole_and_told_in_one_line() -> None:
    error = SliceBusyError("somebody works on it", where="FY25-Q2|W01", state_left="nothing", next_step="wait")
    assert told(error) == "FY25-Q2|W01: somebody works on it"
    assert named(error) == f"SliceBusyError: {error}"


def test_nothing_that_a_terminal_or_a_chat_acts_upon_is_left() -> None:
    assert clean("a\x1b[31m red\r\n  b\u202etxt\x07") == "a [31m red b txt"
    assert len(clean("x" * 5000)) == LONGEST
    assert told(ValueError()) == "ValueError"
