"""A table under CDC that each test may cut over, and a signed-off quarter of the product for whole modules."""

from collections.abc import Callable, Generator

import pytest

from migration_assets.cutover import stages
from migration_assets.cutover.work import Work
from migration_assets.domain.states import CutoverState
from migration_assets_tests.clones import Clones
from migration_assets_tests.cutover.ground import Before, CutoverGround
from migration_assets_tests.cutover.offered import Offered, offered


@pytest.fixture
def ground(clones: Clones) -> Generator[CutoverGround]:
    """As `ground_of` makes it."""
    with clones.streamed(910) as databases:
        yield CutoverGround(databases)


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Before:
    """Something happens just before a state's deed; what was arranged last for that state is what counts."""
    originals = dict(stages.STAGES)

    def arrange(state: CutoverState, happens: Callable[[], object]) -> None:
        original = originals[state]

        def deed(work: Work) -> None:
            happens()
            original(work)

        monkeypatch.setitem(stages.STAGES, state, deed)  # pyright: ignore[reportArgumentType]

    return arrange


@pytest.fixture(scope="module")
def made(clones: Clones) -> Generator[Offered]:
    with offered(clones) as ready:
        yield ready


@pytest.fixture
def ready(made: Offered) -> Offered:
    """Ready for the cutover, with the legacy in charge, whatever the test before did."""
    return made.mended()
