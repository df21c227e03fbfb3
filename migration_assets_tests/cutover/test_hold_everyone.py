"""Nobody writes where writes are held, whatever way he comes; what was acknowledged is on both sides; our steps go on.

Every way to write is tried in every state, by its statement alone; the judge is what the table holds before and after.
"""

import secrets
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import errors

from migration_assets.cutover import holds, stages
from migration_assets.cutover.legacy_repair import repair_after_base
from migration_assets.cutover.work import Work
from migration_assets.cutover.writes import hold_again
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.domain.samples import ProblemCode
from migration_assets.domain.states import CutoverError, CutoverState
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.postgres.sessions import Side
from migration_assets.quarters.fence_functions import let_through
from migration_assets.quarters.fences import gaps
from migration_assets_tests.cutover.ground import SIDES, Before, CutoverGround
from migration_assets_tests.cutover.guard import guard_of
from migration_assets_tests.cutover.ordeal import settle_down
from migration_assets_tests.cutover.strangers import errors_of_stranger, stranger
from migration_assets_tests.decommission.deed import Application
from migration_assets_tests.ground import wait_for, week
from migration_assets_tests.stream.rewriting import before as happens

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
def at(state: CutoverState, look: Callable[[], object]) -> Generator[None]:
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
    older = psycopg.connect(ground.databases.legacy_url)
    older.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    older.execute("SELECT FROM pg_class LIMIT 1")
    with at(CutoverState.COMPARED, lambda: (refused(ground, "legacy", LEGACY), refused(ground, "base", *everywhere))):
        ground.cut()
    with older, pytest.raises(errors.ReadOnlySqlTransaction):
        older.execute("UPDATE bookings SET guests = 8 WHERE id = 40")  # its snapshot shows no hold
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


@pytest.mark.long
def test_the_worker_of_another_subscription_passes_nowhere_and_ours_does(
    ground: CutoverGround, servers: EmbeddedServers
) -> None:
    there = "SELECT count(*) FROM bookings WHERE id = %s"
    for side in SIDES:
        # By such a setting a worker of ours remembers that it may pass.
        ground.run(side, "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET migration.worker = %L',"
                   " current_database(), 'it is me'); END $$")  # fmt: skip
    with stranger(ground, servers, "legacy", "base") as send:
        ground.run("base", "ALTER SUBSCRIPTION stranger DISABLE")
        send("INSERT INTO bookings VALUES (800001, '2024-05-02', 1)")
        wait_for(lambda: ground.one("base", there, 800001), "while nothing is held it passes, and is carried")
        ground.cut()
        send("INSERT INTO bookings VALUES (800002, '2024-05-02', 1); UPDATE bookings SET guests = 5")
        wait_for(lambda: errors_of_stranger(ground, "legacy"), "it is refused")
        key = ground.insert("base")
        ground.run("base", "DELETE FROM bookings WHERE id = 800001", "UPDATE bookings SET guests = 4 WHERE id < 50")
        settle_down(ground)
        assert (ground.one("legacy", there, key), ground.one("legacy", there, 800002)) == (1, 0)
        ground.equal()
        ground.run("legacy", "ALTER SUBSCRIPTION stranger DISABLE")

        def under_the_rollbacks_hold() -> None:
            ground.run("base", "ALTER SUBSCRIPTION stranger ENABLE")
            wait_for(lambda: errors_of_stranger(ground, "base"), "it is refused")

        with at(CutoverState.SEQUENCES, under_the_rollbacks_hold):
            ground.back()
        ground.run("base", "ALTER SUBSCRIPTION stranger DISABLE")
        ground.run("legacy", "UPDATE bookings SET guests = 3 WHERE id < 50", "DELETE FROM bookings WHERE id = 7")
        ground.assert_same()
        assert ground.one("base", there, 800002) == 0
        own_steps_go_on(ground)


def own_steps_go_on(ground: CutoverGround) -> None:
    """Under the hold that a rollback leaves on the base."""
    ground.as_we("base", "UPDATE bookings SET guests = 99 WHERE id = 31")
    repaired = ground.repair(5)
    assert repaired.differences.rows == 1
    ground.undo(repaired.repair_id)
    assert ground.one("base", "SELECT guests FROM bookings WHERE id = 31") == 99
    ground.copy(5)
    assert whole(ground, "base") == (), "also the leaf that the copy put in place"
    ground.assert_same()


@pytest.mark.long
def test_triggers_that_are_disabled_or_enabled_by_the_tables_owner_are_seen_and_mended(ground: CutoverGround) -> None:
    with psycopg.connect(ground.databases.legacy_url) as other:
        other.execute("SELECT count(*) FROM bookings")  # a reader is in nobody's way
        ground.cut()
    guard = guard_of(ground)
    guard.silent(1)
    # As pg_restore --disable-triggers does, and many a script.
    ground.run("base", "ALTER TABLE bookings DISABLE TRIGGER ALL", "ALTER TABLE bookings ENABLE TRIGGER ALL",
               f"ALTER TABLE {LEAF} DISABLE TRIGGER ALL", f"ALTER TABLE {LEAF} ENABLE TRIGGER ALL")  # fmt: skip
    assert set(guard.problems()) == {ProblemCode.BASE_UNGUARDED}
    key = ground.insert("base")  # no hold came into being by that
    ground.run("base", f"UPDATE {LEAF} SET guests = 12 WHERE id = 31")
    ground.run("legacy", "ALTER TABLE bookings DISABLE TRIGGER ALL", "ALTER TABLE bookings ENABLE TRIGGER ALL")
    assert set(guard.problems()) == {ProblemCode.BASE_UNGUARDED, ProblemCode.LEGACY_WRITABLE}
    assert attempt_once(ground, "legacy", SESSIONS["ordinary"]) == "25006", "the hold is noted still"
    assert attempt_once(ground, "legacy", SESSIONS["replica"]) is None
    with pytest.raises(CutoverError, match="the legacy can be written to although the base is in charge"):
        ground.back()
    assert ground.charge() == "base"
    assert "migration_assets_hold of public.bookings is not ENABLE ALWAYS" in hold_again(ground.cutover_plan())
    guard.silent(1)
    assert attempt_once(ground, "legacy", SESSIONS["replica"]) == "25006"
    for name in ("bookings", "bookings_fy25_q2", LEAF):
        for session in SESSIONS.values():
            with psycopg.connect(ground.databases.base_url, autocommit=True) as client:
                client.execute(session)
                with pytest.raises(errors.ReadOnlySqlTransaction, match="would not reach the legacy"):
                    client.execute(f"TRUNCATE {name}".encode())
    settle_down(ground)
    assert ground.one("legacy", "SELECT count(*) FROM bookings WHERE id = %s", key) == 1
    # No trigger fires for what takes a partition away; the watch sees it, and knows the way back.
    ground.run("base", f"ALTER TABLE bookings_fy25_q2 DETACH PARTITION {LEAF}")
    lost = guard.problems()[ProblemCode.BASE_LEAF_LOST].what
    with psycopg.connect(ground.databases.base_url) as base:
        base.execute(lost[lost.index("ALTER TABLE") :].encode())
    guard.silent(1)
    ground.equal()
    # PostgreSQL refuses this for a table that a publication names, and not for its partitions; no stream has the rows.
    ground.run("base", f"ALTER TABLE {LEAF} SET UNLOGGED", f"UPDATE {LEAF} SET guests = 13 WHERE id = 31")
    lost = guard.problems()[ProblemCode.BASE_LEAF_LOST].what
    with psycopg.connect(ground.databases.base_url) as base:
        base.execute(lost[lost.index("ALTER TABLE") : lost.index("; then")].encode())
    guard.silent(1)
    settle_down(ground)
    repair_after_base(ground.cutover_plan(), [week(5)], dry_run=False)
    ground.equal()
    # Who writes to a parent never meets the triggers of its child.
    ground.run("legacy", "CREATE TABLE parent (LIKE bookings)", "ALTER TABLE bookings INHERIT parent")
    told = guard.problems()[ProblemCode.LEGACY_WRITABLE].what
    assert "public.bookings inherits from public.parent, through which it can be written to" in told
    ground.run("legacy", "ALTER TABLE bookings NO INHERIT parent", "DROP TABLE parent")
    # A hold whose note somebody deleted holds still.
    ground.run("legacy", "DELETE FROM migration.holds")
    assert attempt_once(ground, "legacy", SESSIONS["ordinary"]) == "25006"
    hold_again(ground.cutover_plan())
    guard.silent(1)


@pytest.mark.long
def test_who_writes_to_a_child_of_the_legacy_passes_no_hold_unseen(ground: CutoverGround, before: Before) -> None:
    before(CutoverState.HELD, lambda: ground.run("legacy", "CREATE TABLE child () INHERITS (bookings)"))
    with pytest.raises(CutoverError, match=r"stopped at open: .*public\.child inherits from public\.bookings"):
        ground.cut()
    before(CutoverState.HELD, lambda: None)
    ground.run("legacy", "DROP TABLE child")
    ground.cut()
    guard = guard_of(ground)
    guard.silent(1)
    ground.run("legacy", "CREATE TABLE child () INHERITS (bookings)")
    assert set(guard.problems()) == {ProblemCode.LEGACY_WRITABLE}
    with pytest.raises(CutoverError, match=r"can be written to although the base is in charge.*child inherits"):
        ground.back()
    with pytest.raises(CutoverError, match="child inherits") as told:
        hold_again(ground.cutover_plan())
    assert "NO INHERIT" in told.value.next_step
    ground.run("legacy", "ALTER TABLE child NO INHERIT bookings")
    hold_again(ground.cutover_plan())
    assert ground.back().outcome == "succeeded"


def attempt_once(ground: CutoverGround, side: Side, session: str) -> str | None:
    with psycopg.connect(ground.databases.url(side), autocommit=True) as client:
        client.execute(session.encode())
        return attempt(client, "UPDATE {t} SET guests = guests WHERE id = 31", "bookings")


@pytest.mark.long
def test_a_hold_of_an_earlier_version_is_not_taken_for_one_and_is_mended_in_place(ground: CutoverGround) -> None:
    prepare_views(ground)
    ground.cut()
    guard = guard_of(ground)
    # All triggers are there and fire always; but one of them does something else.
    ground.run("legacy", "CREATE OR REPLACE FUNCTION migration.refuse_rows() RETURNS trigger LANGUAGE plpgsql AS"
               " 'BEGIN PERFORM current_setting(''migration.worker'', true); RETURN NULL; END'")  # fmt: skip
    assert set(guard.problems()) == {ProblemCode.LEGACY_WRITABLE}
    hold_again(ground.cutover_plan())
    guard.silent(1)
    for side in SIDES:
        ground.run(side, "DROP FUNCTION migration.refuse_rows() CASCADE", "DROP TABLE migration.hold_token",
                   "DROP FUNCTION migration.refuse_writes() CASCADE",
                   "DROP FUNCTION IF EXISTS migration.refuse_base_truncate() CASCADE", _EARLIER)  # fmt: skip
        ground.run(side, "CREATE TRIGGER migration_assets_hold BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON"
                   f" bookings FOR EACH STATEMENT EXECUTE FUNCTION migration.refuse_writes('{side}')")  # fmt: skip
    ground.run("base", "ALTER TABLE bookings DISABLE TRIGGER migration_assets_hold")
    assert set(guard.problems()) == {ProblemCode.LEGACY_WRITABLE, ProblemCode.BASE_UNGUARDED}
    assert attempt_once(ground, "legacy", SESSIONS["ordinary"]) == "25006"
    hold_again(ground.cutover_plan())
    guard.silent(1)
    refused(ground, "legacy", LEGACY)
    ground.insert("base")
    settle_down(ground)
    ground.equal()
    assert ground.back().outcome == "succeeded"
    assert whole(ground, "base") == ()


_EARLIER: LiteralString = """
CREATE FUNCTION migration.refuse_writes() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE name text := current_setting('application_name', true);
BEGIN
    IF TG_ARGV[0] = 'base' AND starts_with(name, 'migration_assets:') THEN RETURN NULL; END IF;
    RAISE EXCEPTION 'writes to % are held on the %: a cutover of migration_assets moves them to the other database',
        TG_TABLE_NAME, TG_ARGV[0] USING ERRCODE = '25006';
END $$
"""


def test_partitions_are_fenced_before_the_root_is_held_and_one_made_in_between_too(
    ground: CutoverGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.cut()
    seen: list[tuple[str, ...]] = []

    def in_between() -> None:
        seen.append(tuple(one for one in whole(ground, "base") if "fy25_q2" in one))
        ground.open(LATER)

    happens(monkeypatch, holds, "_hold_once", in_between)
    with at(CutoverState.COMPARED, lambda: seen.append(whole(ground, "base"))):
        ground.back()
    assert seen == [(), ()]


@pytest.mark.long(but=1)
@pytest.mark.parametrize("side", ["legacy", "base"])
def test_a_prepared_transaction_that_wrote_keeps_the_hold_from_standing(ground: CutoverGround, side: Side) -> None:
    """It has no session that could be asked or ended; also where it named a leaf alone."""
    name = f"{secrets.token_hex(4)}"
    table = "bookings" if side == "legacy" else LEAF
    if side == "base":
        ground.cut()
    with psycopg.connect(ground.databases.url(side), autocommit=True) as client:
        client.execute(f"BEGIN; UPDATE {table} SET guests = 44 WHERE id = 31; PREPARE TRANSACTION '{name}'".encode())
        with pytest.raises(CutoverError, match=f"prepared transaction '{name}'"):
            (ground.cut if side == "legacy" else ground.back)(patience_seconds=1.0)
        assert ground.charge() == side
        assert ground.watch() is None
        client.execute(f"COMMIT PREPARED '{name}'".encode())
        client.execute(f"UPDATE {table} SET guests = 45 WHERE id = 32".encode())
    (ground.cut if side == "legacy" else ground.back)()
    for held in (31, 32):
        assert ground.one("base", "SELECT guests FROM bookings WHERE id = %s", held) == 13 + held
        assert ground.one("legacy", "SELECT guests FROM bookings WHERE id = %s", held) == 13 + held


def test_the_token_serves_its_owner_alone_and_for_one_transaction(ground: CutoverGround) -> None:
    app = Application(ground, f"app_{secrets.token_hex(4)}")
    try:
        app.grant(
            "GRANT SELECT, UPDATE ON public.bookings TO {}",
            "GRANT USAGE ON SCHEMA migration TO {}",
            "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {}",
        )
        ground.cut()
        with pytest.raises(errors.InsufficientPrivilege):
            app.ask("SELECT token FROM migration.hold_token")
        # Somebody told it to them all the same.
        token = ground.one("legacy", "SELECT token FROM migration.hold_token")
        with psycopg.connect(app.url, autocommit=True) as client:
            client.execute("SELECT set_config('migration.hold_token', %s, false)", [token])
            assert attempt(client, WRITES["update"], LEGACY) == "25006"
    finally:
        app.drop()
    with psycopg.connect(ground.databases.legacy_url, autocommit=True) as owner:
        with owner.transaction():
            let_through(owner)
            assert attempt(owner, WRITES["update"], LEGACY) is None
        assert attempt(owner, WRITES["update"], LEGACY) == "25006"
