"""Applications whose writes wait try again, and take all connections: their writes are let go all the same, in time."""

from collections.abc import Callable, Generator
from contextlib import ExitStack

import pytest

from migration_assets.domain.cutover_state import CutoverError, CutoverState
from migration_assets.postgres.cutover import stages
from migration_assets.postgres.cutover.work import Work
from migration_assets.postgres.sessions import Connected
from migration_assets_tests.clones import Clones
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.cutover.ordeal import settle_down
from migration_assets_tests.limits import crowds
from migration_assets_tests.postgres.support import wait_for


@pytest.fixture
def ground(clones: Clones) -> Generator[CutoverGround]:
    with clones.streamed(364) as databases:
        yield CutoverGround(databases)


def accepts_writes(legacy: Connected) -> bool:
    return legacy.execute("SELECT count(*) FROM migration.holds").fetchone() == (0,)


def before_comparing(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """While writes are held."""
    compare = stages.STAGES[CutoverState.COMPARED]

    def deed(work: Work) -> None:
        happens()
        compare(work)

    monkeypatch.setitem(stages.STAGES, CutoverState.COMPARED, deed)  # pyright: ignore[reportArgumentType]


@pytest.mark.long(but=1)
@pytest.mark.parametrize("hangs", [False, True], ids=["fails", "hangs"])
def test_a_legacy_without_connections_accepts_writes_again(
    ground: CutoverGround, monkeypatch: pytest.MonkeyPatch, *, hangs: bool
) -> None:
    crowd: list[Connected] = []
    with ExitStack() as stack:

        def all_connections_are_taken() -> None:
            crowd.append(stack.enter_context(crowds.connections(ground, "legacy", 0)))
            assert not accepts_writes(crowd[0])
            if hangs:
                wait_for(lambda: accepts_writes(crowd[0]), "the time of the cutover is over")

        before_comparing(monkeypatch, all_connections_are_taken)
        with pytest.raises(CutoverError) as stopped:
            ground.cut(timeout_seconds=3 if hangs else 30)
        assert "writes go on on the legacy" in stopped.value.state_left or hangs
        assert accepts_writes(crowd[0])
        crowd[0].execute("INSERT INTO public.bookings (booked_at, guests) VALUES ('2024-05-01', 2)")
    monkeypatch.undo()
    ground.assert_same()
    assert ground.cut().outcome == "succeeded"
    ground.insert("base")
    settle_down(ground)
    ground.equal()
