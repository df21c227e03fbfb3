"""One short life of every kind; `make soak` runs hundreds of longer ones.

To run one again: make soak-enemies ENEMIES=seed, which prints everything that happened.
"""

import pytest

from migration_assets.embedded.servers import EmbeddedServers
from migration_assets_tests.adversarial.lives import live
from migration_assets_tests.sweeps import telling

# Seeds that were red on the product before it was mended; two of them always, the others with --soak.
LIVES = telling([("hostile", 1), ("late strays", 9), ("following", 1), ("switching", 11), ("leaving", 3)], {0, 1})


@pytest.mark.long(but=1)
@pytest.mark.parametrize(("kind", "seed"), LIVES)
def test_nobody_s_enemies_make_it_lose_or_claim_what_is_not_so(servers: EmbeddedServers, kind: str, seed: int) -> None:
    print(live(servers, seed, kind=kind, steps=3))
