"""What comparing costs the legacy's writers: small transactions with cuts, without, and under a plain lock."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle

from psycopg import sql

from benchmarks.changes import load_process
from benchmarks.streams import QUARTER, Ground, wait_until
from migration_assets.copying.weeks import validate_week
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.slices import read_slice
from migration_assets.postgres.sessions import Connected, Timeouts, require_row
from migration_assets.postgres.sql_text import table_name
from migration_assets.stream.buckets import compare, same_table, slice_rows
from migration_assets.stream.heartbeats import has_arrived, send_heartbeat
from migration_assets.stream.plan import StreamPlan

_RATE = 200.0  # single-row transactions a second, of four writers together
_NEVER = Timeouts(lock=0, statement=0, idle_in_transaction=0)


@dataclass(frozen=True)
class Stalls:
    """One scenario: every writer's latency, and how long each of the comparisons held the lock."""

    name: str
    latencies_ms: tuple[float, ...]
    comparisons: int
    held_ms: tuple[float, ...] = ()
    notes: dict[str, float] = field(default_factory=dict[str, float])


def measure_stalls(ground: Ground, *, seconds: float, warm_up: float) -> list[Stalls]:
    """All scenarios in turn, over the same weeks, with our stream running."""
    ground.ours.let_go()
    try:
        weeks = ground.migration.calendar.weeks_of(QUARTER)
        return [
            _undisturbed(ground, seconds, warm_up),
            _plain_reads(ground, weeks, seconds, warm_up),
            _cuts(ground, weeks, seconds, warm_up),
            _naive_lock(ground, weeks, seconds, warm_up),
        ]
    finally:
        ground.ours.rest()


def _undisturbed(ground: Ground, seconds: float, warm_up: float) -> Stalls:
    latencies, _ = _with_writers(ground, seconds, warm_up, lambda: time.sleep(0.05))
    return Stalls("nothing", latencies, 0)


def _plain_reads(ground: Ground, weeks: tuple[FiscalWeek, ...], seconds: float, warm_up: float) -> Stalls:
    """The same fingerprints without any cut: what the reading alone costs, and no proof of anything."""
    turn = cycle(weeks)
    with ExitStack() as stack:
        legacy, base = _both(ground, stack)
        latencies, count = _with_writers(ground, seconds, warm_up, lambda: _read_week(ground, legacy, base, next(turn)))
    return Stalls("reads alone", latencies, count)


def _cuts(ground: Ground, weeks: tuple[FiscalWeek, ...], seconds: float, warm_up: float) -> Stalls:
    turn, held, longest, tries = cycle(weeks), list[float](), list[float](), list[int]()

    def validate() -> None:
        cut = validate_week(ground.migration, next(turn)).cut
        held.append(cut.writers_held_ms)
        longest.append(cut.longest_try_ms)
        tries.append(cut.tries)

    latencies, count = _with_writers(ground, seconds, warm_up, validate)
    notes = {"longest_try_ms": max(longest, default=0.0), "tries_per_cut": sum(tries) / max(1, len(tries))}
    return Stalls("validations", latencies, count, tuple(held), notes)


def _naive_lock(ground: Ground, weeks: tuple[FiscalWeek, ...], seconds: float, warm_up: float) -> Stalls:
    """What a careful hand would do without a cut: lock out writers, wait for the base, compare, unlock."""
    turn, held = cycle(weeks), list[float]()
    relation = ground.migration.spec.relation
    lock = sql.SQL("LOCK TABLE {} IN SHARE MODE").format(table_name(ground.migration.spec.table))
    with ExitStack() as stack:
        legacy, base = _both(ground, stack)
        marker = stack.enter_context(ground.migration.databases.session("legacy", "benchmark:marker", _NEVER))

        def compare_locked() -> None:
            with legacy.transaction():
                began = time.monotonic()
                legacy.execute(lock)
                number = send_heartbeat(marker, relation)
                wait_until(lambda: has_arrived(base, relation, number), "the base does not catch up")
                if not _read_week(ground, legacy, base, next(turn)):
                    raise AssertionError("compared under a lock, and still different")
            held.append((time.monotonic() - began) * 1000)

        latencies, count = _with_writers(ground, seconds, warm_up, compare_locked)
    return Stalls("plain lock", latencies, count, tuple(held))


def _both(ground: Ground, stack: ExitStack) -> tuple[Connected, Connected]:
    session = ground.migration.databases.session
    return (
        stack.enter_context(session("legacy", "benchmark:compare", _NEVER)),
        stack.enter_context(session("base", "benchmark:compare", _NEVER)),
    )


def _read_week(ground: Ground, legacy: Connected, base: Connected, week: FiscalWeek) -> bool:
    """The comparison that a validation makes, in whatever the sessions happen to see."""
    plan = StreamPlan.of(ground.migration)
    record = read_slice(base, plan.relation, week)
    assert record is not None
    return compare(legacy, base, slice_rows(plan, same_table(plan, legacy, base), record)).equal


def _with_writers(
    ground: Ground, seconds: float, warm_up: float, work: Callable[[], object]
) -> tuple[tuple[float, ...], int]:
    """Do the work again and again while four writers write; their latencies, and how often it was done."""
    how = {"rows_each": 1, "writers": 4, "mix": "U", "timed": True}
    with load_process(ground.load(ground.ours, rate=_RATE, seconds=warm_up, **how)) as writers:
        writers.go()
        writers.result()
    count = 0
    with load_process(ground.load(ground.ours, rate=_RATE, seconds=seconds, **how)) as writers:
        writers.go()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            work()
            count += 1
        written = writers.result()
    return written.latencies_ms, count


def legacy_rows(ground: Ground, week: FiscalWeek) -> int:
    """As the ledger has them."""
    with ground.migration.databases.session("base", "benchmark") as base:
        row = base.execute(
            "SELECT legacy_rows FROM migration.slices WHERE relation = %s AND quarter = %s AND week = %s",
            [ground.migration.spec.relation, week.quarter.key, week.name],
        ).fetchone()
    return int(require_row(row, week.key)[0] or 0)
