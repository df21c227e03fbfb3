"""A table whose base is in charge."""

from collections.abc import Generator

import pytest

from migration_assets_tests.clones import Clones
from migration_assets_tests.cutover.ground import CutoverGround


@pytest.fixture
def ground(clones: Clones) -> Generator[CutoverGround]:
    with clones.streamed(910) as databases:
        made = CutoverGround(databases)
        made.cut()
        yield made
