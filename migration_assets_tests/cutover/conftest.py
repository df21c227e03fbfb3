"""A table under CDC that each test may cut over."""

import pytest

from migration_assets_tests.conftest import Databases
from migration_assets_tests.cutover.ground import CutoverGround, ground_of


@pytest.fixture
def ground(databases: Databases) -> CutoverGround:
    return ground_of(databases.legacy_url, databases.base_url)
