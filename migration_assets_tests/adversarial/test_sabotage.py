"""Hands on the stream itself: a life for each way. No proof and no cutover hides what was lost."""

from functools import partial

import pytest

from migration_assets.embedded.servers import EmbeddedServers
from migration_assets_tests.adversarial.lives import live, sabotaged
from migration_assets_tests.adversarial.sabotage import Sabotage, slot_advanced

# The others run in `make soak`.
TELLING = (slot_advanced,)


@pytest.mark.long
@pytest.mark.parametrize("deed", TELLING)
def test_what_somebody_made_the_stream_lose_is_found(servers: EmbeddedServers, deed: Sabotage) -> None:
    print(live(servers, 1, kind="sabotaged", play=partial(sabotaged, deed=deed)))
