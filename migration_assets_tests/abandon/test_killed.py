"""kill -9 at every statement that changes something: the same command, run again, leaves the legacy as it was found."""

import multiprocessing
import signal
from collections import Counter
from pathlib import Path
from random import SystemRandom

import pytest

from migration_assets.abandon.abandon import abandon
from migration_assets.stream.plan import StreamPlan
from migration_assets_tests.abandon.catalogue import assert_as_found, catalogue
from migration_assets_tests.crashes.trap import Point, Trap, points_of, read_log
from migration_assets_tests.freezes import patience
from migration_assets_tests.ground import Ground

_ENOUGH = 12
_SOME = 4


def _child(plan: StreamPlan, log: Path, point: Point | None) -> None:
    Trap(log, point).install()
    abandon(plan, apply=True)


def _in_a_child(plan: StreamPlan, log: Path, point: Point | None) -> int | None:
    child = multiprocessing.get_context("fork").Process(target=_child, args=(plan, log, point))
    child.start()
    child.join(patience(60))
    assert not child.is_alive(), point
    return child.exitcode


def _again(ground: Ground, before: dict[str, list[object]]) -> None:
    """What a person types after the kill; where the last statement was through, there is nothing left to do."""
    if ground.ask("base", "SELECT 1 FROM migration.streams"):
        abandon(ground.plan, apply=True)
    assert_as_found(ground, before)
    assert ground.ask("base", "SELECT 1 FROM migration.slices WHERE state <> 'copied'") == []
    left = "SELECT 1 FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE datname = current_database()"
    assert ground.ask("base", left) == []


@pytest.mark.long
def test_killed_at_any_change_it_is_finished_by_running_it_again(ground: Ground, tmp_path: Path, soak: bool) -> None:
    ground.fill(91).run("legacy", "ALTER TABLE bookings REPLICA IDENTITY NOTHING")
    before = catalogue(ground)
    ground.streamed()
    assert _in_a_child(ground.plan, tmp_path / "undisturbed", None) == 0
    assert_as_found(ground, before)
    labels = [entry["label"] for entry in read_log(tmp_path / "undisturbed")]
    # Thirteen weeks repeat the same statements: the first and the last time are enough, as `points_of` has them.
    points = [point for point in points_of(labels) if _changes(point)]
    assert len(points) >= _ENOUGH, Counter(labels)
    for number, point in enumerate(points if soak else sorted(SystemRandom().sample(points, _SOME))):
        ground.stream()
        assert _in_a_child(ground.plan, tmp_path / str(number), point) == -signal.SIGKILL, point
        _again(ground, before)
    ground.stream()
    ground.assert_same()


def _changes(point: Point) -> bool:
    words = ("COMMIT", "DROP", "ALTER", "DELETE FROM", "_slot(", "terminate_backend", "UPDATE migration.streams")
    return point.when == "before" and any(word in point.label for word in words)


@pytest.mark.long
def test_an_activation_that_died_half_way_is_undone(ground: Ground, tmp_path: Path) -> None:
    ground.fill(91)
    before = catalogue(ground)
    ground.open()
    ground.run(
        "base",
        "UPDATE migration.slices SET state = 'copied', copied_at = now(), legacy_rows = 0, legacy_sum_a = 0,"
        " legacy_sum_b = 0, base_rows = 0, base_sum_a = 0, base_sum_b = 0 WHERE state = 'absent'",
    )
    deaths = ("CREATE TRIGGER", 'CREATE PUBLICATION "ours"', "CREATE_REPLICATION_SLOT")
    for number, statement in enumerate(deaths):
        log = tmp_path / str(number)
        child = multiprocessing.get_context("fork").Process(target=_activation, args=(ground, log, statement))
        child.start()
        child.join(patience(60))
        if child.is_alive():
            child.kill()
            pytest.fail(f"nothing died at {statement}")
        assert child.exitcode == -signal.SIGKILL, statement
        assert catalogue(ground) != before, statement
        _again(ground, before)


def _activation(ground: Ground, log: Path, statement: str) -> None:
    trap = Trap(log)

    def sent(label: str) -> None:
        if statement in label or (statement == "CREATE TRIGGER" and "OR REPLACE TRIGGER" in label):
            trap.note(struck=label)
            signal.raise_signal(signal.SIGKILL)

    trap.sent = sent  # pyright: ignore[reportAttributeAccessIssue]
    trap.install()
    ground.stream()
