"""Others' publications of everything: their subscribers are told of before our first marker, and watched afterwards."""

import secrets
from collections.abc import Generator
from dataclasses import dataclass, replace
from datetime import timedelta

import psycopg
import pytest

from migration_assets.domain.findings import Severity
from migration_assets.domain.samples import ProblemCode
from migration_assets.domain.stream_watch import View, evaluate
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.watch.look import observe_stream
from migration_assets_tests.ground import wait_for
from migration_assets_tests.preflight.conftest import Patient


@dataclass(frozen=True)
class Third:
    """A database of somebody else that subscribes to all of the legacy's tables."""

    url: str
    name: str

    def run(self, *statements: str) -> list[tuple[object, ...]]:
        """The rows of the last one."""
        rows: list[tuple[object, ...]] = []
        with psycopg.connect(self.url, autocommit=True) as session:
            for statement in statements:
                cursor = session.execute(statement.encode())
                while cursor.nextset():
                    pass
                rows = cursor.fetchall() if cursor.description else []
        return rows

    def has(self, row: int) -> bool:
        return self.run(f"SELECT count(*) FROM bookings WHERE id = {row}") == [(1,)]


@pytest.fixture
def third(patient: Patient, servers: EmbeddedServers) -> Generator[Third]:
    patient.with_bookings("CREATE PUBLICATION everything FOR ALL TABLES")
    name = f"third_{secrets.token_hex(6)}"
    servers.recreate_database("base", name)
    made = Third(servers.base_url(name), name)
    made.run(
        "CREATE TABLE bookings (id bigint PRIMARY KEY, booked_at timestamptz, guests int, price numeric, note text)",
        f"CREATE SUBSCRIPTION {name} CONNECTION '{patient.ground.databases.legacy_url}' PUBLICATION everything",
    )
    yield made
    made.run(f"DROP SUBSCRIPTION {name}")
    servers.drop_database("base", name)


@pytest.mark.long
def test_a_subscriber_of_all_tables_is_named_with_what_it_needs_and_then_goes_on(
    patient: Patient, third: Third
) -> None:
    wait_for(lambda: third.has(10), "the first copy of theirs")
    found = patient.examine()
    assert found.blocking == ["foreign_publication"]
    said = found.one("foreign_publication")
    assert (said.acceptable, said.subject) == (True, "everything")
    assert third.name in said.evidence, "its slot is named"
    third.run(said.remedy.partition("run: ")[2].partition(" (their")[0])
    ground = patient.ground.streamed()
    ground.validate()
    ground.run("legacy", "INSERT INTO bookings (id, booked_at) VALUES (5001, '2024-05-05')")
    wait_for(lambda: third.has(5001), "a row beyond our markers")
    errors = f"SELECT apply_error_count FROM pg_stat_subscription_stats WHERE subname = '{third.name}'"
    assert third.run(errors) == [(0,)]
    assert third.run("SELECT count(*) FROM migration.markers") == [(0,)]
    # The other way out: the same publication without our schema.
    ground.run("legacy", said.remedy.partition("in the legacy: ")[2].partition(" Then accept")[0])  # pyright: ignore[reportArgumentType]
    assert patient.examine().severity("foreign_publication") is Severity.INFO
    third.run("DROP SCHEMA migration CASCADE")
    ground.validate()
    ground.run("legacy", "INSERT INTO bookings (id, booked_at) VALUES (5002, '2024-05-05')")
    wait_for(lambda: third.has(5002), "a row after the publication was taken apart")


@pytest.mark.long
def test_a_slot_that_stands_since_our_markers_is_an_alert(patient: Patient, third: Third) -> None:
    wait_for(lambda: third.has(10), "the first copy of theirs")
    ground = patient.ground.streamed()
    ground.validate()
    errors = f"SELECT apply_error_count > 0 FROM pg_stat_subscription_stats WHERE subname = '{third.name}'"
    wait_for(lambda: third.run(errors) == [(True,)], "their worker stops at our marker")
    first = observe_stream(ground.databases, ground.spec)
    assert (first.foreign_slots or {}).keys() == {third.name}
    second = observe_stream(ground.databases, ground.spec)

    def told(seconds: float) -> list[str]:
        late = replace(second, taken_at=first.taken_at + timedelta(seconds=seconds))
        return [one.what for one in evaluate(View(late, (first,))).problems
                if one.code is ProblemCode.FOREIGN_SLOT_STANDS]  # fmt: skip

    assert told(30) == []
    [what] = told(150)
    assert f"slot {third.name} stands at" in what
    # One that moves is well.
    moved = replace(first, foreign_slots={third.name: "0/1"})
    assert not [one for one in evaluate(View(replace(second, taken_at=second.taken_at + timedelta(hours=1)), (moved,)))
                .problems if one.code is ProblemCode.FOREIGN_SLOT_STANDS]  # fmt: skip


@pytest.mark.long
def test_who_follows_the_base_is_told_what_he_will_lack_and_who_follows_the_legacy_when_it_ends(
    patient: Patient, servers: EmbeddedServers
) -> None:
    patient.with_bookings("CREATE PUBLICATION warehouse FOR TABLES IN SCHEMA public")
    ground = patient.ground.streamed()
    patient.base("CREATE PUBLICATION shop FOR TABLE bookings WITH (publish_via_partition_root = true)")
    name = f"third_{secrets.token_hex(6)}"
    servers.recreate_database("base", name)
    third = Third(servers.base_url(name), name)
    slot = "SELECT slot_name FROM pg_create_logical_replication_slot('{}', 'pgoutput')"
    ground.one("base", slot.replace("{}", name))  # pyright: ignore[reportArgumentType]  # a server waits for itself
    third.run(
        "CREATE TABLE bookings (id bigint, booked_at timestamptz, guests int, price numeric, note text,"
        " PRIMARY KEY (id, booked_at))",
        f"CREATE SUBSCRIPTION {name} CONNECTION '{ground.databases.base_url}' PUBLICATION shop"
        " WITH (create_slot = false, copy_data = false)",
    )
    try:
        ground.run("legacy", "INSERT INTO bookings (id, booked_at) VALUES (5001, '2024-05-05'), (5002, '2024-05-05')")
        wait_for(lambda: third.has(5001), "what the stream brings")
        found = patient.examine()
        assert found.blocking == ["follower_in_base"]
        said = found.one("follower_in_base")
        assert (said.acceptable, said.subject, name in said.evidence) == (True, "shop", True)
        assert "under its leaf's name" not in said.evidence
        assert found.severity("follower") is Severity.WARNING
        # What the finding says: a leaf that is copied anew brings its followers nothing.
        ground.run("base", "DELETE FROM bookings WHERE id = 5001")
        wait_for(lambda: not third.has(5001), "what somebody deletes on the base")
        ground.copy(5)
        ground.run("legacy", "UPDATE bookings SET guests = 9 WHERE id = 5002")
        wait_for(lambda: third.run("SELECT guests FROM bookings WHERE id = 5002") == [(9,)], "what comes later")
        ground.assert_same()
        assert not third.has(5001)
        patient.base("ALTER PUBLICATION shop SET (publish_via_partition_root = false)")
        assert "under its leaf's name" in patient.examine().one("follower_in_base").evidence
        # Of one leaf alone, whatever it says of roots.
        patient.base("ALTER PUBLICATION shop SET (publish_via_partition_root = true)")
        patient.base("ALTER PUBLICATION shop SET TABLE bookings_fy25_q2_w05")
        assert "under its leaf's name" in patient.examine().one("follower_in_base").evidence
    finally:
        third.run(f"DROP SUBSCRIPTION {name}")
        servers.drop_database("base", name)


@pytest.mark.long
def test_a_publication_of_everything_on_the_base_blocks_too_and_no_step_fails_by_it(patient: Patient) -> None:
    patient.with_bookings().base("CREATE PUBLICATION everything FOR ALL TABLES")
    assert patient.examine().blocking == ["foreign_publication_in_base"]
    ground = patient.ground.copy_all()
    ground.stream()
    ground.run("legacy", "UPDATE bookings SET guests = 5", "DELETE FROM bookings WHERE id = 3")
    ground.drain()
    ground.run("base", "UPDATE bookings SET guests = 6 WHERE id = 4")
    ground.repair()
    ground.validate()
    ground.assert_same()
    ground.run("base", "DROP PUBLICATION everything")
    assert patient.examine().blocking == []


def test_a_publication_of_our_own_schema_blocks_and_its_remedy_takes_our_schema_out_of_it(patient: Patient) -> None:
    patient.with_bookings().ground.streamed()
    patient.legacy(
        "CREATE TABLE theirs (id int)", "CREATE PUBLICATION nosy FOR TABLE theirs, TABLES IN SCHEMA migration"
    )
    found = patient.examine()
    assert found.blocking == ["foreign_publication"]
    said = found.one("foreign_publication")
    assert (said.acceptable, said.subject) == (True, "nosy")
    assert "FOR TABLES IN SCHEMA migration" in said.evidence
    remedy = said.remedy.partition("in the legacy: ")[2].partition(" Then accept")[0]
    patient.ground.run("legacy", remedy)  # pyright: ignore[reportArgumentType]
    assert patient.examine().blocking == []
    assert patient.ground.ask("legacy", "SELECT tablename FROM pg_publication_tables WHERE pubname = 'nosy'") == [
        ("theirs",)
    ]
