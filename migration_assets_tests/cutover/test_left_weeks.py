"""A week that left the base: whatever changes it on the legacy is noticed without reading it, and nothing else is."""

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import LiteralString

import psycopg
import pytest

from migration_assets.cutover.left_weeks import (
    AsFound,
    LeftWeek,
    is_unchanged,
    read_left,
)
from migration_assets.postgres.sessions import Databases
from migration_assets_tests.conftest import Databases as Made
from migration_assets_tests.ground import Ground

CHANGES: dict[str, LiteralString] = {
    "update": "UPDATE bookings SET guests = 77 WHERE id = 31",
    "update to the same": "UPDATE bookings SET guests = guests WHERE id = 31",
    "insert": "INSERT INTO bookings (id, booked_at) VALUES (9001, '2024-05-01 12:00+00')",
    "delete": "DELETE FROM bookings WHERE id = 31",
    "delete and insert": "DELETE FROM bookings WHERE id = 31;"
    " INSERT INTO bookings (id, booked_at) VALUES (31, '2024-05-02')",
    "moved in for one moved out": "UPDATE bookings SET booked_at = CASE id WHEN 31 THEN '2024-04-01'::timestamptz"
    " ELSE '2024-05-02' END WHERE id IN (31, 1)",
    "truncate": "CREATE TEMP TABLE kept AS TABLE bookings; TRUNCATE bookings; INSERT INTO bookings SELECT * FROM kept",
    "rewrite": "ALTER TABLE bookings ALTER COLUMN note TYPE text USING note || ''",
    "new versions of the same": "VACUUM (FULL) bookings",
    "another column": "ALTER TABLE bookings ADD COLUMN extra integer",
}
NO_CHANGES: dict[str, LiteralString] = {
    "another week": "UPDATE bookings SET guests = 77 WHERE id = 1",
    "a lock": "SELECT * FROM bookings WHERE id = 31 FOR UPDATE",
    "a rollback": "BEGIN; UPDATE bookings SET guests = 77 WHERE id = 31; ROLLBACK",
    "vacuum": "DELETE FROM bookings WHERE id = 1; VACUUM (FREEZE) bookings",
}


@pytest.fixture
def legacy(databases: Made) -> Generator["Legacy"]:
    ground = Ground(Databases(databases.legacy_url, databases.base_url)).fill()
    ground.open()
    with ground.databases.session("legacy", "test") as connection:
        yield Legacy(ground, connection)


class Legacy:
    """Week 5 of it, as if it had left the base."""

    def __init__(self, ground: Ground, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        self.ground, self.connection = ground, connection

    def read(self) -> AsFound:
        return read_left(self.connection, self.ground.plan, LeftWeek(self.ground.record(5), None))

    def unchanged(self, before: AsFound) -> bool:
        return is_unchanged(self.connection, self.ground.plan, before)


def test_what_changes_a_row_is_noticed_and_what_does_not_is_not(legacy: Legacy) -> None:
    for name, statement in NO_CHANGES.items():
        before = legacy.read()
        legacy.ground.run("legacy", *statement.split("; "))
        assert legacy.unchanged(before), name
    for name, statement in CHANGES.items():
        before = legacy.read()
        assert before.legacy.rows >= 69
        assert legacy.unchanged(before), name
        legacy.ground.run("legacy", *statement.split("; "))
        assert not legacy.unchanged(before), name


def test_where_a_row_s_version_cannot_tell_the_week_is_read_again(legacy: Legacy) -> None:
    before = legacy.read()
    assert legacy.unchanged(before)
    # A whole round of numbers ago the same one stood in a row.
    assert not legacy.unchanged(replace(before, horizon=str(int(before.horizon) - 2**32)))
    legacy.ground.run("legacy", "CREATE TABLE child () INHERITS (bookings)")
    with_child = legacy.read()
    legacy.ground.run("legacy", "VACUUM FULL child")
    assert not legacy.unchanged(with_child), "what is done to a child makes no new file of the table"
    legacy.ground.run("legacy", "DROP TABLE child", "VACUUM bookings")


def test_what_was_under_way_at_the_look_is_noticed_when_it_ends(legacy: Legacy) -> None:
    """A sub-transaction's number stands in no snapshot's list, and a prepared transaction has no session."""
    url = legacy.ground.databases.legacy_url
    ways: dict[str, Callable[[psycopg.Connection], object]] = {
        "plain": lambda other: other.execute("UPDATE bookings SET guests = 70 WHERE id = 31"),
        "in a savepoint": in_a_savepoint,
    }
    for name, write in ways.items():
        with psycopg.connect(url) as other:
            write(other)
            somebody_else(legacy)
            before = legacy.read()
            assert legacy.unchanged(before), name
            other.commit()
        assert not legacy.unchanged(before), name
    if legacy.ground.one("legacy", "SELECT current_setting('max_prepared_transactions')::int > 0"):
        legacy.ground.run("legacy", "BEGIN; UPDATE bookings SET guests = 71 WHERE id = 31; PREPARE TRANSACTION 'late'")
        somebody_else(legacy)
        before = legacy.read()
        legacy.ground.run("legacy", "COMMIT PREPARED 'late'")
        assert not legacy.unchanged(before)


def somebody_else(legacy: Legacy) -> None:
    """A later transaction that ended earlier: the snapshot's end lies behind who is under way."""
    legacy.ground.run("legacy", "UPDATE bookings SET guests = guests WHERE id = 1")


def in_a_savepoint(other: psycopg.Connection) -> None:
    other.execute("SELECT pg_current_xact_id()")
    for guests in range(3):
        with other.transaction():
            other.execute("UPDATE bookings SET guests = %s WHERE id = 31", [guests])
