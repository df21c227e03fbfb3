"""COMMIT succeeded and its answer was lost: the step, run again, finds it done or does it, and both sides are equal.

Every commit of every step: `python -m migration_assets_tests.servers.lost_commits`.
"""

from collections.abc import Generator

import pytest

from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.postgres.sessions import Side
from migration_assets_tests.cutover.ground import ground_of
from migration_assets_tests.servers.lost_commits import Stage, count, lose, staged
from migration_assets_tests.sweeps import telling


@pytest.fixture(scope="module")
def stage(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    name = "lost_answers"
    for side in ("legacy", "base"):
        servers.recreate_database(side, name)
    ground = ground_of(servers.legacy_url(name), servers.base_url(name), 182)
    with staged(ground, tmp_path_factory.mktemp("archive")) as ready:
        yield ready
    servers.drop_database("base", name)
    servers.drop_database("legacy", name)


@pytest.mark.long
@pytest.mark.parametrize(
    ("step", "side", "from_last"),
    telling([("copy live", "base", 2), ("sign-off", "base", 0), ("repair", "base", 2), ("rebuild", "base", 0),
             ("archive", "base", 0)], {1}),
)  # fmt: skip
def test_the_answer_to_a_commit_is_lost(stage: Stage, step: str, side: Side, from_last: int) -> None:
    print(lose(stage, step, side, count(stage, step, side) - from_last))


@pytest.mark.long
def test_the_answer_to_the_commit_that_opens_the_base_is_lost(stage: Stage) -> None:
    print(lose(stage, "cutover", "base", 0, after=b"opened_at = "))
