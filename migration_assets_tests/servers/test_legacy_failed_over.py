"""The legacy comes back as another: a standby that has the stream's slot, or has not; files that were put back."""

from collections.abc import Generator

import pytest

from migration_assets.domain.errors import ServerChangedError
from migration_assets.domain.stream_sample import ProblemCode
from migration_assets.steps.approval import sign_off_quarter
from migration_assets_tests.postgres.support import QUARTER, Ground, wait_for
from migration_assets_tests.servers.drill import book, look, mended, migration, refused_everywhere, streamed
from migration_assets_tests.servers.standbys import Spare, spare_servers

KEPT = "SELECT count(*) FROM migration.repaired_rows WHERE kind = 'extra' AND before LIKE '%drill%'"


@pytest.fixture(scope="module")
def spare() -> Generator[Spare]:
    with spare_servers() as found:
        yield found


def lost_rows_are_kept(ground: Ground, rows: int) -> None:
    """What the base had and the legacy lost is out of the base, and in the images of before."""
    assert ground.one("base", "SELECT count(*) FROM bookings WHERE id BETWEEN 1001 AND 1100") == 0
    assert ground.one("base", KEPT) == rows


def test_files_of_the_legacy_put_back_are_told_by_where_it_stands(spare: Spare) -> None:
    ground = streamed(spare)
    kept = spare.keep_files("legacy")
    wait_for(lambda: look(ground)[0].heartbeat_arrived, "the stream goes on")
    book(ground, range(1001, 1031))
    ground.drain()
    assert look(ground)[1] == {}
    spare.put_back("legacy", kept)
    assert ProblemCode.SERVER_CHANGED in look(ground)[1]
    with pytest.raises(ServerChangedError, match=r"the legacy went back|the legacy stands at|has lost marker"):
        sign_off_quarter(migration(ground), QUARTER, "Ada")
    mended(ground)
    lost_rows_are_kept(ground, 30)


def test_a_standby_of_the_legacy_that_lagged_and_has_no_slot(spare: Spare) -> None:
    ground = streamed(spare)
    standby = spare.standby("legacy")
    standby.stop()
    book(ground, range(1001, 1031))
    ground.drain()
    spare.clusters["legacy"].kill()
    spare.promote("legacy", spare.began(standby))
    after = spare.ground(ground)
    assert look(after)[1].keys() >= {ProblemCode.SERVER_CHANGED}
    refused_everywhere(after, "the legacy was promoted or recovered")
    mended(after)
    lost_rows_are_kept(after, 30)


def test_the_slot_outlives_a_failover_where_both_servers_can(servers_of_18: Spare) -> None:
    spare = servers_of_18
    ground = streamed(spare)
    slot = ground.stream_record().slot
    assert ground.one("legacy", "SELECT failover FROM pg_replication_slots WHERE slot_name = %s", slot)
    assert ground.one("base", "SELECT subfailover FROM pg_subscription WHERE subname = %s", slot)
    with ground.databases.session("legacy", "test") as legacy:
        legacy.execute("SELECT pg_create_physical_replication_slot('standby')")
    standby = spare.standby(
        "legacy", primary_slot_name="standby", hot_standby_feedback="on", sync_replication_slots="on"
    )
    book(ground, range(1001, 1031))
    ground.drain()
    synced = f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}' AND synced AND NOT temporary"
    wait_for(lambda: spare.ask(standby, synced) == 1, "the slot is on the standby", 40)
    spare.promote("legacy", standby)
    after = spare.ground(ground)
    # It is there, and stands somewhere; still nobody trusts it before every week was compared.
    assert after.one("legacy", "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s", slot) == 1
    assert look(after)[1].keys() >= {ProblemCode.SERVER_CHANGED}
    with pytest.raises(ServerChangedError, match="the legacy was promoted or recovered"):
        sign_off_quarter(migration(after), QUARTER, "Ada")
    mended(after)
    assert after.one("base", "SELECT count(*) FROM bookings WHERE id BETWEEN 1001 AND 1100") == 30


@pytest.fixture
def servers_of_18() -> Generator[Spare]:
    with spare_servers(new_legacy=True) as found:
        yield found
