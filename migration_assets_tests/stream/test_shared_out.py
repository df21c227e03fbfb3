"""Weeks that are shared out: whose error is told, and that nobody works on after the end."""

import signal
import threading
from dataclasses import fields
from itertools import count
from threading import Barrier, Event
from typing import Any

import pytest

from migration_assets.ledger.slices import SliceRecord
from migration_assets.stream.true_up import Taken, share_out

NOTHING_KNOWN: dict[str, Any] = {one.name: None for one in fields(SliceRecord)}
# So many that one who does not stop takes some of them for certain.
WEEKS = [SliceRecord(**NOTHING_KNOWN)] * 2_000


def test_the_error_that_came_first_is_told_and_not_one_that_followed_from_the_end() -> None:
    numbers, both = count(), Barrier(2)
    taken: list[int] = []

    def work(weeks: Taken) -> None:
        number = next(numbers)
        both.wait()
        if number == 1:
            raise LookupError("the week that failed")
        for place, _ in weeks:
            taken.append(place)
            Event().wait(0.001)
        raise ConnectionError("lost at the end")

    with pytest.raises(LookupError, match="the week that failed"):
        share_out(WEEKS, work, parallel=2, purpose="test")
    assert len(taken) < len(WEEKS)


def test_an_interrupt_ends_the_workers_after_their_present_week() -> None:
    both, taken = Barrier(2), list[int]()

    def work(weeks: Taken) -> None:
        both.wait()
        for place, _ in weeks:
            if place == 0:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            taken.append(place)
            Event().wait(0.001)

    with pytest.raises(KeyboardInterrupt):
        share_out(WEEKS, work, parallel=2, purpose="test")
    assert len(taken) < len(WEEKS)


def test_every_week_is_worked_on_once_also_by_fewer_workers_than_weeks() -> None:
    taken: list[int] = []
    share_out(WEEKS[:13], lambda weeks: taken.extend(place for place, _ in weeks), parallel=4, purpose="test")
    assert sorted(taken) == list(range(13))
