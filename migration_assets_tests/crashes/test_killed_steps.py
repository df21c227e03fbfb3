"""kill -9 of the process at the moments that tell most, and at others that are drawn; all of them: `crashes.full`."""

from random import Random, SystemRandom

import pytest

from migration_assets_tests.crashes.judge import Judge
from migration_assets_tests.crashes.matrix import AFTERS
from migration_assets_tests.crashes.moments import TELLING
from migration_assets_tests.crashes.steps import STEPS
from migration_assets_tests.crashes.trap import Point, points_of
from migration_assets_tests.sweeps import telling

_SEED = SystemRandom().randrange(10**6)


# One of each kind: before anything follows, an open join, the legacy's writers held, a swap whose end is unknown.
@pytest.mark.long
@pytest.mark.parametrize(
    ("step", "point"), telling(TELLING, {0, 3, 5, 7}), ids=[f"{step} {point}" for step, point in TELLING]
)
def test_a_step_killed_at_a_telling_moment_ends_in_equality_when_it_runs_again(
    judge: Judge, step: str, point: Point
) -> None:
    verdict = judge.strike(step, point)
    assert verdict.fell, f"{point} was not reached: the step has other statements now"
    assert verdict.rows > 500


@pytest.mark.parametrize("number", telling(range(4), {0}))
def test_a_step_killed_at_any_moment_ends_in_equality_when_it_runs_again(judge: Judge, number: int) -> None:
    random = Random(_SEED + number)
    step = random.choice(list(STEPS))
    point = random.choice(points_of(judge.record(step)))
    after = random.choice(AFTERS)
    print(f"seed {_SEED + number}: {step}, {point}, then {after}")
    assert judge.strike(step, point, after).rows > 500
