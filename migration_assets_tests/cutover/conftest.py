"""A table under CDC that each test may cut over, and a signed-off quarter of the product for whole modules."""

from collections.abc import Generator

import pytest

from migration_assets.embedded.servers import EmbeddedServers
from migration_assets_tests.conftest import Databases
from migration_assets_tests.cutover.ground import CutoverGround, ground_of
from migration_assets_tests.cutover.offered import Offered, offered


@pytest.fixture
def ground(databases: Databases) -> CutoverGround:
    return ground_of(databases.legacy_url, databases.base_url)


@pytest.fixture(scope="module")
def made(servers: EmbeddedServers) -> Generator[Offered]:
    with offered(servers) as ready:
        yield ready


@pytest.fixture
def ready(made: Offered) -> Offered:
    """Ready for the cutover, with the legacy in charge, whatever the test before did."""
    return made.mended()
