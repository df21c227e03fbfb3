"""kill -9 of a week's way out of the base and back, at the moments that tell most; all of them: `crashes.retiring`."""

import secrets
from collections.abc import Generator
from random import Random, SystemRandom

import pytest

from migration_assets.embedded.servers import EmbeddedServers
from migration_assets_tests.crashes.retiring import Struck, struck
from migration_assets_tests.crashes.retiring_child import LEAVING
from migration_assets_tests.crashes.trap import Point, points_of
from migration_assets_tests.sweeps import telling

_SEED = SystemRandom().randrange(10**6)
_DETACH = 'base[*:retire] ALTER TABLE "public"."bookings_leaf" DETACH PARTITION'

TELLING: tuple[tuple[str, Point], ...] = (
    # The filter is narrower in a transaction that never commits, in one that may, and in one that did.
    ("retire", Point("legacy[*:release:marker] INSERT INTO migration.markers")),
    ("retire", Point("legacy[*:release:cut] COMMIT", 1, "during")),
    ("retire", Point("base[*:release:cut] INSERT INTO migration.cuts")),
    ("retire", Point("base[*:retire] UPDATE migration.slices SET released_at = #")),
    # Covered by nobody, and still in the root; then on its way by the ledger alone; then half detached, and loose.
    ("retire", Point("base[*:retire] INSERT INTO migration.retirements")),
    ("retire", Point(_DETACH)),
    ("retire", Point(_DETACH, 1, "during")),
    ("retire", Point('base[*:retire] ALTER TABLE "public"."bookings_leaf" SET SCHEMA')),
    ("retire at once", Point("base[*:retire] DROP TABLE")),
    ("drop", Point("base[*:retire] UPDATE migration.retirements SET step = #, dropped_at")),
    ("drop", Point("base[*:retire] COMMIT", 2)),
    ("return", Point('base[*:return] ALTER TABLE "public"."bookings_leaf" ATTACH')),
    ("return", Point("base[*:return] COMMIT", 2)),
)


@pytest.fixture(scope="module")
def place(servers: EmbeddedServers) -> Generator[Struck]:
    with struck(servers, f"retiring_{secrets.token_hex(4)}", _SEED) as found:
        yield found


# The filter narrowed by who knows whom; covered by nobody and still there; half detached; dropped; on its way back.
@pytest.mark.long(but=1)
@pytest.mark.parametrize(
    ("step", "point"), telling(TELLING, {1, 4, 6, 9, 11}), ids=[f"{step} {point}" for step, point in TELLING]
)
def test_a_week_whose_way_is_cut_off_at_a_telling_moment_loses_nothing_and_goes_on(
    place: Struck, step: str, point: Point
) -> None:
    assert place.strike(step, point), f"{point} was not reached: the step has other statements now"


@pytest.mark.long
@pytest.mark.parametrize("number", telling(range(4), {0}))
def test_a_week_whose_way_is_cut_off_at_any_moment_loses_nothing_and_goes_on(place: Struck, number: int) -> None:
    random = Random(_SEED + number)
    step = random.choice(list(LEAVING))
    point = random.choice(points_of(place.record(step)))
    print(f"seed {_SEED + number}: {step}, {point}")
    place.strike(step, point, again=random.random() < 0.5)
