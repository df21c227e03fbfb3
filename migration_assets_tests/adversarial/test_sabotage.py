"""Hands on the stream itself: one life for each way. What differs is never signed for."""

from functools import partial

import pytest

from migration_assets.embedded.servers import EmbeddedServers
from migration_assets_tests.adversarial.lives import live, sabotaged
from migration_assets_tests.adversarial.sabotage import Sabotage, slot_advanced, trigger_on_the_base

# The others run in `make soak`.
TELLING = (slot_advanced, trigger_on_the_base)


@pytest.mark.parametrize("deed", TELLING)
def test_nothing_is_signed_for_after_somebody_bent_the_stream(servers: EmbeddedServers, deed: Sabotage) -> None:
    print(live(servers, 1, kind="sabotaged", play=partial(sabotaged, deed=deed)))
