"""A pair of servers of its own for a test that wants to see them begin."""

from collections.abc import Generator
from pathlib import Path

import pytest

from migration_assets.embedded.servers import EmbeddedServers
from migration_assets_tests.embedded.asked_servers import FAST


@pytest.fixture
def fresh(tmp_path: Path) -> Generator[tuple[EmbeddedServers, Path]]:
    """A pair that was never started, and its folder."""
    pair = EmbeddedServers(tmp_path, extra_settings=FAST)
    yield pair, tmp_path
    pair.remove()
