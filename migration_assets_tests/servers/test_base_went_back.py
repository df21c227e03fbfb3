"""The base comes back as it was some time ago: found however it happened, trusted by no step, mended by one command."""

from collections.abc import Generator
from dataclasses import replace

import pytest

from migration_assets.domain.errors import ServerChangedError
from migration_assets.domain.findings import Severity as Blocks
from migration_assets.domain.samples import ProblemCode, Severity
from migration_assets.evidence.approval import sign_off_quarter
from migration_assets.watch.watching import watch_stream
from migration_assets_tests.ground import QUARTER, wait_for
from migration_assets_tests.servers.drill import (
    book,
    findings,
    forget,
    left_behind,
    look,
    mended,
    migration,
    put_back,
    refused_everywhere,
    streamed,
)
from migration_assets_tests.servers.standbys import Spare, spare_servers


@pytest.fixture(scope="module")
def spare() -> Generator[Spare]:
    with spare_servers() as found:
        yield found


@pytest.mark.long
def test_files_of_the_base_put_back_skip_changes_and_the_markers_tell(spare: Spare) -> None:
    ground = streamed(spare)
    put_back(spare, ground, "base")
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
    # Each cut's own marker tells, where nobody has looked before.
    for step in (lambda: ground.validate(5), lambda: ground.repair(5), ground.reconcile):
        forget(ground, ground.stream_record().slot)
        with pytest.raises(ServerChangedError, match="changes were skipped: marker"):
            step()
    mended(ground)


def test_a_standby_of_the_base_that_lagged_is_told_by_its_timeline(spare: Spare) -> None:
    ground = streamed(spare)
    standby = left_behind(spare, ground, "base", range(1001, 1031))
    too_early = replace(spare, clusters={**spare.clusters, "base": standby}).ground(ground)
    assert "a standby answers as the base" in look(too_early)[1][ProblemCode.SERVER_CHANGED].what
    # The watch cannot store what it saw, and tells of it all the same.
    watched = watch_stream(migration(too_early), (), begun=True)
    assert "a standby answers as the base" in (watched.note or "")
    assert ProblemCode.SERVER_CHANGED in {problem.code for problem in watched.problems}
    with pytest.raises(ServerChangedError, match="a standby answers as the base"):
        too_early.validate(5)
    [finding] = [one for one in findings(too_early) if one.code == "base_writable"]
    assert (finding.severity, finding.evidence) == (Blocks.BLOCKING, "it is a standby")
    spare.promote("base", standby)
    after = spare.ground(ground)
    [copy] = [one for one in findings(after) if one.code == "known_server" and one.severity is Blocks.BLOCKING]
    assert "this one is a copy of it" in copy.evidence
    assert "two bases with one ledger" in copy.remedy
    book(after, [2001])
    wait_for(lambda: after.one("base", "SELECT count(*) FROM bookings WHERE id = 2001") == 1, "it goes on")
    with pytest.raises(ServerChangedError, match="the base was promoted or recovered"):
        sign_off_quarter(migration(after), QUARTER, "Ada")
    refused_everywhere(after, "the base was promoted or recovered", each_looks=True)
    mended(after)


@pytest.mark.long
def test_a_ledger_carried_into_another_database_proves_nothing_there(spare: Spare) -> None:
    """And the base that it was taken from, which follows still, never reads the new one's slot."""
    ground = streamed(spare)
    former = spare.clusters["base"]
    copied = spare.dump_and_restore(ground)
    book(ground, [1001])
    ground.drain()
    with pytest.raises(ServerChangedError, match="the base's database is another one"):
        sign_off_quarter(migration(copied), QUARTER, "Ada")
    assert ProblemCode.SERVER_CHANGED in look(copied)[1]
    mended(copied)
    # Its slot is gone; it may try for ever.
    assert former.accepting_port()
    before = ground.contents("base")
    book(copied, [1002])
    copied.assert_same()
    assert ground.contents("base") == before
