"""kill -9 at every statement that changes something: the same command, run again, goes on to the end."""

import multiprocessing
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import SystemRandom

import pytest

from migration_assets.decommission.machine import call_off_decommission
from migration_assets.domain.states import DecommissionState, Scope
from migration_assets_tests.crashes.trap import Point, Trap, points_of, read_log
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.cutover.kills import settle_down
from migration_assets_tests.decommission.deed import close_legacy, plan_of, record_of
from migration_assets_tests.decommission.test_deed import as_fingerprint, assert_severed, total
from migration_assets_tests.freezes import patience

_STATES = ("begun", "fingerprinted", "closed", "severed")
_SOME = 3


def _child(ground: CutoverGround, scope: Scope, log: Path, point: Point | None) -> None:
    Trap(log, point).install()
    close_legacy(ground, scope)


def _in_a_child(ground: CutoverGround, scope: Scope, log: Path, point: Point | None) -> int | None:
    child = multiprocessing.get_context("fork").Process(target=_child, args=(ground, scope, log, point))
    child.start()
    child.join(patience(60))
    assert not child.is_alive(), point
    return child.exitcode


def _reopened(ground: CutoverGround) -> None:
    """As it was before: what no product step does, so that one ground serves many blows."""
    record = record_of(ground)
    assert record is not None
    with ground.databases.session("legacy", "test") as legacy:
        for statement in record.former["reopen"]:
            legacy.execute(statement.encode())
        # The next blow wants a cutover again, and only a rollback makes room for one.
    ground.run("base", "DELETE FROM migration.decommissions")


def _changes(point: Point) -> bool:
    words = ("COMMIT", "INSERT", "UPDATE", "DELETE", "ALTER", "DROP", "REVOKE", "GRANT", "_slot(", "terminate_backend")
    return any(word in point.label for word in words)


def _labels(log: Path) -> list[str]:
    return [str(entry["label"]) for entry in read_log(log) if "label" in entry]


def _points(labels: Sequence[str]) -> list[Point]:
    points = [point for point in points_of(list(labels)) if _changes(point)]
    assert len(points) >= 2 * len(_STATES), Counter(labels)
    return points


@pytest.mark.long
@pytest.mark.parametrize("scope", ["table", "database"])
def test_killed_anywhere_the_next_run_finishes_it(
    ground: CutoverGround, scope: Scope, tmp_path: Path, soak: bool
) -> None:
    ground.run("legacy", "GRANT SELECT ON bookings TO PUBLIC")
    first = ground.databases
    assert _in_a_child(ground, scope, tmp_path / "undisturbed", None) == 0
    assert_severed(ground)
    every = _points(_labels(tmp_path / "undisturbed"))
    points = every if soak else sorted(SystemRandom().sample(every, _SOME))
    seen: set[str] = set()
    killed = 0
    for number, point in enumerate(points):
        _reopened(ground)
        _rebuild_reverse(ground)
        code = _in_a_child(ground, scope, tmp_path / str(number), point)
        record = record_of(ground)
        killed += code == -signal.SIGKILL
        state = record.state.value if record else "none"
        seen.add(state)
        if record is None or not record.state.final:
            _rollback_is_possible(ground, number)
        done = close_legacy(ground, scope)
        assert done.state is DecommissionState.DONE, (point, state)
        assert_severed(ground)
        assert as_fingerprint(done.final["total"]) == total(ground), (point, state)
        reading = "SELECT has_table_privilege('public', 'bookings', 'SELECT')"
        assert ground.one("legacy", reading) is False, (point, state)
        assert "GRANT SELECT ON TABLE public.bookings TO PUBLIC;" in done.former["reopen"], (point, state)
    if soak:
        assert seen >= set(_STATES), seen
    assert killed >= len(points) - 2, f"{killed} of {len(points)} blows struck"
    assert ground.databases == first


def _rebuild_reverse(ground: CutoverGround) -> None:
    """A cutover's reverse stream again, as if it had never been severed."""
    from migration_assets.cutover.reverse import prepare_reverse, reverse_names, start_reverse  # noqa: PLC0415
    from migration_assets.cutover.work import forward_names  # noqa: PLC0415
    from migration_assets.postgres.catalogue import require_table  # noqa: PLC0415
    from migration_assets.stream.servers import count_markers_anew  # noqa: PLC0415

    plan = ground.cutover_plan()
    with ground.databases.session("base", "test") as base, ground.databases.session("legacy", "test") as legacy:
        names = reverse_names(forward_names(base, plan.relation))
        prepare_reverse(base, legacy, plan, names)
        count_markers_anew(base, base, plan.relation, "base")
        start_reverse(base, legacy, plan, names, require_table(legacy, ground.spec.table, "legacy"))
    ground.insert("base")
    settle_down(ground)


def _rollback_is_possible(ground: CutoverGround, number: int) -> None:
    """By calling it off, every other time by the rollback itself; then the base is in charge again."""
    if number % 2:
        call_off_decommission(plan_of(ground))
    else:
        assert ground.back().outcome == "succeeded"
        ground.insert("legacy")
        assert ground.cut().outcome == "succeeded"
    assert record_of(ground) is None
    ground.insert("base")
    settle_down(ground)
    ground.equal()
