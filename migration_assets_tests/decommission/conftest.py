"""A table whose base is in charge."""

import pytest

from migration_assets_tests.conftest import Databases
from migration_assets_tests.cutover.ground import CutoverGround, ground_of


@pytest.fixture
def ground(databases: Databases) -> CutoverGround:
    made = ground_of(databases.legacy_url, databases.base_url)
    made.cut()
    return made
