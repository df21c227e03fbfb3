"""Applications write all the time and follow the switch: nothing acknowledged is lost or there twice. More: `many`."""

from random import SystemRandom

import pytest

from migration_assets.cutover import reverse
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.cutover.killed_ordeal import killed_ordeal
from migration_assets_tests.cutover.ordeal import ordeal
from migration_assets_tests.sweeps import telling

_SEED = SystemRandom().randrange(10**6)


@pytest.mark.long
@pytest.mark.parametrize("number", telling(range(5), {0}))
def test_nothing_acknowledged_is_lost_or_doubled_in_either_direction(ground: CutoverGround, number: int) -> None:
    print(f"seed {_SEED + number}")
    print(ordeal(ground, _SEED + number))


@pytest.mark.long
def test_nothing_goes_round_in_circles_where_a_subscription_cannot_ask_for_its_origin(
    ground: CutoverGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL 15 as the legacy: only one of the two streams ever runs, and each begins behind the other's end."""
    monkeypatch.setattr(reverse, "_ORIGIN_SINCE", 10**6)
    print(f"seed {_SEED}")
    print(ordeal(ground, _SEED))


# One kill a life always: test_kills.
@pytest.mark.soak
def test_nothing_acknowledged_is_lost_where_the_process_is_killed_again_and_again(ground: CutoverGround) -> None:
    print(f"seed {_SEED}")
    print(killed_ordeal(ground, _SEED))
