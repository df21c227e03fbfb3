"""Weeks leave while writers write: those at rest leave exactly, and a late booking is never lost."""

import threading
import time
from random import Random, SystemRandom

import pytest

from migration_assets.domain.errors import RetirementError
from migration_assets.domain.states import SliceState
from migration_assets.ledger.retirements import Step
from migration_assets.retirement.checks import late_bookings
from migration_assets_tests.ground import Ground, week
from migration_assets_tests.retirement.signed_off_quarter import Departure
from migration_assets_tests.retirement.writers_elsewhere import ROWS, writing
from migration_assets_tests.sweeps import telling

_RESTING = (3, 7)


@pytest.mark.long
@pytest.mark.parametrize("number", telling(range(2), {0}))
def test_weeks_at_rest_leave_exactly_while_all_others_stream(ground: Ground, number: int) -> None:
    seed = SystemRandom().randrange(10**6)
    print(f"seed {seed}, number {number}")
    departure = Departure.prepared(ground.fill(ROWS), *_RESTING)
    with writing(ground, seed, *_RESTING):
        for resting in _RESTING:
            assert departure.retire(resting).step is Step.QUARANTINED
        departure.give_back(3)
        ground.stream()
        assert departure.retire(3).cut
        ground.validate(4)
    ground.drain()
    assert departure.drifts() == []
    assert late_bookings(ground.plan) == []
    for resting in _RESTING:
        assert departure.in_quarantine(resting) == ground.contents("legacy", resting)
        assert len(departure.in_quarantine(resting)) == 140
    for other in range(1, 14):
        if other not in _RESTING:
            assert ground.contents("base", other) == ground.contents("legacy", other), other


@pytest.mark.long
@pytest.mark.parametrize("number", telling(range(3), {0}))
def test_a_late_booking_at_any_moment_is_refused_or_comes_home(ground: Ground, number: int) -> None:
    seed = SystemRandom().randrange(10**6)
    print(f"seed {seed}, number {number}")
    random = Random(seed)
    departure = Departure.prepared(ground.fill(ROWS), *_RESTING)
    outcomes: list[str] = []
    booked: list[int] = []

    def late(at: int, delay: float) -> None:
        time.sleep(delay)
        row = 100_000 + len(booked)
        departure.book(row, at)
        booked.append(row)

    with writing(ground, seed, *_RESTING):
        for attempt in range(4):
            leaving = _RESTING[attempt % 2]
            thread = threading.Thread(target=late, args=(leaving, random.uniform(0, 0.45)))
            thread.start()
            try:
                step = departure.retire(leaving).step
            except RetirementError as error:
                outcomes.append(f"W{leaving:02}: {error.what[:60]}")
                step = None
            thread.join()
            outcomes.append(f"W{leaving:02}: {step}")
            missing = [found.week for found in late_bookings(ground.plan)]
            if step is Step.QUARANTINED:
                assert missing == [week(leaving)] or _there(departure, leaving, booked[-1]), outcomes
                departure.give_back(leaving)
            assert departure.state(leaving) is SliceState.ARCHIVED
            departure.take_in(leaving)
    print(outcomes)
    ground.assert_same()
    kept = ground.one("base", "SELECT count(*) FROM bookings WHERE id >= 100000")
    assert kept == len(booked) == 4, outcomes


def _there(departure: Departure, number: int, row: int) -> bool:
    return any(text.startswith(f"({row},") for text in departure.in_quarantine(number))
