"""Each obstacle that the databases tell of, red and green; all of them at once."""

import secrets
from collections.abc import Generator
from dataclasses import replace

import psycopg
import pytest

from migration_assets.decommission.closing import choose_scope
from migration_assets.decommission.machine import decommission
from migration_assets.decommission.obstacles import find_obstacles
from migration_assets.domain.states import DecommissionError, Scope
from migration_assets.postgres.sessions import Databases
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.decommission.deed import Application, close_legacy, plan_of, record_of

_OURS = (
    "SELECT subname::text FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid"
    " WHERE datname = current_database()"
)


def found(ground: CutoverGround, scope: Scope = "table", *, window: float = 0, quiet: float = 0) -> dict[str, str]:
    """Code → text and remedy."""
    plan = plan_of(ground, window=window, quiet=quiet)
    with ground.databases.session("base", "test") as base, ground.databases.session("legacy", "test") as legacy:
        return {one.code: f"{one.what}. {one.remedy}" for one in find_obstacles(base, legacy, plan, scope)}


def execute(ground: CutoverGround, statement: str) -> None:
    with ground.databases.session("legacy", "test") as legacy:
        legacy.execute(statement.encode())


def test_nothing_stands_in_the_way_of_a_base_in_charge(ground: CutoverGround) -> None:
    assert found(ground) == {}
    assert found(ground, "database") == {}


@pytest.mark.long
def test_a_legacy_in_charge_is_not_closed(ground: CutoverGround) -> None:
    ground.back()
    assert found(ground).keys() == {"charge"}
    with pytest.raises(DecommissionError, match="the legacy is in charge"):
        close_legacy(ground)
    assert record_of(ground) is None


@pytest.mark.long
def test_an_unfinished_cutover_or_rollback_comes_first(ground: CutoverGround) -> None:
    ground.run("base", "INSERT INTO migration.cutovers (relation, kind, rehearse, approved_by)"
               " VALUES ('public.bookings', 'rollback', false, 'Ada')")  # fmt: skip
    seen = found(ground)
    assert seen.keys() == {"unfinished"}
    assert "rollback 2 is not finished: it is at begun" in seen["unfinished"]
    ground.run("base", "DELETE FROM migration.cutovers WHERE outcome = 'running'")
    assert found(ground) == {}
    ground.run("base", "UPDATE migration.cutovers SET outcome = 'aborted'")
    assert "is aborted, not succeeded" in found(ground)["unfinished"]


def test_the_rollback_window_must_be_over(ground: CutoverGround) -> None:
    seen = found(ground, window=14)
    assert seen.keys() == {"window"}
    assert "14.0 days are left" in seen["window"]
    ground.run("base", "UPDATE migration.cutovers SET opened_at = opened_at - interval '13 days 12 hours'")
    assert "0.5 days are left" in found(ground, window=14)["window"]
    ground.run("base", "UPDATE migration.cutovers SET opened_at = opened_at - interval '13 hours'")
    assert found(ground, window=14) == {}


@pytest.mark.long
def test_nobody_may_have_read_the_legacy(ground: CutoverGround) -> None:
    assert found(ground, quiet=7).keys() == {"watched"}, "the watch begins with this look"
    # What the watch would have seen in eight days.
    ground.run("base", "UPDATE migration.legacy_reads SET watched_since = watched_since - interval '8 days',"
               " counters = jsonb_set(counters, '{accepted}', counters -> 'excess')")  # fmt: skip
    assert found(ground, quiet=7) == {}
    with psycopg.connect(ground.databases.legacy_url, autocommit=True, application_name="old app") as client:
        client.execute("SELECT * FROM bookings WHERE id = 3")
        seen = found(ground, quiet=7)  # looks until it is sure
    assert seen.keys() == {"quiet"}
    assert "(old app, " in seen["quiet"]
    assert "bookings WHERE" not in seen["quiet"], "a client's statement is nobody's business"
    assert found(ground) == {}, "0 days: not asked"
    ground.run("base", "UPDATE migration.legacy_reads SET last_read_at = last_read_at - interval '8 days'")
    assert found(ground, quiet=7) == {}
    ground.run("legacy", "SELECT pg_stat_reset()")
    assert found(ground, quiet=7).keys() == {"watched"}, "nobody knows what was before"


def test_a_legacy_without_statistics_cannot_be_watched(ground: CutoverGround) -> None:
    name = ground.one("legacy", "SELECT quote_ident(current_database())")
    execute(ground, f"ALTER DATABASE {name} SET track_counts = off")
    assert "keeps no statistics" in found(ground, quiet=7)["quiet"]


@pytest.mark.long
def test_the_reverse_stream_must_be_whole(ground: CutoverGround) -> None:
    name = ground.one("legacy", _OURS)
    execute(ground, f"ALTER SUBSCRIPTION {name} DISABLE")
    assert "it is disabled" in found(ground)["reverse"]
    with pytest.raises(DecommissionError, match="reverse stream is not whole"):
        close_legacy(ground)
    execute(ground, f"ALTER SUBSCRIPTION {name} ENABLE")
    assert found(ground) == {}


def test_a_legacy_that_accepts_writes_may_hold_what_the_base_does_not(ground: CutoverGround) -> None:
    ground.run("legacy", "ALTER TABLE bookings DISABLE TRIGGER migration_assets_hold")
    seen = found(ground)
    assert seen.keys() == {"hold"}
    ground.run("legacy", "ALTER TABLE bookings ENABLE ALWAYS TRIGGER migration_assets_hold")
    assert found(ground) == {}


@pytest.mark.long
def test_a_database_that_others_live_in_is_not_closed(ground: CutoverGround) -> None:
    with ground.databases.session("legacy", "test") as legacy:
        assert choose_scope(legacy, ground.spec, None).scope == "database"
        # Others may have had a schema of that name before this program came.
        ground.run("legacy", "CREATE TABLE migration.theirs (id int)")
        chosen = choose_scope(legacy, ground.spec, None)
        assert (chosen.scope, chosen.why.rpartition(": ")[2]) == ("table", "migration.theirs")
        ground.run("legacy", "DROP TABLE migration.theirs")
        ground.run("legacy", "CREATE SCHEMA shop", "CREATE TABLE shop.orders (id int)",
                   "CREATE MATERIALIZED VIEW shop.sums AS SELECT 1 AS n",
                   "CREATE TABLE parts (id int) PARTITION BY RANGE (id)",
                   "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (1) TO (2)")  # fmt: skip
        chosen = choose_scope(legacy, ground.spec, None)
        assert chosen.scope == "table"
        assert "parts, shop.orders, shop.sums" in chosen.why
        assert choose_scope(legacy, ground.spec, "database").scope == "database", "as asked for, and refused then"
    seen = found(ground, "database")
    assert seen.keys() == {"other_tables"}
    assert found(ground) == {}
    with pytest.raises(DecommissionError, match="holds other tables"):
        close_legacy(ground, "database")


@pytest.mark.long
def test_sessions_of_others_are_named(ground: CutoverGround) -> None:
    with psycopg.connect(ground.databases.legacy_url, application_name="report") as client:
        seen = found(ground, "database")
        assert seen.keys() == {"sessions"}
        assert f"backend {client.info.backend_pid} (" in seen["sessions"]
        assert ", report, " in seen["sessions"]
        assert found(ground, "table") == {}


def test_all_obstacles_come_at_once(ground: CutoverGround) -> None:
    ground.run("legacy", "ALTER TABLE bookings DISABLE TRIGGER migration_assets_hold", "CREATE TABLE other (id int)")
    assert found(ground, "database", window=1, quiet=1).keys() == {"window", "watched", "hold", "other_tables"}
    with pytest.raises(DecommissionError, match="nobody approved it; a rollback is to be possible"):
        decommission(plan_of(ground, window=1), approved_by=" ", scope="table")
    assert record_of(ground) is None


@pytest.fixture
def weak(ground: CutoverGround) -> Generator[Application]:
    made = Application(ground, f"weak_{secrets.token_hex(4)}")
    made.grant("GRANT SELECT ON bookings TO {}", "GRANT USAGE ON SCHEMA migration TO {}",
               "GRANT ALL ON ALL TABLES IN SCHEMA migration TO {}")  # fmt: skip
    yield made
    made.grant("SET default_transaction_read_only = off; REASSIGN OWNED BY {} TO CURRENT_USER")
    made.drop()


@pytest.mark.parametrize("scope", ["table", "database"])
def test_a_role_that_may_not_is_told_the_statements_of_a_dba_before_anything_is_touched(
    ground: CutoverGround, weak: Application, scope: Scope
) -> None:
    ours = Databases(weak.url, ground.databases.base_url)
    theirs = replace(ground, databases=ours)
    with pytest.raises(DecommissionError, match=r"may not close table public\.bookings, which belongs to") as refused:
        close_legacy(theirs, scope)
    assert "a rollback is possible" in refused.value.state_left
    assert record_of(ground) is None
    assert "may not drop the reverse subscription" in refused.value.what
    next_step = refused.value.next_step
    assert "run this as migrator, as the cutover was" in next_step
    statements = [one.split(";")[0] for one in next_step.split("a DBA runs in the legacy's database: ")[1:]]
    assert [one.split()[1] for one in statements] == (["TABLE"] if scope == "table" else ["TABLE", "DATABASE"])
    with psycopg.connect(ground.databases.legacy_url, autocommit=True) as dba:
        for statement in statements:
            dba.execute(statement.encode())
    with ground.databases.session("base", "test") as base, ours.session("legacy", "test") as legacy:
        left = find_obstacles(base, legacy, plan_of(theirs), scope)
    assert len(left) == 1
    assert "reverse subscription" in left[0].what, "what the statements are for is no obstacle any more"


def test_a_member_of_the_owner_may_close_it(ground: CutoverGround, weak: Application) -> None:
    owner = Application(ground, f"{weak.name}_owner")
    weak.grant(f"GRANT {owner.name} TO {{}}")
    owner.grant("GRANT ALL ON SCHEMA public TO {}", "ALTER TABLE bookings OWNER TO {}")
    theirs = replace(ground, databases=Databases(weak.url, ground.databases.base_url))
    try:
        with ground.databases.session("base", "test") as base, theirs.databases.session("legacy", "test") as legacy:
            assert len(find_obstacles(base, legacy, plan_of(theirs), "table")) == 1
        weak.grant(f"REVOKE {owner.name} FROM {{}}")
        with ground.databases.session("base", "test") as base, theirs.databases.session("legacy", "test") as legacy:
            [table, _] = find_obstacles(base, legacy, plan_of(theirs), "table")
        assert table.remedy.endswith(f"GRANT {owner.name} TO {weak.name}")
    finally:
        owner.grant("REASSIGN OWNED BY {} TO CURRENT_USER")
        owner.drop()
