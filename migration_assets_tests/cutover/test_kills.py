"""kill -9 at states and at statements that are drawn; more with --soak, all of them: `cutover.every_kill`."""

from random import Random, SystemRandom

import pytest

from migration_assets_tests.cutover.child import STEPS
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.cutover.kills import all_points, points_at_states, record_of, stage, strike
from migration_assets_tests.sweeps import telling

_SEED = SystemRandom().randrange(10**6)


@pytest.mark.long(but=1)
@pytest.mark.parametrize("kind", telling(STEPS, {0, 2}))
def test_a_process_killed_at_any_state_leaves_nothing_that_the_next_run_does_not_mend(
    ground: CutoverGround, kind: str, soak: bool
) -> None:
    random = Random(_SEED)
    print(f"seed {_SEED}")
    stage(ground, kind)
    labels = record_of(ground, kind)
    states, anywhere = points_at_states(kind, labels)[random.randrange(2) :: 2], all_points(labels)
    points = [*states, *random.sample(anywhere, 5)] if soak else [*random.sample(states, 2), random.choice(anywhere)]
    fell = 0
    for point in points:
        stage(ground, kind)
        struck = strike(ground, kind, point, random)
        print(f"{kind}, {point}: {struck}")
        fell += struck.fell
    assert fell > len(points) // 2
