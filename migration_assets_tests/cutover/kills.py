"""kill -9 of a cutover's process at a statement; what comes next must make everything whole again."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psycopg
from psycopg import errors

from migration_assets.domain.states import BEFORE_OPEN, CutoverError, SideName
from migration_assets.ledger.stream import StreamStatus
from migration_assets_tests.crashes.trap import Point, points_of
from migration_assets_tests.cutover.child import run_child
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.cutover.ordeal import settle_down
from migration_assets_tests.ground import wait_for

_LEFT = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND application_name ~ '^migration_assets:' AND backend_type = 'client backend'"
)


@dataclass(frozen=True)
class Struck:
    """One blow: whether it fell, the state it fell at, and what came of it."""

    fell: bool
    state: str
    held: bool
    end: str


def accepts(ground: CutoverGround, side: SideName) -> bool:
    try:
        with psycopg.connect(ground.databases.url(side), autocommit=True) as connection:
            connection.execute("SET statement_timeout = '5s'; UPDATE bookings SET guests = guests WHERE id = 1")
    except errors.ReadOnlySqlTransaction:
        return False
    return True


def record_of(ground: CutoverGround, kind: str) -> list[str]:
    """The statements of an undisturbed run; both sides are as before afterwards, or the other one is in charge."""
    with tempfile.TemporaryDirectory() as folder:
        code, labels, said = run_child(ground, kind, Path(folder) / "log")
    assert code == 0, said
    return labels


def strike(ground: CutoverGround, kind: str, point: Point, random: Random) -> Struck:
    """The blow, a look, what a person does, and everything is whole: one side accepts writes, and both are equal."""
    begun = len(ground.records())
    with tempfile.TemporaryDirectory() as folder:
        code, _, said = run_child(ground, kind, Path(folder) / "log", point)
    assert code in {0, -9}, said
    wait_for(lambda: not any(ground.one(side, _LEFT) for side in ("legacy", "base")), "the dead one's sessions end")
    records = ground.records()[begun:]
    state = records[-1].state if records else "nothing"
    free = [side for side in ("legacy", "base") if accepts(ground, side)]
    held = ground.watch()
    charge = ground.charge()
    if charge not in free:
        # Never refused without saying how to release it.
        assert held is not None, f"{kind} {point}: the {charge} refuses writes and nobody says so"
        assert "release-writes" in held.next_step
        assert held.alive is False
    else:
        assert held is None, f"{kind} {point}: {held}"
    end = _afterwards(ground, kind, random)
    free = [side for side in ("legacy", "base") if accepts(ground, side)]
    assert ground.charge() in free, f"{kind} {point}: {end}, and {ground.charge()} refuses writes"
    assert ground.watch() is None
    ground.insert(ground.charge())
    settle_down(ground)
    ground.equal()
    ground.evidence()
    status = ground.stream_record().status
    assert status is (StreamStatus.LIVE if ground.charge() == "legacy" else StreamStatus.HELD), status
    slots = [ground.one(s, "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()")
             for s in ("legacy", "base")]  # fmt: skip
    assert slots == ([1, 0] if ground.charge() == "legacy" else [0, 1]), f"{kind} {point}: slots {slots}"
    return Struck(code == -9, state, held is not None, end)


def _afterwards(ground: CutoverGround, kind: str, random: Random) -> str:
    """Somebody releases the writes, or the same step runs again."""
    if random.random() < 0.5:
        return ground.let_go()
    try:
        record = ground.back() if kind == "rollback" else ground.cut(rehearse=kind == "rehearsal")
    except CutoverError as error:
        if "in charge already" in str(error):
            return "again: it had been done"
        raise
    return f"again: {record.outcome}"


def stage(ground: CutoverGround, kind: str) -> None:
    """The side in charge that the step begins with."""
    if kind == "rollback" and ground.charge() == "legacy":
        ground.cut()
    if kind != "rollback" and ground.charge() == "base":
        ground.back()


def points_at_states(kind: str, labels: Sequence[str]) -> list[Point]:
    """Around the first and the last statement of every state: those are where the ledger is written."""
    found: list[Point] = []
    entering = [label for label in labels if "UPDATE migration.cutovers SET state" in label]
    for number in range(1, len(entering) + 1):
        found += [Point(entering[0], number, when) for when in ("before", "during")]
    assert len(entering) >= len(BEFORE_OPEN), f"{kind}: {len(entering)} states"
    return found


def all_points(labels: Sequence[str]) -> list[Point]:
    """Every statement, once or more; see `crashes.trap.points_of`."""
    return points_of(list(labels))
