"""The base comes back as it was some time ago: found however it happened, trusted by no step, mended by one command."""

from collections.abc import Generator

import pytest

from migration_assets.domain.errors import ServerChangedError
from migration_assets.domain.stream_sample import ProblemCode
from migration_assets.domain.stream_thresholds import Severity
from migration_assets.postgres.cutover.machine import cut_over
from migration_assets.steps.approval import sign_off_quarter
from migration_assets.steps.archiving import archive_week
from migration_assets.steps.cutover_planning import cutover_plan
from migration_assets.steps.retiring import retire_week
from migration_assets.steps.streaming import recover_stream, resume_stream, start_stream
from migration_assets_tests.postgres.support import QUARTER, Ground, wait_for, week
from migration_assets_tests.servers.drill import book, look, migration, streamed
from migration_assets_tests.servers.standbys import Spare, spare_servers


@pytest.fixture
def spare() -> Generator[Spare]:
    with spare_servers() as found:
        yield found


def refused_everywhere(ground: Ground, why: str) -> None:
    """No step that rests on the stream or its proofs goes on, and each says which command mends it."""
    product = migration(ground)
    steps = {
        "sign-off": lambda: sign_off_quarter(product, QUARTER, "Ada"),
        "validate": lambda: ground.validate(5),
        "repair": lambda: ground.repair(5),
        "reconcile": ground.reconcile,
        "copy live": lambda: ground.copy(5),
        "join": ground.stream,
        "resume": lambda: resume_stream(product),
        "start": lambda: start_stream(product, QUARTER),
        "cutover": lambda: cut_over(cutover_plan(product), approved_by="Ada"),
        "archive": lambda: archive_week(product, week(5)),
        "retire": lambda: retire_week(product, week(5)),
    }
    for name, step in steps.items():
        with pytest.raises(ServerChangedError, match=why) as refused:
            step()
        assert "migration-assets stream recover --by NAME" in refused.value.next_step, name
    assert ground.one("base", "SELECT NOT bool_or(subenabled) FROM pg_subscription") is not False


def mended(ground: Ground) -> None:
    """One command, after which both sides are equal as text, and stay so; the servers are known anew, and by whom."""
    product = migration(ground)
    assert recover_stream(product, "Ada") is not None
    ground.assert_same()
    book(ground, [900_001])
    ground.assert_same()
    assert look(ground)[1] == {}
    assert ground.ask("base", "SELECT DISTINCT recorded_by FROM migration.servers") == [("Ada",)]
    assert ground.ask("base", "SELECT mended_by FROM migration.server_changes") == [("Ada",)]
    assert recover_stream(product, "Ada") is None
    assert ground.reconcile().equal
    assert sign_off_quarter(product, QUARTER, "Ada").approved_by == "Ada"


def test_files_of_the_base_put_back_skip_changes_and_the_markers_tell(spare: Spare) -> None:
    ground = streamed(spare)
    kept = spare.keep_files("base")
    wait_for(lambda: look(ground)[0].heartbeat_arrived, "the stream goes on")
    book(ground, range(1001, 1031))
    ground.drain()
    assert look(ground)[1] == {}
    spare.put_back("base", kept)
    # What the slot takes for applied is skipped, what comes now arrives: it looks as well as ever.
    book(ground, [2001])
    wait_for(lambda: ground.one("base", "SELECT count(*) FROM bookings WHERE id = 2001") == 1, "it goes on")
    assert ground.one("base", "SELECT count(*) FROM bookings WHERE id > 1000 AND id < 1100") == 0
    with pytest.raises(ServerChangedError, match="changes were skipped: marker"):
        sign_off_quarter(migration(ground), QUARTER, "Ada")
    problem = look(ground)[1][ProblemCode.SERVER_CHANGED]
    assert problem.severity is Severity.CRITICAL
    assert "stream recover" in problem.next_step
    refused_everywhere(ground, "changes were skipped: marker")
    mended(ground)


def test_a_standby_of_the_base_that_lagged_is_told_by_its_timeline(spare: Spare) -> None:
    ground = streamed(spare)
    standby = spare.standby("base")
    standby.stop()
    book(ground, range(1001, 1031))
    ground.drain()
    spare.clusters["base"].kill()
    standby = spare.began(standby)
    spare.promote("base", standby)
    after = spare.ground(ground)
    book(after, [2001])
    wait_for(lambda: after.one("base", "SELECT count(*) FROM bookings WHERE id = 2001") == 1, "it goes on")
    with pytest.raises(ServerChangedError, match="the base was promoted or recovered"):
        sign_off_quarter(migration(after), QUARTER, "Ada")
    refused_everywhere(after, "the base was promoted or recovered")
    mended(after)
