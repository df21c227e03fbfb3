"""One running UI on servers of its own, for all tests here."""

from collections.abc import Generator

import psycopg
import pytest

from migration_assets.embedded.bookings import create_bookings
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets_tests.end_to_end.web import Web, running_ui, top_level
from migration_assets_tests.server_pairs import running_pair


@pytest.fixture(scope="package")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Generator[EmbeddedServers]:
    """Servers below a `var` of their own: Dagster's storage is one of their databases."""
    with running_pair(tmp_path_factory.mktemp("ui") / "var") as servers:
        with psycopg.connect(servers.legacy_url()) as connection:
            create_bookings(connection, rows=3000)
        yield servers


@pytest.fixture(scope="package")
def top_level_before() -> set[str]:
    return top_level()


@pytest.fixture(scope="package")
def web(pair: EmbeddedServers, top_level_before: set[str]) -> Generator[Web]:
    assert top_level_before
    with running_ui(pair.var.parent, {"MIGRATION_VAR": str(pair.var), "MIGRATION_PARALLEL_COPIES": "1"}) as running:
        yield running
