"""kill -9 at every state, and at statements that are drawn; all of them: `cutover.every_kill`."""

from random import Random, SystemRandom

import pytest

from migration_assets_tests.cutover.child import STEPS
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.cutover.kills import all_points, points_at_states, record_of, stage, strike

_SEED = SystemRandom().randrange(10**6)


@pytest.mark.parametrize("kind", STEPS)
def test_a_process_killed_at_any_state_leaves_nothing_that_the_next_run_does_not_mend(
    ground: CutoverGround, kind: str
) -> None:
    random = Random(_SEED)
    print(f"seed {_SEED}")
    stage(ground, kind)
    labels = record_of(ground, kind)
    points = points_at_states(kind, labels)[random.randrange(2) :: 2] + random.sample(all_points(labels), 5)
    fell = 0
    for point in points:
        stage(ground, kind)
        struck = strike(ground, kind, point, random)
        print(f"{kind}, {point}: {struck}")
        fell += struck.fell
    assert fell > len(points) // 2
