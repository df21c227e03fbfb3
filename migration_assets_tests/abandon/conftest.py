"""A ground of two empty databases for every test of this folder."""

import pytest

from migration_assets.postgres.sessions import Databases
from migration_assets_tests.conftest import Databases as Urls
from migration_assets_tests.postgres.support import Ground


@pytest.fixture
def ground(databases: Urls) -> Ground:
    """Both databases, empty, with sessions as the product opens them."""
    return Ground(Databases(databases.legacy_url, databases.base_url))
