"""Nobody writes where writes are held, whatever way he comes; what was acknowledged is on both sides; our steps go on.

Every way to write is tried in every state, by its statement alone; the judge is what the table holds before and after.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import errors

from migration_assets.domain.cutover_state import CutoverState
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.postgres.cutover import stages
from migration_assets.postgres.cutover.work import Work
from migration_assets.postgres.fences import gaps
from migration_assets.postgres.sessions import Side
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.cutover.ordeal import settle_down

LATER = FiscalQuarter(2025, 3)
LEAF = "bookings_fy25_q2_w05"
LEGACY = "public.bookings"
# What is done to table {t}, row 31 of which is in week 5.
WRITES: dict[str, LiteralString] = {
    "insert": "INSERT INTO {t} (id, booked_at, guests) VALUES (900001, '2024-05-02', 1)",
    "update": "UPDATE {t} SET guests = 77 WHERE id = 31",
    "delete": "DELETE FROM {t} WHERE id = 31",
    "copy": "COPY {t} (id, booked_at, guests) FROM STDIN",
    "merge": "MERGE INTO {t} AS t USING (SELECT 31 AS id) AS s ON t.id = s.id WHEN MATCHED THEN UPDATE SET guests = 77",
    "move": "UPDATE {t} SET booked_at = booked_at + interval '1 hour' WHERE id = 31",
    "truncate": "TRUNCATE {t}",
    "truncate with all that points there": "TRUNCATE {t} CASCADE",
    "upsert": "INSERT INTO {t} (id, booked_at) VALUES (31, '2024-05-02') ON CONFLICT DO NOTHING",
    "with": "WITH gone AS (DELETE FROM {t} WHERE id = 31 RETURNING *) SELECT count(*) FROM gone",
    "view": "UPDATE public.through SET guests = 77 WHERE id = 31",
}
SESSIONS: dict[str, LiteralString] = {
    "ordinary": "SELECT 1",
    "replica": "SET session_replication_role = replica",
    "forged name": "SET application_name = 'migration_assets:cutover'",
    "forged token": "SELECT set_config('migration.hold_token', 'abc', false)",
    "old snapshot": "SET default_transaction_isolation = 'repeatable read'",
}


def attempt(client: psycopg.Connection[Any], write: str, table: str) -> str | None:
    """The SQLSTATE that it was refused with; None where it was acknowledged."""
    statement = write.format(t=table).encode()
    try:
        if write.startswith("COPY"):
            with client.cursor().copy(statement) as copy:
                copy.write(b"900001\t2024-05-02\t1\n")
        else:
            client.execute(statement)
    except errors.Error as error:
        return error.sqlstate
    return None


def refused(ground: CutoverGround, side: Side, *tables: str) -> None:
    """Every write in every kind of session, to every one of these tables."""
    before = ground.contents(side)
    for kind, session in SESSIONS.items():
        with psycopg.connect(ground.databases.url(side), autocommit=True) as client:
            client.execute(session)
            for name, write in WRITES.items():
                for table in tables:
                    code = attempt(client, write, table)
                    # A table that is pointed at is never truncated alone, held or not.
                    expected = {"25006", "0A000"} if name == "truncate" else {"25006"}
                    assert code in expected, f"{kind} {name} of {table} on the {side}: {code or 'acknowledged'}"
    assert ground.contents(side) == before


def prepare_views(ground: CutoverGround) -> None:
    """Of both sides; and a table that points at the legacy's."""
    for side in ("legacy", "base"):
        ground.run(side, "CREATE VIEW public.through AS SELECT * FROM bookings")
    ground.run("legacy", "CREATE TABLE public.pointing (booking bigint REFERENCES bookings)",
               "INSERT INTO pointing VALUES (31)")  # fmt: skip


@contextmanager
def at(state: CutoverState, look: Callable[[], object]) -> Iterator[None]:
    """`look` just before that state's deed."""
    original = stages.STAGES[state]

    def deed(work: Work) -> None:
        look()
        original(work)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(stages.STAGES, state, deed)  # pyright: ignore[reportArgumentType]
        yield


def whole(ground: CutoverGround, side: Side) -> tuple[str, ...]:
    with ground.databases.session(side, "test") as connection:
        return gaps(connection, ground.spec.table)


def test_nobody_writes_where_writes_are_held_whatever_way_he_comes(ground: CutoverGround) -> None:
    prepare_views(ground)
    everywhere = ("bookings", "bookings_fy25_q2", LEAF)
    with at(CutoverState.COMPARED, lambda: (refused(ground, "legacy", LEGACY), refused(ground, "base", *everywhere))):
        ground.cut()
    # After it the legacy takes nothing but what the base sends; the base takes all, by every name.
    refused(ground, "legacy", LEGACY)
    ground.run("base", f"UPDATE {LEAF} SET guests = 55 WHERE id = 31", "DELETE FROM bookings WHERE id = 32",
               f"INSERT INTO {LEAF} (id, booked_at, guests) VALUES (900002, '2024-05-02', 3)",
               "SET session_replication_role = replica; UPDATE bookings SET guests = 56 WHERE id = 33")  # fmt: skip
    settle_down(ground)
    ground.equal()

    def under_the_rollbacks_hold() -> None:
        ground.open(LATER)  # a quarter that is opened meanwhile is held like all others
        refused(ground, "base", *everywhere)
        with psycopg.connect(ground.databases.base_url, autocommit=True) as client:
            for name in ("bookings_fy25_q3", "bookings_fy25_q3_w01"):
                with pytest.raises(errors.ReadOnlySqlTransaction):
                    client.execute(f"INSERT INTO {name} (id, booked_at) VALUES (900003, '2024-07-02')".encode())
        assert whole(ground, "base") == ()

    with at(CutoverState.COMPARED, under_the_rollbacks_hold):
        ground.back()
    assert whole(ground, "base") == (), "the base stays held"
    ground.run("legacy", "UPDATE bookings SET guests = 9 WHERE id = 31")
    ground.assert_same()
    refused(ground, "base", *everywhere)
