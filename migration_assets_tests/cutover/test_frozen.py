"""A process that is frozen cannot release what it holds: somebody else does, and when it wakes up it does no harm."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import psycopg
import pytest

from migration_assets.cutover import holds
from migration_assets.domain.errors import StreamError
from migration_assets.domain.states import CutoverError
from migration_assets.ledger.stream import StreamLock
from migration_assets_tests.crashes.trap import Point
from migration_assets_tests.cutover.child import start_frozen
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.cutover.kills import accepts, stage
from migration_assets_tests.cutover.ordeal import settle_down
from migration_assets_tests.freezes import patience
from migration_assets_tests.ground import wait_for
from migration_assets_tests.sweeps import telling

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="whether a process stands is in /proc")
_TIMEOUT = 2.0
_ENTER = "base[cutover] UPDATE migration.cutovers SET state"
# The occurrence of that statement which ends the step before; the process stands with all that step did.
ENTERS = {"waiting": 1, "drained": 3, "compared": 4, "sequences": 5, "reversed": 6, "open": 7}
# All of them were seen; a run of the suite takes some.
HELD = [*product(("cutover", "rollback"), ("drained", "compared", "sequences", "reversed", "open"))]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "GRACE_SECONDS", 0.5)


@contextmanager
def frozen(ground: CutoverGround, kind: str, point: Point) -> Generator[subprocess.Popen[str]]:
    """Its process stands still at the point; it is woken up at the end, and ends."""
    with tempfile.TemporaryDirectory() as folder:
        process = start_frozen(ground, kind, Path(folder) / "log", point, _TIMEOUT)
        try:
            wait_for(lambda: _stands(process), f"it is frozen {point}", 40)
            yield process
        finally:
            process.kill()
            process.communicate()


def _stands(process: subprocess.Popen[str]) -> bool:
    assert process.poll() is None, process.communicate()[0]
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def wake(process: subprocess.Popen[str]) -> str:
    """It goes on until its end; what it said."""
    os.kill(process.pid, signal.SIGCONT)
    said, _ = process.communicate(timeout=patience(60))
    return said


def require_whole(ground: CutoverGround) -> None:
    """The side in charge accepts writes, and they reach the other one."""
    assert ground.watch() is None
    assert accepts(ground, ground.charge())
    # A base that was never in charge is as it was found: it refuses nobody.
    assert ground.charge() == "legacy" or not accepts(ground, "legacy")
    ground.insert(ground.charge())
    settle_down(ground)
    ground.equal()


@pytest.mark.long
@pytest.mark.parametrize(("kind", "state"), telling(HELD[::2], {2, 3}))
def test_writes_that_a_frozen_process_holds_are_released_and_it_wakes_up_in_vain(
    ground: CutoverGround, kind: str, state: str
) -> None:
    stage(ground, kind)
    charge = ground.charge()
    with frozen(ground, kind, Point(_ENTER, ENTERS[state], "before")) as process:
        held = ground.watch()
        assert held is not None
        assert held.side == charge
        wait_for(lambda: (held := ground.watch()) is not None and held.alive is False, "it is known not to answer")
        held = ground.watch()
        assert held is not None
        assert "does not answer" in held.what
        assert "release-writes" in held.next_step
        assert "was undone" in ground.let_go()
        # Somebody even goes on, all the way, before it wakes up.
        require_whole(ground)
        (ground.back if kind == "rollback" else ground.cut)()
        other = ground.charge()
        assert other != charge
        wake(process)
        assert process.returncode != 0
    require_whole(ground)
    assert ground.charge() == other
    assert [record.outcome for record in ground.records()[-2:]] == ["aborted", "succeeded"]
    (ground.cut if kind == "rollback" else ground.back)()
    require_whole(ground)


@pytest.mark.long
@pytest.mark.parametrize("kind", telling(["cutover", "rollback"], {0}))
def test_one_that_froze_before_it_held_anybody_is_named_and_holds_nobody(ground: CutoverGround, kind: str) -> None:
    stage(ground, kind)
    with frozen(ground, kind, Point(_ENTER, ENTERS["waiting"], "before")) as process:
        assert ground.watch() is None
        with pytest.raises(StreamError, match="the cutover is being worked on by backend") as caught:
            ground.let_go()
        assert "pg_terminate_backend" in str(caught.value)
        ground.end_who_cuts_over()
        assert "was undone" in ground.let_go()
        require_whole(ground)
        wake(process)
    require_whole(ground)


@pytest.mark.long
@pytest.mark.parametrize("kind", telling(["cutover", "rollback"], {0}))
def test_a_process_that_freezes_with_the_table_locked_holds_writers_up_for_two_seconds(
    ground: CutoverGround, kind: str
) -> None:
    stage(ground, kind)
    side = ground.charge()
    with frozen(ground, kind, Point(f"{side}[cutover] INSERT INTO migration.holds AS h", 1, "before")) as process:
        with psycopg.connect(ground.databases.url(side), autocommit=True) as writer:
            writer.execute("SET statement_timeout = '4s'; UPDATE bookings SET guests = guests WHERE id = 1")
        wake(process)
        assert process.returncode != 0
    require_whole(ground)


@pytest.mark.long
def test_one_that_froze_as_it_was_about_to_open_the_base_opens_nothing_later(ground: CutoverGround) -> None:
    """The legacy is marked: only a look at the base tells whether it is open."""
    with frozen(ground, "cutover", Point("base[cutover] DELETE FROM migration.holds", 1, "before")) as process:
        wait_for(lambda: (held := ground.watch()) is not None and held.alive is False, "it is known not to answer")
        assert "was undone" in ground.let_go()
        require_whole(ground)
        wake(process)
        assert process.returncode != 0
    require_whole(ground)
    assert ground.charge() == "legacy"


@pytest.mark.long
def test_one_that_froze_as_it_put_the_old_stream_away_breaks_no_later_one(ground: CutoverGround) -> None:
    ground.cut()
    with frozen(ground, "rollback", Point("legacy[cutover] DROP SUBSCRIPTION", 1, "before")) as process:
        # Nobody is held: a person ends it.
        assert ground.charge() == "legacy"
        with pytest.raises(StreamError):
            ground.let_go()
        ground.end_who_cuts_over()
        ground.let_go()
        assert ground.records()[-1].outcome == "succeeded"
        ground.cut()
        wake(process)
    require_whole(ground)
    ground.back()
    require_whole(ground)


_LATE = (
    "SELECT count(*) FROM pg_stat_subscription s JOIN pg_locks k USING (pid)"
    " WHERE s.subname = %s AND NOT k.granted AND k.relation = 'migration.reverse_markers'::regclass"
)


@pytest.mark.long
@pytest.mark.parametrize("again", telling([False, True], {0}))
def test_a_rollback_that_dies_before_its_marker_has_arrived_is_undone_and_comes_again(
    ground: CutoverGround, tmp_path: Path, again: bool
) -> None:
    """Writes are held, the legacy's worker stands before the marker, and the marker comes when another run is there."""
    stage(ground, "rollback")
    ground.insert("base")
    settle_down(ground)
    back = f"{ground.stream_record().subscription}_back"
    with psycopg.connect(ground.databases.legacy_url) as stranger:
        process = start_frozen(ground, "rollback", tmp_path / "log", Point(_ENTER, ENTERS["drained"], "before"), 60.0)
        try:
            wait_for(lambda: _stands(process), "writes are held", 40)
            stranger.execute("LOCK TABLE migration.reverse_markers IN SHARE MODE")
            os.kill(process.pid, signal.SIGCONT)
            wait_for(lambda: ground.one("legacy", _LATE, back), "the marker is late")
        finally:
            process.kill()
            process.communicate()
        assert not accepts(ground, "base")
        wait_for(lambda: (held := ground.watch()) is not None and held.alive is False, "it is known to be dead")
        if not again:
            assert "was undone" in ground.let_go()
        # The one that comes again neither takes the late marker for its own nor holds anybody for it.
        with pytest.raises(CutoverError, match="the lag stayed"):
            ground.back(patience_seconds=1.0, lag_seconds=1.0)
        assert ground.watch() is None
        ground.insert("base")
    settle_down(ground)
    ground.equal()
    assert ground.back().outcome == "succeeded"
    require_whole(ground)
    assert ground.charge() == "legacy"
    ground.cut()
    require_whole(ground)
    ground.evidence()


@pytest.mark.long
def test_who_is_at_work_on_what_a_dead_run_left_is_not_ended_for_it(ground: CutoverGround, tmp_path: Path) -> None:
    stage(ground, "rollback")
    process = start_frozen(ground, "rollback", tmp_path / "log", Point(_ENTER, ENTERS["drained"], "before"), 60.0)
    try:
        wait_for(lambda: _stands(process), "writes are held", 40)
    finally:
        process.kill()
        process.communicate()
    ground.run("base", "UPDATE migration.holds SET held_at = held_at - interval '1 hour'")
    wait_for(lambda: (held := ground.watch()) is not None and held.alive is False, "it is known to be dead")
    with ground.holding(StreamLock.CUTOVER.named(ground.spec.relation)) as later:
        with pytest.raises(StreamError, match=f"the cutover is being worked on by backend {later.info.backend_pid}"):
            ground.let_go()
        assert later.execute("SELECT 1").fetchone() == (1,)
    assert "was undone" in ground.let_go()
    require_whole(ground)
