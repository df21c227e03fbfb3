"""Applications write all the time and follow the switch: nothing acknowledged is lost or there twice. More: `many`."""

from random import SystemRandom

import pytest

from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.cutover.killed_ordeal import killed_ordeal
from migration_assets_tests.cutover.ordeal import ordeal

_SEED = SystemRandom().randrange(10**6)


@pytest.mark.parametrize("number", range(5))
def test_nothing_acknowledged_is_lost_or_doubled_in_either_direction(ground: CutoverGround, number: int) -> None:
    print(f"seed {_SEED + number}")
    print(ordeal(ground, _SEED + number))


def test_nothing_acknowledged_is_lost_where_the_process_is_killed_again_and_again(ground: CutoverGround) -> None:
    print(f"seed {_SEED}")
    print(killed_ordeal(ground, _SEED))
