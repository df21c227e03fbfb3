"""kill -9 of a server at a chosen moment of a step: the step outlives it, or a plain re-run does."""

from collections.abc import Generator

import pytest

from migration_assets.embedded.servers import EmbeddedServers, ServerName
from migration_assets_tests.crashes.child import Nursery
from migration_assets_tests.crashes.drills import crash_server
from migration_assets_tests.crashes.full import built
from migration_assets_tests.crashes.judge import Judge
from migration_assets_tests.crashes.moments import BEFORE_SWAP, IN_ACTIVATION, TELLING
from migration_assets_tests.crashes.trap import Point
from migration_assets_tests.server_pairs import quick_pair
from migration_assets_tests.sweeps import telling


@pytest.fixture(scope="module")
def own_servers() -> Generator[EmbeddedServers]:
    """A pair that tests may crash."""
    with quick_pair() as pair:
        yield pair


@pytest.fixture(scope="module")
def own_judge(own_servers: EmbeddedServers, children: Nursery) -> Generator[Judge]:
    with built(own_servers, children, "crashes", 1) as found:
        yield found


@pytest.mark.long
@pytest.mark.parametrize(
    ("step", "point", "server"),
    # Each server once: the legacy while a slot's snapshot is read, the base while the stream rests.
    telling(
        [
            ("activate", IN_ACTIVATION, "legacy"),
            ("join", TELLING[3][1], "base"),
            ("copy", BEFORE_SWAP, "base"),
            ("copy", BEFORE_SWAP, "legacy"),
        ],
        {0, 1},
    ),
)
def test_a_step_outlives_the_crash_of_a_server(
    own_judge: Judge, own_servers: EmbeddedServers, step: str, point: Point, server: ServerName
) -> None:
    crash_server(own_judge, own_servers, step, point, server)
