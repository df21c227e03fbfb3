"""Drives one migration through everything that can be asked of it, in random order, while writers write.

Belongs here: which step comes next, and what each of them must answer. What it does is kept in a journal, which is the
first thing to read when a seed fails.
"""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import repeat
from random import Random

from migration_assets.copying.weeks import (
    copy_week,
    repair_week,
    undo_repair,
    validate_week,
)
from migration_assets.domain.errors import SliceBusyError, StreamError
from migration_assets.domain.fingerprint import Differences
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.preflight.run import examine
from migration_assets.quarters.opening import open_quarter
from migration_assets.stream.holding import pause_stream, resume_stream, start_stream
from migration_assets_tests.convergence.damage import DAMAGES, Expected, Vandal
from migration_assets_tests.convergence.judge import Judge
from migration_assets_tests.convergence.table import CALENDAR, MIGRATED


@dataclass
class Controller(Judge):
    """One migration under way.

    Attributes:
        random: Decides everything.
        live: The quarters under CDC, in the order in which they came.
        found: Damages that were injected, found exactly, and healed.
    """

    random: Random = field(default_factory=Random)
    live: list[FiscalQuarter] = field(default_factory=list[FiscalQuarter])
    copied: set[FiscalWeek] = field(default_factory=set[FiscalWeek])
    found: int = 0

    @property
    def weeks(self) -> list[FiscalWeek]:
        """All weeks under CDC."""
        return [week for quarter in self.live for week in CALENDAR.weeks_of(quarter)]

    def prepare(self) -> None:
        """Preflight, and the quarters' places."""
        examined = examine(self.migration)
        assert set(MIGRATED) <= set(examined.quarters), [f for f in examined.findings if f.severity.name == "BLOCKING"]
        for quarter in self.random.sample(MIGRATED, 2):
            open_quarter(self.migration, quarter)
        self.journal.note("prepared")

    def run(self, steps: int) -> None:
        """From nothing to two quarters under CDC, with `steps` random steps in between and after."""
        first, second = self.random.sample(MIGRATED, 2)
        before = self.random.sample(CALENDAR.weeks_of(second), self.random.randint(0, 6))
        self.copy([*CALENDAR.weeks_of(first), *before])
        for week in self.random.sample(sorted(self.copied), 2):
            self.copy([week])
        self.start(first)
        join_after = self.random.randint(0, steps)
        joins = self.random.random() < 0.9
        for number in range(steps + 1):
            if number == join_after:
                rest = [week for week in CALENDAR.weeks_of(second) if week not in self.copied]
                self.copy(rest if joins else rest[:3])
                if joins:
                    self.start(second)
            if number < steps:
                self.step()

    def step(self) -> None:
        """One random step of a live migration."""
        choices: dict[Callable[[], None], int] = {
            self.validate_some: 4,
            self.reconcile: 3,
            self.copy_live: 4,
            self.dry_repair: 2,
            self.idle_repair: 1,
            self.pause_and_resume: 2,
            self.rebuild: 1,
            self.start_again: 1,
            self.vandalise: 6,
            self.at_once: 3,
        }
        self.random.choices(list(choices), list(choices.values()))[0]()

    def copy(self, weeks: Iterable[FiscalWeek]) -> None:
        """Copy weeks that are not under CDC, three at a time, in any order."""
        todo = self._shuffled(weeks)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(copy_week, repeat(self.migration), todo))
        self.copied.update(todo)
        self.journal.note(f"copied {_names(todo)}")

    def start(self, quarter: FiscalQuarter) -> None:
        """Activate the stream for a quarter, or let it join."""
        joined = start_stream(self.migration, quarter)
        expected = "joined" if self.live else "activated"
        assert joined.how == expected, f"{quarter} was {joined.how}, not {expected}"
        assert sorted(one.week for one in joined.weeks) == list(CALENDAR.weeks_of(quarter)), joined.weeks
        for one in joined.weeks:
            assert one.legacy == one.base, f"{one.week} was trued up to {one.base}, legacy {one.legacy}"
        self.live.append(quarter)
        rows = sum(one.differences.rows for one in joined.weeks if one.differences)
        self.journal.note(f"{joined.how} {quarter}: {rows} rows trued up, stood {joined.paused_ms:.0f} ms")

    def start_again(self) -> None:
        quarter = self.random.choice(self.live)
        joined = start_stream(self.migration, quarter)
        assert joined.how == "already under CDC", joined.how
        self.journal.note(f"{quarter} is under CDC already")

    def rebuild(self) -> None:
        quarter = self.random.choice(self.live)
        joined = start_stream(self.migration, quarter, rebuild=True)
        assert joined.how == "rebuilt", joined.how
        self.journal.note(f"rebuilt by way of {quarter}, marker {joined.marker}")

    def pause_and_resume(self) -> None:
        """A person pauses; validation says so; a person resumes."""
        pause_stream(self.migration, "a person wants to look")
        time.sleep(self.random.uniform(0, 0.3))  # writers write on meanwhile: this is what is tested
        if self.random.random() < 0.5:
            with suppress(StreamError):
                validated = validate_week(self.migration, self.random.choice(self.weeks))
                raise AssertionError(f"a paused stream was validated: {validated}")
        resume_stream(self.migration)
        self.journal.note("paused and resumed")

    def validate_some(self) -> None:
        weeks = self.random.sample(self.weeks, self.random.randint(1, 4))
        with ThreadPoolExecutor(self.random.randint(1, 3)) as pool:
            list(pool.map(self.validate, weeks))
        self.journal.note(f"validated {_names(weeks)}")

    def reconcile(self) -> None:
        for quarter in self.random.sample(self.live, self.random.randint(1, len(self.live))):
            self.require_reconciled(quarter, Expected())

    def copy_live(self) -> None:
        week = self.random.choice(self.weeks)
        copy_week(self.migration, week)
        self.journal.note(f"copied {week} live")

    def dry_repair(self) -> None:
        week = self.random.choice(self.weeks)
        self.require_dry(week, Expected())
        self.journal.note(f"dry repair of {week}")

    def idle_repair(self) -> None:
        """Of a week that needs none."""
        week = self.random.choice(self.weeks)
        repaired = repair_week(self.migration, week, dry_run=False)
        assert repaired.differences == Differences(), f"repair of the sound {week}: {repaired.differences}"
        self.journal.note(f"repair of the sound {week}")

    def at_once(self) -> None:
        """Three steps on three weeks at the same moment; who finds somebody else at work says so and comes again."""
        weeks = self.random.sample(self.weeks, 3)

        def patiently(call: Callable[[FiscalWeek], object], week: FiscalWeek) -> None:
            for attempt in range(60):
                try:
                    call(week)
                except (SliceBusyError, StreamError) as busy:
                    if "being worked on" not in str(busy) or attempt == 59:
                        raise
                    time.sleep(0.05)
                else:
                    return

        calls: dict[str, Callable[[FiscalWeek], object]] = {
            "validates": self.validate,
            "copies": lambda week: copy_week(self.migration, week),
            "repairs": lambda week: repair_week(self.migration, week, dry_run=False),
            "reconciles": lambda week: self.require_reconciled(week.quarter, Expected()),
        }
        chosen = self.random.choices(list(calls), k=3)
        at_once = ", ".join(f"{name} {week}" for name, week in zip(chosen, weeks, strict=True))
        self.journal.note(f"at once: {at_once}")
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(patiently, [calls[name] for name in chosen], weeks))
        self.journal.note("done at once")

    def vandalise(self) -> None:
        """Damage some weeks, have it found exactly and in no other week, heal it in one of the ways there are."""
        vandal = Vandal(self.random, self.weeks)
        expected = Expected()
        with self.migration.databases.session("base", "vandal") as base:
            for week in self.random.sample(self.weeks, self.random.randint(1, 3)):
                for name in self.random.sample(sorted(DAMAGES), self.random.randint(1, 4)):
                    expected.add(vandal.inject(base, name, week))
        self.journal.note(f"damaged: {', '.join(expected.names)}")
        clean = [week for week in self.weeks if week not in expected.weeks]
        self._look(expected, clean)
        damaged = self._shuffled(expected.weeks)
        for week in damaged:
            if week in expected.lines:
                self._heal(week, expected)
                expected.lines.pop(week, None)
        for week in self._shuffled([*damaged, *self.random.sample(clean, 1)]):
            self.validate(week)
        self.found += len(expected.names)
        self.journal.note(f"healed {_names(damaged)}")

    def _look(self, expected: Expected, clean: list[FiscalWeek]) -> None:
        if self.random.random() < 0.4:
            for quarter in self.live:
                self.require_reconciled(quarter, expected)
        if self.random.random() < 0.2:
            self.pause_and_resume()  # heals nothing and hides nothing
        for week in self._shuffled([*expected.weeks, *self.random.sample(clean, 2)]):
            if week in expected.weeks:
                self.require_found(week, expected)
            else:
                self.validate(week)

    def _heal(self, week: FiscalWeek, expected: Expected) -> None:
        way = self.random.choices(["repair", "undo", "copy", "rebuild"], [6, 2, 2, 1])[0]
        self.journal.note(f"heals {week} by {way}")
        if way == "copy":
            copy_week(self.migration, week)
        elif way == "rebuild":
            start_stream(self.migration, week.quarter, rebuild=True)
            expected.lines.clear()
        else:
            self.require_dry(week, expected)
            repaired = self.repair(week, expected)
            if way == "undo":
                undo_repair(self.migration, repaired)
                self.require_found(week, expected)
                self.repair(week, expected)

    def _shuffled(self, weeks: Iterable[FiscalWeek]) -> list[FiscalWeek]:
        todo = sorted(set(weeks))
        self.random.shuffle(todo)
        return todo


def _names(weeks: Iterable[FiscalWeek]) -> str:
    return ", ".join(week.key for week in weeks)
