"""Strikes a step at a point, does afterwards what a person would, and compares everything.

Belongs here: one blow from the stage to the last word. Which blows there are stands in `matrix`.
"""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Literal

import psycopg
from psycopg import sql

from migration_assets.copying.weeks import repair_week, validate_week
from migration_assets.domain.errors import MigrationError, SliceMismatchError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.stream import StreamStatus
from migration_assets.runtime import Migration
from migration_assets.stream.holding import resume_stream, start_stream
from migration_assets_tests.convergence.comparison import UNDER_CDC, drain, states
from migration_assets_tests.convergence.table import CALENDAR, COLUMNS, PROBE_ID
from migration_assets_tests.convergence.workload import writing
from migration_assets_tests.crashes.child import Child, Ended, Nursery, Task
from migration_assets_tests.crashes.stage import Stage
from migration_assets_tests.crashes.steps import QUARTER, STEPS, WEEK, status_of
from migration_assets_tests.crashes.trap import Blow, Point
from migration_assets_tests.ground import wait_for

After = Literal["again", "resume", "validate", "struck again"]
"""What comes first after a blow: the same step, `stream resume`, another week's validation, or the step with a blow."""

WRITERS = 1
_WRITE_SECONDS = 2.0
# A server looks every 2 s whether the client of a busy session still lives.
_GONE_SECONDS = 6.0
_TRIES = 6


@dataclass(frozen=True)
class Verdict:
    """One blow: whether it fell, what was said on the way back, and what the legacy's writers noticed.

    `write_ms` is the first write on the legacy after the blow, `gone_ms` until all locks and sessions of the dead were
    gone, `seconds` the whole, `rows` those that were compared.
    """

    step: str
    point: Point | None
    after: After
    fell: bool
    said: tuple[str, ...]
    write_ms: float
    gone_ms: float
    seconds: float
    rows: int
    longest_wait_ms: float


@dataclass
class Judge:
    """One pair of databases, struck again and again."""

    migration: Migration
    nursery: Nursery
    random: Random = field(default_factory=random.Random)

    @property
    def stage(self) -> Stage:
        """Of this migration."""
        return Stage(self.migration)

    def child(self, step: str, point: Point | None = None, blow: Blow = "kill", **settings: object) -> Child:
        """Begin a step in a process of its own."""
        databases = self.migration.databases
        return self.nursery.start(
            lambda log: Task(step, databases.legacy_url, databases.base_url, log, point, blow,
                             self.random.choice([0.0, 0.0005, 0.002, 0.006]), settings)
        )  # fmt: skip

    def record(self, step: str) -> list[str]:
        """The statements of an undisturbed run, under traffic."""
        self.set_stage(step)
        with writing(self.migration.databases.legacy_url, self.random.random(), writers=WRITERS):
            ended = self.child(step).wait()
        assert not ended.failed, f"{step} without a blow: {ended.said}"
        self.conclude(step)
        return ended.labels

    def strike(self, step: str, point: Point, after: After = "again") -> Verdict:
        """One blow under traffic, from the stage to the comparison."""
        began = time.monotonic()
        self.set_stage(step)
        with writing(self.migration.databases.legacy_url, self.random.random(), writers=WRITERS) as traffic:
            time.sleep(0.05)  # copies go stale
            ended = self.child(step, point).wait()
            write_ms, gone_ms = self.require_nobody_held(), self.require_gone()
            said = self.back(step, after, ended)
        rows = self.conclude(step)
        return Verdict(step, point, after, ended.signal != 0, tuple(said), write_ms, gone_ms,
                       time.monotonic() - began, rows, max(traffic.waits, default=0.0))  # fmt: skip

    def set_stage(self, step: str) -> None:
        """As the step needs it; an open join is what a killed one leaves behind."""
        stage = STEPS[step].stage
        self.stage.set(stage)
        if stage == "open join":
            with writing(self.migration.databases.legacy_url, self.random.random(), writers=WRITERS):
                label = 'base[*:join:pause] ALTER SUBSCRIPTION "ours" DISABLE'
                ended = self.child("join", Point(label)).wait()
                assert ended.signal, f"the join was not struck: {ended.said}"
                assert status_of(self.migration) is StreamStatus.JOINING

    def back(self, step: str, after: After, ended: Ended) -> list[str]:
        """What a person does who sees that it died."""
        if after == "resume":
            said = self.as_a_person(lambda: resume_stream(self.migration))
        elif after == "validate":
            said = self.as_a_person(lambda: self._look(FiscalWeek(QUARTER, 11)))
        elif after == "struck again" and ended.labels:
            second = self.child(step, Point(self.random.choice(ended.labels))).wait()
            said = [f"second blow: {second.said or 'fell'}"]
            self.require_nobody_held()
            self.require_gone()
        else:
            said = []
        return said + self.as_a_person(lambda: self._again(step))

    def _look(self, week: FiscalWeek) -> None:
        validate_week(self.migration, week)

    def _again(self, step: str) -> None:
        try:
            STEPS[step].run(self.migration)
        except MigrationError as error:
            # It had been done before the blow fell.
            if step != "undo" or "was undone" not in str(error):
                raise

    def as_a_person(self, call: Callable[[], object]) -> list[str]:
        """Call until it succeeds, doing in between what the errors say and nothing else; what they said."""
        said: list[str] = []
        for _ in range(_TRIES):
            try:
                call()
            except MigrationError as error:
                said.append(f"{error.what} -> {error.next_step}")
                self._follow(error, said)
            else:
                return said
        raise AssertionError(f"after {_TRIES} tries: {said}")

    def _follow(self, error: MigrationError, said: list[str]) -> None:
        text = error.next_step
        try:
            if isinstance(error, SliceMismatchError):
                repair_week(self.migration, WEEK, dry_run=False)
            elif "stream resume" in text:
                resume_stream(self.migration)
            elif "change_stream" in text:
                start_stream(self.migration, QUARTER, rebuild="rebuild set" in text)
            else:
                assert "again" in text, f"nothing a person can type: {error}"
        except MigrationError as second:
            said.append(f"{second.what} -> {second.next_step}")
            if second.next_step != text:
                self._follow(second, said)

    def conclude(self, step: str) -> int:
        """Nobody writes any more: both sides must be equal, and the stream must run."""
        if step == "hold":
            resume_stream(self.migration)
        if step == "undo":
            repair_week(self.migration, WEEK, dry_run=False)
        try:
            drain(self.migration, 30.0)
        except AssertionError as error:
            raise AssertionError(f"{error}; the stream is {self.stream()}") from None
        rows = require_equal(self.migration)
        assert status_of(self.migration) is StreamStatus.LIVE, self.stream()
        self._require_tidy(step)
        return rows

    def _require_tidy(self, step: str) -> None:
        with self.migration.databases.session("base", "test") as base:
            left = base.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = 'migration'::regnamespace AND relkind IN ('r', 'p')"
                " AND relname ~ '_fy[0-9]+_q[1-4]'"
            ).fetchall()
            odd = base.execute(
                "SELECT r.id FROM migration.repairs r LEFT JOIN migration.repaired_rows w ON w.repair_id = r.id"
                " GROUP BY r.id HAVING count(w.key) <> r.missing + r.extra + r.changed"
            ).fetchall()
            lacking = base.execute(
                "SELECT week FROM migration.slices WHERE state NOT IN ('streaming', 'validated')"
            ).fetchall()
        assert not left, f"left over: {left}"
        assert not odd, f"repairs without their images: {odd}"
        # An open join is finished as a rebuild of the weeks that are under CDC.
        assert not lacking or step == "finish", f"not under CDC: {lacking}"
        with self.migration.databases.session("legacy", "test") as legacy:
            slots = legacy.execute(
                "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
            ).fetchall()
        assert len(slots) == 1, f"slots: {slots}"

    def stream(self) -> str:
        """For errors."""
        with self.migration.databases.session("base", "test") as base:
            return str(base.execute("SELECT status, reason, status_since FROM migration.streams").fetchall())

    def require_nobody_held(self) -> float:
        """A write on the legacy succeeds soon; how many milliseconds it took."""
        began = time.perf_counter()
        with psycopg.connect(self.migration.databases.legacy_url, autocommit=True) as writer:
            writer.execute(sql.SQL("SET statement_timeout = {}").format(int(_WRITE_SECONDS * 1000)))
            writer.execute("UPDATE public.bookings SET guests = 1 WHERE id = %s", [PROBE_ID])
        return (time.perf_counter() - began) * 1000

    def require_gone(self) -> float:
        """No session of the dead is left, and so no lock, on either side; how many milliseconds that took."""
        began = time.perf_counter()
        with (
            psycopg.connect(self.migration.databases.legacy_url, autocommit=True) as legacy,
            psycopg.connect(self.migration.databases.base_url, autocommit=True) as base,
        ):
            wait_for(lambda: not _left(base) and not _left(legacy), "locks and sessions of the dead end", _GONE_SECONDS)
        return (time.perf_counter() - began) * 1000


def require_equal(migration: Migration) -> int:
    """Compare all rows of all weeks under CDC as text; how many there were."""
    weeks = [week for week, state in states(migration).items() if state in UNDER_CDC]
    bounds = sorted((CALENDAR.bounds(week).lower, CALENDAR.bounds(week).upper) for week in weeks)
    query = sql.SQL("SELECT row({})::text FROM public.bookings WHERE {}").format(
        sql.SQL(", ").join(map(sql.Identifier, COLUMNS)),
        sql.SQL(" OR ").join(sql.SQL("booked_at >= {} AND booked_at < {}").format(*pair) for pair in bounds),
    )
    with migration.databases.session("legacy", "test") as legacy, migration.databases.session("base", "test") as base:
        here, there = (Counter(str(row[0]) for row in side.execute(query)) for side in (legacy, base))
    lost, surplus = here - there, there - here
    assert here == there, (
        f"{lost.total()} rows on the legacy alone, {surplus.total()} on the base alone; legacy:"
        f" {[row[:90] for row in sorted(lost)[:4]]}; base: {[row[:90] for row in sorted(surplus)[:4]]}"
    )
    return here.total()


def _left(connection: psycopg.Connection[tuple[object, ...]]) -> list[tuple[object, ...]]:
    return connection.execute(
        "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND application_name ~ '^migration_assets:' AND backend_type <> 'logical replication worker'"
    ).fetchall()
