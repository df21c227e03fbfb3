"""An excess is believed where two looks agree, whichever way the statistics were off at either."""

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from migration_assets.watch.legacy_reads import APART, Counted, Memory, ReadWatch, watched

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(look: int) -> datetime:
    return START + 2 * APART * look


def counted(excess: int, raw: int = 10, life: str = "1/on", reading: tuple[str, ...] = ()) -> Counted:
    return Counted(life, {"i1": raw}, {"i1": excess}, reading, reading)


def after(*looks: Counted) -> ReadWatch:
    seen: ReadWatch | None = None
    for number, look in enumerate(looks):
        seen = watched(seen, look, at(number))
        # As the ledger keeps it.
        memory = None if seen.memory is None else Memory.from_json(seen.memory.to_json())
        assert memory == seen.memory
    assert seen is not None
    return seen


def test_the_watch_counts_from_its_third_look() -> None:
    begun = after(counted(5), counted(6))
    assert (begun.watched_since, begun.unsettled) == (at(1), True)
    seen = after(counted(5), counted(6), counted(7), counted(7))
    assert (seen.watched_since, seen.unsettled) == (at(2), False)


def test_a_read_is_believed_at_the_second_look_that_sees_it() -> None:
    first = after(counted(5), counted(5), counted(5), counted(6))
    assert (first.last_read_at, first.unsettled) == (None, True)
    second = watched(first, counted(6), at(4))
    assert (second.last_read_at, second.unsettled) == (at(4), False)
    assert watched(second, counted(6), at(5)).last_read_at == at(4), "one read is one read"
    assert watched(first, counted(6), at(3) + APART / 2).last_read_at is None, "the two looks are too near"


def test_what_is_off_for_one_look_is_no_read() -> None:
    assert after(*map(counted, (5, 5, 5, 9, 5, 5))).last_read_at is None


@pytest.mark.parametrize(
    "beginning", [(9, 5, 5), (5, 9, 5), (5, 5, 9), (6, 5, 5), (5, 6, 5), (1, 5, 5), (5, 1, 5), (5, 5, 1)]
)
def test_a_beginning_that_was_off_makes_no_read_and_hides_none(beginning: tuple[int, int, int]) -> None:
    assert after(*map(counted, (*beginning, 5, 5))).last_read_at is None
    assert after(*map(counted, (*beginning, 6, 6))).last_read_at in {at(3), at(4)}


def test_who_has_the_table_locked_reads_it_whatever_is_counted() -> None:
    seen = after(counted(5), counted(5), counted(5, reading=("app (shop, local)",)))
    assert (seen.last_read_at, seen.last_reader) == (at(2), "app (shop, local)")


def test_counters_that_went_back_begin_the_watch_anew_and_forget_no_read() -> None:
    read = after(*map(counted, (5, 5, 5, 6, 6)))
    assert read.last_read_at == at(4)
    for look in (counted(6, raw=3), counted(6, life="2/on")):
        again = watched(read, look, at(5))
        assert (again.watched_since, again.last_read_at) == (at(5), read.last_read_at)


@example(reads=[0, 0, 0, 1, 0, 0, 0, 0], off=[0, 1, 0, 0, 0, 0, 0, 0])
@given(
    reads=st.lists(st.integers(0, 3), min_size=8, max_size=30),
    off=st.lists(st.integers(-4, 4), min_size=8, max_size=30),
)
def test_single_looks_that_are_off_neither_make_nor_lose_reads(reads: list[int], off: list[int]) -> None:
    """Every other look may be off by anything; two in a row are not."""
    total, seen = 0, None
    last = 0
    for number, more in enumerate(reads):
        total += more if number > 2 else 0
        last = number if more and number > 2 else last
        noise = off[number % len(off)] if number % 3 == 1 else 0
        seen = watched(seen, counted(100 + total + noise, raw=100 + total), at(number))
    for number in range(len(reads), len(reads) + 3):
        seen = watched(seen, counted(100 + total, raw=100 + total), at(number))
    assert seen is not None
    assert (seen.last_read_at is not None) == (total > 0)
    if seen.last_read_at is not None:
        assert seen.last_read_at >= at(last)
