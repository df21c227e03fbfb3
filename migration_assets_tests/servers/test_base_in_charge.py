"""A server comes back as another while the base is in charge: no rollback or decommission trusts the reverse stream."""

from collections.abc import Generator

import pytest

from migration_assets.cutover.legacy_repair import repair_legacy
from migration_assets.cutover.machine import roll_back
from migration_assets.cutover.plan import cutover_plan
from migration_assets.cutover.recovery import recover_stream
from migration_assets.domain.errors import ServerChangedError
from migration_assets.domain.samples import ProblemCode
from migration_assets.retirement.retiring import retire_week
from migration_assets.stream.slots import remove_slot
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.decommission.deed import close_legacy
from migration_assets_tests.ground import wait_for, week
from migration_assets_tests.servers.drill import in_charge, look, migration
from migration_assets_tests.servers.standbys import Spare, spare_servers


@pytest.fixture(scope="module")
def spare() -> Generator[Spare]:
    with spare_servers() as found:
        yield found


def refused_and_mended(ground: CutoverGround, why: str) -> None:
    """What rests on the reverse stream is refused; one command mends it, and then a rollback works."""
    product = migration(ground)
    for step in (
        lambda: roll_back(cutover_plan(product), approved_by="Ada"),
        lambda: repair_legacy(product, [week(5)]),
        lambda: retire_week(product, week(5)),
        lambda: close_legacy(ground),
    ):
        with pytest.raises(ServerChangedError, match=why) as refused:
            step()
        assert "stream recover --by NAME" in refused.value.next_step
    assert recover_stream(product, "Ada") is not None
    ground.equal()
    ground.insert("base")
    wait_for(lambda: ground.contents("legacy") == ground.contents("base"), "the legacy follows")
    assert look(ground)[1] == {}
    assert recover_stream(product, "Ada") is None
    # What the legacy skipped its markers tell.
    assert look(ground)[1] == {}
    ground.run("legacy", "DELETE FROM migration.reverse_markers WHERE id = (SELECT max(id) FROM"
               " migration.reverse_markers)")  # fmt: skip
    assert "changes were skipped: marker" in look(ground)[1][ProblemCode.SERVER_CHANGED].what
    assert recover_stream(product, "Ada") is not None
    # The same where nothing but the reverse stream's slot was lost.
    back = f"{ground.stream_record().slot}_back"
    with ground.databases.session("base", "test") as base, ground.databases.session("legacy", "test") as legacy:
        legacy.execute(f"ALTER SUBSCRIPTION {back} DISABLE".encode())
        remove_slot(base, back)
        legacy.execute(f"ALTER SUBSCRIPTION {back} ENABLE".encode())
    ground.insert("base")
    assert "stream recover --by NAME" in look(ground)[1][ProblemCode.REVERSE_SLOT_LOST].next_step
    assert recover_stream(product, "Ada") is not None
    ground.equal()
    assert ground.back().outcome == "succeeded"
    ground.insert("legacy")
    ground.assert_same()
    assert look(ground)[1] == {}


@pytest.mark.long
def test_a_standby_of_the_base_in_charge_that_lagged(spare: Spare) -> None:
    """What was lost on the base is on the legacy still: it is kept as images, and the base decides."""
    ground = in_charge(spare)
    standby = spare.standby("base")
    standby.stop()
    lost = [ground.insert("base") for _ in range(5)]
    wait_for(lambda: ground.contents("legacy") == ground.contents("base"), "the legacy follows")
    spare.clusters["base"].kill()
    spare.promote("base", spare.began(standby))
    after = spare.ground(ground)
    # The same keys are given out again.
    assert after.insert("base") in {*lost, *range(max(lost) + 1, max(lost) + 100)}
    assert ProblemCode.SERVER_CHANGED in look(after)[1]
    refused_and_mended(after, "the base was promoted or recovered")
    kept = after.one("base", "SELECT count(*) FROM migration.repaired_rows JOIN migration.repairs ON id = repair_id"
                     " WHERE side = 'legacy' AND kind IN ('extra', 'changed')")  # fmt: skip
    assert kept >= 4
