"""Two switchovers in one life, with --soak; `make soak-enemies` runs ten. One: `cutover/test_under_load.py`."""

import pytest

from migration_assets.embedded.servers import EmbeddedServers
from migration_assets_tests.adversarial.switchovers import switch_over


@pytest.mark.soak
def test_contents_are_the_same_on_both_sides_after_every_cutover_and_rollback(servers: EmbeddedServers) -> None:
    hashes = switch_over(servers, seed=1, times=2)
    assert len(set(hashes)) == 2, "applications wrote in between"
