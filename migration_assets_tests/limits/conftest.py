"""Databases of the servers that all tests share: what is full here is a disk of its own."""

from collections.abc import Generator

import pytest

from migration_assets.postgres.sessions import Databases
from migration_assets_tests.clones import Clones
from migration_assets_tests.conftest import Databases as Urls
from migration_assets_tests.ground import Ground


@pytest.fixture
def ground(databases: Urls) -> Ground:
    return Ground(Databases(databases.legacy_url, databases.base_url))


@pytest.fixture
def streamed(clones: Clones) -> Generator[Ground]:
    with clones.streamed(364) as databases:
        yield Ground(databases)
