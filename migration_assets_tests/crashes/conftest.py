"""One pair of databases for all tests that crash no server: each leaves a live stream behind, proven equal."""

import secrets
from collections.abc import Generator

import pytest

from migration_assets.embedded.servers import EmbeddedServers
from migration_assets_tests.crashes.child import Nursery, nursery
from migration_assets_tests.crashes.full import built
from migration_assets_tests.crashes.judge import Judge


@pytest.fixture(scope="session")
def children() -> Generator[Nursery]:
    with nursery() as found:
        yield found


@pytest.fixture(scope="session")
def judge(servers: EmbeddedServers, children: Nursery) -> Generator[Judge]:
    with built(servers, children, f"crashes_{secrets.token_hex(4)}", secrets.randbelow(10**6)) as found:
        yield found
