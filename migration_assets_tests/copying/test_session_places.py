"""What the table of sessions says is what the servers count while several weeks are worked on at once."""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest

from migration_assets.copying.copying import copy_slice
from migration_assets.copying.throttle import SliceCopy, ThrottleLimits
from migration_assets.domain.session_places import PER_WEEK, WHOLE, Places, WeekStep, WholeStep
from migration_assets_tests.clones import Clones
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.freezes import patience
from migration_assets_tests.ground import QUICK, Ground, wait_for, week

_WEEKS = 3
# WAL senders have places of their own.
_OURS = (
    "SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database()"
    " AND backend_type = 'client backend' AND starts_with(application_name, 'migration_assets:')"
)


@pytest.fixture
def streamed_ground(clones: Clones) -> Generator[Ground]:
    """A small table under CDC."""
    with clones.streamed(910) as databases:
        yield Ground(databases, stream_limits=replace(QUICK, cut_patience_seconds=patience(20)))


def counted(ground: Ground) -> Places:
    return Places(ground.one("legacy", _OURS), ground.one("base", _OURS))


def copy(ground: Ground, number: int) -> object:
    """As Dagster's run does it: with a throttle that looks, and has no reason to hold it back."""
    plan = SliceCopy(ground.spec, ground.calendar, week(number), ground.limits, ground.stream_limits,
                     ThrottleLimits(lag_seconds=3600.0), "test")  # fmt: skip
    return copy_slice(ground.databases, plan)


def repair(ground: Ground, number: int) -> object:
    return ground.repair(number)


def validate(ground: Ground, number: int) -> object:
    return ground.validate(number)


@contextmanager
def peak(ground: Ground) -> Generator[Callable[[], Places]]:
    """The most that was seen on each side meanwhile."""
    ended, most = threading.Event(), [Places(0, 0)]

    def look() -> None:
        with (
            psycopg.connect(ground.databases.legacy_url, autocommit=True) as legacy,
            psycopg.connect(ground.databases.base_url, autocommit=True) as base,
        ):
            while not ended.is_set():
                seen = [int((one.execute(_OURS).fetchone() or (0,))[0]) for one in (legacy, base)]
                most[0] = Places(max(most[0].legacy, seen[0]), max(most[0].base, seen[1]))

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            yield lambda: most[0]
        finally:
            ended.set()
            looking.result()


@pytest.mark.parametrize(
    ("step", "work"),
    [(WeekStep.LIVE_COPY, copy), (WeekStep.VALIDATION, validate), (WeekStep.REPAIR, repair)],
)
def test_weeks_under_cdc_that_wait_for_a_cut_have_all_their_sessions(
    streamed_ground: Ground, step: WeekStep, work: Callable[[Ground, int], object]
) -> None:
    ground = streamed_ground
    with ThreadPoolExecutor(_WEEKS) as pool, psycopg.connect(ground.databases.legacy_url) as writer:
        # Nobody gets a cut while a writer is open.
        writer.execute("UPDATE bookings SET guests = guests WHERE id = 1")
        running = [pool.submit(work, ground, number) for number in range(1, _WEEKS + 1)]
        try:
            wait_for(lambda: counted(ground) == PER_WEEK[step] * _WEEKS, f"{PER_WEEK[step] * _WEEKS} are open")
        finally:
            writer.rollback()
            for one in running:
                one.result()


def test_first_copies_have_two_sessions_on_each_side(ground: Ground) -> None:
    ground.fill(91).open()
    with ThreadPoolExecutor(_WEEKS) as pool, psycopg.connect(ground.databases.base_url) as reader:
        # No leaf gets into its place while somebody reads it.
        reader.execute("SELECT count(*) FROM bookings")
        running = [pool.submit(copy, ground, number) for number in range(1, _WEEKS + 1)]
        try:
            expected = PER_WEEK[WeekStep.COPY] * _WEEKS
            wait_for(lambda: counted(ground) == expected, f"{expected} are open")
        finally:
            reader.rollback()
            for one in running:
                one.result()


@pytest.mark.parametrize("step", [WholeStep.JOIN, WholeStep.RECONCILIATION, WholeStep.CUTOVER])
def test_steps_on_many_weeks_have_no_more_than_the_table_says(streamed_ground: Ground, step: WholeStep) -> None:
    limits = replace(streamed_ground.stream_limits, parallel=_WEEKS)
    ground = CutoverGround(streamed_ground.databases, stream_limits=limits)
    own, each = WHOLE[step]
    with peak(ground) as most:
        if step is WholeStep.JOIN:
            ground.stream(rebuild=True)
        elif step is WholeStep.RECONCILIATION:
            assert ground.reconcile().equal
        else:
            assert ground.cut().outcome == "succeeded"
        seen, table = most(), own + each * _WEEKS
    assert seen.legacy <= table.legacy
    assert seen.base <= table.base
    assert seen.legacy > _WEEKS, "several weeks were worked on at once"
    assert seen.base > _WEEKS
