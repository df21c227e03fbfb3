"""The long drills with servers that come back as others; each ends equal, with no sign-off in between.

    python -m migration_assets_tests.servers.soak [NAME …]

Exits with 1 where one failed.
"""

import sys
import traceback
from collections.abc import Callable, Mapping

import pytest

from migration_assets.cutover.machine import roll_back
from migration_assets.cutover.plan import cutover_plan
from migration_assets.cutover.recovery import recover_stream
from migration_assets.domain.errors import ServerChangedError
from migration_assets.domain.findings import Severity
from migration_assets.domain.samples import ProblemCode
from migration_assets.evidence.approval import sign_off_quarter
from migration_assets.preflight.ways import examine_standbys
from migration_assets_tests.ground import QUARTER, wait_for
from migration_assets_tests.servers.drill import (
    book,
    confirmed,
    in_charge,
    left_behind,
    look,
    lost_rows_are_kept,
    mended,
    migration,
    put_back,
    streamed,
)
from migration_assets_tests.servers.standbys import Spare, spare_servers, touch


def a_base_restored_to_a_point_in_time_is_told_by_its_timeline(spare: Spare) -> None:
    ground = streamed(spare)
    backup = spare.back_up("base")
    book(ground, range(1001, 1006))
    ground.drain()
    ground.one("base", "SELECT pg_create_restore_point('drill')")
    book(ground, range(1006, 1031))
    ground.drain()
    ground.one("base", "SELECT pg_switch_wal()")
    touch(backup / "recovery.signal")
    kept = spare.clusters["base"].data / "pg_wal"
    restored = spare.restore(
        "base", backup, {"restore_command": f"cp {kept}/%f %p", "recovery_target_name": "drill",
                         "recovery_target_action": "promote"},
    )  # fmt: skip
    spare.clusters["base"].kill()
    spare.clusters["base"] = spare.began(restored)
    after = spare.ground(ground)
    wait_for(lambda: after.one("base", "SELECT NOT pg_is_in_recovery()"), "it is recovered")
    assert ProblemCode.SERVER_CHANGED in look(after)[1]
    with pytest.raises(ServerChangedError, match="the base was promoted or recovered"):
        sign_off_quarter(migration(after), QUARTER, "Ada")
    mended(after)


def files_of_the_legacy_put_back_are_told_by_where_it_stands(spare: Spare) -> None:
    ground = streamed(spare)
    put_back(spare, ground, "legacy")
    assert ProblemCode.SERVER_CHANGED in look(ground)[1]
    with pytest.raises(ServerChangedError, match=r"the legacy went back|the legacy stands at|has lost marker"):
        sign_off_quarter(migration(ground), QUARTER, "Ada")
    mended(ground)
    lost_rows_are_kept(ground, 30)


def the_slot_outlives_a_failover_where_both_servers_can(spare: Spare) -> None:
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
    with ground.databases.session("legacy", "test") as legacy:
        [before] = examine_standbys(legacy, "legacy")
        legacy.execute("ALTER SYSTEM SET synchronized_standby_slots = 'standby'")
        legacy.execute("SELECT pg_reload_conf()")
    with ground.databases.session("legacy", "test") as legacy:
        [after_it] = examine_standbys(legacy, "legacy")
    assert (before.severity, after_it.severity) == (Severity.WARNING, Severity.INFO)
    assert "synchronized_standby_slots = 'standby'" in before.remedy
    spare.promote("legacy", standby)
    after = spare.ground(ground)
    # It is there, and stands somewhere; still nobody trusts it before every week was compared.
    assert after.one("legacy", "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s", slot) == 1
    assert look(after)[1].keys() >= {ProblemCode.SERVER_CHANGED}
    with pytest.raises(ServerChangedError, match="the legacy was promoted or recovered"):
        sign_off_quarter(migration(after), QUARTER, "Ada")
    mended(after)
    assert after.one("base", "SELECT count(*) FROM bookings WHERE id BETWEEN 1001 AND 1100") == 30


def five_switchovers_of_the_base_in_a_row(spare: Spare) -> None:
    """Each to a standby that lagged, with writes in between; the ground of the next is what the last one left."""
    ground = streamed(spare)
    for number in range(5):
        first = 1000 * (number + 1)
        spare.promote("base", left_behind(spare, ground, "base", range(first, first + 20)))
        ground = spare.ground(ground)
        with pytest.raises(ServerChangedError, match="the base was promoted or recovered"):
            sign_off_quarter(migration(ground), QUARTER, "Ada")
        assert recover_stream(migration(ground), f"Ada, {number}") is not None
        ground.assert_same()
        assert ground.reconcile().equal
    assert sign_off_quarter(migration(ground), QUARTER, "Ada").approved_by == "Ada"


def files_of_a_following_legacy_put_back_are_told_by_the_reverse_markers(spare: Spare) -> None:
    """What the reverse slot takes for applied is skipped; a rollback would have lost it, were it not compared."""
    ground = in_charge(spare)
    kept = spare.keep_files("legacy")
    wait_for(lambda: not look(ground)[1], "the reverse stream goes on")
    for _ in range(10):
        ground.insert("base")
    wait_for(lambda: ground.contents("legacy") == ground.contents("base"), "the legacy follows")
    assert look(ground)[1] == {}
    confirmed(ground, "base")
    spare.put_back("legacy", kept)
    wait_for(lambda: ProblemCode.SERVER_CHANGED in look(ground)[1], "it is told")
    product = migration(ground)
    with pytest.raises(ServerChangedError, match=r"went back|changes were skipped"):
        roll_back(cutover_plan(product), approved_by="Ada")
    assert recover_stream(product, "Ada") is not None
    ground.equal()
    assert ground.back().outcome == "succeeded"
    ground.assert_same()


DRILLS: Mapping[str, tuple[Callable[[Spare], None], bool]] = {
    "pitr": (a_base_restored_to_a_point_in_time_is_told_by_its_timeline, False),
    "files": (files_of_the_legacy_put_back_are_told_by_where_it_stands, False),
    "slot": (the_slot_outlives_a_failover_where_both_servers_can, True),
    "following": (files_of_a_following_legacy_put_back_are_told_by_the_reverse_markers, False),
    "five": (five_switchovers_of_the_base_in_a_row, False),
}


def main() -> None:
    """One line a drill."""
    failed = 0
    for name in sys.argv[1:] or DRILLS:
        drill, new_legacy = DRILLS[name]
        try:
            with spare_servers(new_legacy=new_legacy) as spare:
                drill(spare)
            print(f"ok: {drill.__name__}", flush=True)
        except Exception:  # noqa: BLE001 - the others are to be tried all the same
            failed += 1
            print(f"FAILED {drill.__name__}\n{traceback.format_exc()}", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
