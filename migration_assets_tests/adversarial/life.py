"""One life of a migration among enemies: random steps of ours, and what the judge says after each.

Belongs here: which steps there are, what may come of each, and how everybody is made to stand still. Which steps a life
is made of stands in `lives`.
"""

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

import psycopg

from migration_assets.copying.weeks import copy_week, repair_week, validate_week
from migration_assets.domain.errors import MigrationError, SliceMismatchError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.samples import ProblemCode
from migration_assets.domain.states import SliceState
from migration_assets.proof.reconciliation import reconcile_quarter
from migration_assets.readiness.step import (
    cut_over,
    release_writes,
    roll_back,
    side_in_charge,
)
from migration_assets.runtime import Migration
from migration_assets.stream.holding import pause_stream, resume_stream, start_stream
from migration_assets.watch.watching import observe
from migration_assets_tests.adversarial.applications import Application, World, standing_still
from migration_assets_tests.adversarial.judge import columns_of, difference, drained, places_of, rows_of
from migration_assets_tests.adversarial.mob import Deed, Enemies, Mob
from migration_assets_tests.adversarial.table import QUARTER, SIDES, WEEKS, Side, ask
from migration_assets_tests.confirmed_deeds import code_for_cutover, code_for_rollback
from migration_assets_tests.crashes.child import Nursery, Task
from migration_assets_tests.ground import wait_for

UNDER_CDC = frozenset({SliceState.STREAMING, SliceState.VALIDATED, SliceState.SIGNED_OFF, SliceState.ARCHIVED})
Result = TypeVar("Result")
_OURS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
    " AND application_name LIKE 'migration_assets:%'"
)


class FaultFound(Exception):  # noqa: N818 - the faults themselves are in the log
    """The life need not go on."""


@dataclass
class Life:
    """One migration, its applications, its enemies, and the log of what happened."""

    migration: Migration
    world: World
    mob: Mob
    random: Random
    crowd: list[Application] = field(default_factory=list[Application])
    enemies: Enemies | None = None
    refusals: int = 0
    done: int = 0
    stalled: bool = False
    restless: bool = False  # enemies end sessions or servers: a lost connection is theirs
    may_stall: bool = False  # a setting or a saboteur may have stopped the stream
    sabotaged: bool = False  # whatever differs from now on is the saboteur's, until a rebuild

    @property
    def relation(self) -> str:
        return self.migration.spec.relation

    @contextmanager
    def attacked(self, deeds: Sequence[Deed], pause: float = 0.25) -> Generator[None]:
        """Enemies do such things while the body runs; what they have begun is ended after it."""
        stop = threading.Event()
        self.enemies = Enemies(self.mob, deeds, stop, pause)
        self.enemies.start()
        try:
            yield
        finally:
            stop.set()
            self.enemies.join(60)
            self.enemies = None
            self.mob.close(all_of_them=True)

    @contextmanager
    def left_alone(self) -> Generator[None]:
        """Enemies have ended what they had begun, and do nothing else; applications go on."""
        with self.undisturbed():
            with self.rest():
                pass
            yield

    @contextmanager
    def rest(self) -> Generator[None]:
        """Nobody writes, nothing is prepared, everything has arrived."""
        enemies = self.enemies
        if enemies:
            enemies.busy.acquire()
        try:
            self.mob.close(all_of_them=True)
            with standing_still(self.crowd):
                # What a dead cutover or rollback left may rest until it is settled: nothing is promised before.
                may_rest = self.may_stall or self.unsettled()
                self.stalled = self.mob.following and not drained(self.world, self.relation, 2.0 if may_rest else 20.0)
                if self.stalled and not may_rest:
                    self.world.fault(f"what the {self.world.side} has committed does not arrive on the other side")
                for deed in self.mob.at_rest:
                    deed()
                self.mob.at_rest.clear()
                yield
        finally:
            if enemies:
                enemies.busy.release()

    def step(self, name: str, call: Callable[[], Result]) -> Result | None:
        """One step of ours; None where it was refused, which it must say as people are promised."""
        if self.world.faults:
            raise FaultFound
        began = time.monotonic()
        try:
            result = call()
        except MigrationError as error:
            self.refusals += 1
            self.world.note(f"{name}: refused after {time.monotonic() - began:.1f} s: {type(error).__name__}: {error}")
            self._require_readable(name, error)
            return None
        except psycopg.Error as error:
            self.refusals += 1
            lost = isinstance(error, psycopg.OperationalError) and self.restless
            text = f"{name}: a bare {type(error).__name__}: {str(error).strip()}"
            self.world.note(traceback.format_exc())
            self.world.note(text) if lost else self.world.fault(text)
            return None
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not what people are promised
            self.refusals += 1
            self.world.note(traceback.format_exc())
            self.world.fault(f"{name}: a bare {error!r}")
            return None
        self.done += 1
        self.world.note(f"{name}: done in {time.monotonic() - began:.1f} s")
        return result

    def _require_readable(self, name: str, error: MigrationError) -> None:
        missing = [part for part in ("what", "state_left", "next_step") if not getattr(error, part)]
        if missing:
            self.world.fault(f"{name}: {type(error).__name__} without {', '.join(missing)}: {error}")
        secret = next((text for text in ("password=", "reserved", "prepared'") if text in str(error)), None)
        if secret:
            self.world.fault(f"{name}: its error holds {secret}")

    def undisturbed(self) -> AbstractContextManager[object]:
        """No enemy does anything meanwhile, such as to restart a server."""
        return self.enemies.busy if self.enemies else nullcontext()

    def ask_who_is_in_charge(self) -> None:
        """Applications turn to that side."""
        with self.undisturbed():
            self.world.side = side_in_charge(self.migration)

    def is_live(self) -> bool:
        """Whether the stream is not at rest by any step's or person's will, as the ledger has it."""
        with self.undisturbed():
            found = ask(self.world.base_url, "SELECT status FROM migration.streams WHERE relation = %s", self.relation)
        return found == [("live",)]

    def unsettled(self) -> bool:
        """Whether a cutover or rollback was begun and has not ended."""
        running = "SELECT FROM migration.cutovers WHERE relation = %s AND outcome = 'running'"
        known = ask(self.world.base_url, "SELECT to_regclass('migration.cutovers') IS NOT NULL")[0][0]
        return known and bool(ask(self.world.base_url, running, self.relation))

    def states(self) -> dict[FiscalWeek, str]:
        """Those of weeks that a retirement has released from the stream already, and not ended yet, are `released`."""
        rows = ask(
            self.world.base_url,
            "SELECT quarter, week, CASE WHEN released_at IS NULL OR state = 'retired' THEN state ELSE 'released' END"
            " FROM migration.slices WHERE relation = %s",
            self.relation,
        )
        return {FiscalWeek.parse(f"{quarter}|{week}"): str(state) for quarter, week, state in rows}

    def judge(self, why: str) -> None:
        """At rest: the side in charge holds what was acknowledged, and the other one the same, but for known damage."""
        with self.rest():
            self.look(why)

    def look(self, why: str) -> set[FiscalWeek]:
        """The same for who has made everybody stand still already; the weeks whose rows differ."""
        world, side = self.world, self.world.side
        follower: Side = "base" if side == "legacy" else "legacy"
        self.look_at_journal(why)
        if not self.mob.following or self.stalled:
            return set()
        columns, others = columns_of(world.url(side)), columns_of(world.url(follower))
        if columns != others and not self.sabotaged:
            world.fault(f"{why}: columns {columns} on the {side}, {others} on the {follower}")
            return set()
        # What the stream does not follow may be anyhow on the base, and hold a row that lies in another week by now.
        states = self.states()
        followed = [week for week, state in states.items() if state in UNDER_CDC] if side == "legacy" else None
        retired = [week for week, state in states.items() if state == SliceState.RETIRED]
        here, there = (rows_of(world.url(one), columns, within=followed, besides=retired) for one in (side, follower))
        places = {
            key: week
            for one in (follower, side)
            for key, week in places_of(world.url(one)).items()
            if followed is None or week in followed
        }
        differs: set[FiscalWeek] = set()
        wrong: list[str] = []
        for key in difference(here, there):
            week = places[key]
            if week is not None:
                differs.add(week)
            if week not in self.mob.damaged and not self.sabotaged:
                wrong.append(f"{key} of {week}: {side} {_short(here.get(key))}, {follower} {_short(there.get(key))}")
        if wrong:
            world.fault(f"{why}: {len(wrong)} rows differ in weeks that nobody damaged: {'; '.join(wrong[:3])}")
        return differs

    def look_at_journal(self, why: str) -> None:
        """The side in charge, with what has left for the archive, holds what was acknowledged."""
        held = rows_of(self.world.url())
        if self.world.side == "base":
            held = {**self.mob.archived, **held}
        for said in self.world.journal.wrong(held):
            self.world.fault(f"{why}: on the {self.world.side}: {said}")

    def rows_in(self, week: FiscalWeek) -> dict[int, str]:
        """Of the legacy."""
        places = places_of(self.world.legacy_url)
        return {key: text for key, text in rows_of(self.world.legacy_url).items() if places[key] == week}

    def killed_step(self, children: Nursery, name: str) -> None:
        """The step in a process of its own, killed after a while, perhaps after its end; then who comes next."""
        week = self.random.choice(WEEKS)
        settings = {"folder": str(self.migration.settings.var), "week": week.key}
        urls = self.migration.databases
        patience = self.random.choice([0.1, 0.3, 0.6, 1.0, 1.5, 2.5, 10.0]) * self.random.random()
        under_way = children.start(lambda log: Task(name, urls.legacy_url, urls.base_url, log, settings=settings))
        time.sleep(patience)  # not for anything to happen: the blow falls wherever the step is by then
        with suppress(ProcessLookupError):
            os.kill(under_way.pid, signal.SIGKILL)
        ended = under_way.wait()
        self.world.note(f"{name} in a process, killed after {patience:.2f} s: {ended.signal}, {ended.said}")
        wait_for(lambda: not any(ask(self.world.url(side), _OURS)[0][0] for side in SIDES), "its sessions end")
        self.done += 1
        if name in {"cutover", "rollback"}:
            self.require_free(name)
            self.ask_who_is_in_charge()
            if self.random.random() < 0.5:
                self.step("release writes", lambda: release_writes(self.migration))
                self.ask_who_is_in_charge()
            elif self.unsettled():
                self.require_told(name)
        if self.world.side == "legacy":
            self.step("resume", lambda: resume_stream(self.migration))
        self.judge(f"after the killed {name}")

    def require_told(self, name: str) -> None:
        """Who looks at the migration learns that a dead process left something to be settled."""
        observed = self.step("observe", lambda: observe(self.migration))
        if observed is None:
            return
        codes = {problem.code for problem in observed.problems}
        if not codes & {ProblemCode.CUTOVER_UNFINISHED, ProblemCode.WRITES_HELD}:
            self.world.fault(f"a dead {name} was left unsettled, and the watch names only {sorted(codes)}")

    def require_free(self, why: str) -> None:
        """The side in charge accepts writes again; who asks is not refused."""
        self.ask_who_is_in_charge()
        side = self.world.side
        with self.rest():
            try:
                ask(self.world.url(side), "UPDATE public.bookings SET guests = guests WHERE id = 1000000 RETURNING 1")
            except psycopg.errors.ReadOnlySqlTransaction:
                self.world.note(f"{why}: the {side} refuses writes; releasing")
                self.step("release writes", lambda: release_writes(self.migration))
        self.ask_who_is_in_charge()

    # The steps.

    def validate(self, week: FiscalWeek) -> None:
        damaged = self.mob.damaged.get(week)
        began = time.monotonic()
        mismatch: list[SliceMismatchError] = []

        def call() -> bool:
            try:
                validate_week(self.migration, week)
            except SliceMismatchError as error:
                mismatch.append(error)
                raise
            return True

        equal = self.step(f"validate {week.name}", call)
        if equal is None and not mismatch:
            return
        with self.rest():
            differs = self.look(f"after the validation of {week.name}")
        damaged_since = self.mob.damaged.get(week, 0.0) > began
        if equal and damaged is not None and not damaged_since and week in differs:
            self.world.fault(f"{week} was called equal, and it differs since before")
        if mismatch and week not in differs and self.mob.damaged.get(week) is None:
            self.world.fault(f"FALSE ALARM: {week} was said to differ ({mismatch[0].differences}); nobody damaged it")

    def validate_some(self) -> None:
        for week in self.random.sample(WEEKS, self.random.randint(1, 3)):
            self.validate(week)

    def reconcile(self) -> None:
        before, began = dict(self.mob.damaged), time.monotonic()
        result = self.step("reconcile", lambda: reconcile_quarter(self.migration, QUARTER))
        if result is None:
            return
        with self.rest():
            differs = self.look("after the reconciliation")
        for week, proof in result.weeks:
            since = self.mob.damaged.get(week, 0.0) > began
            if proof.equal and week in before and week in differs and not since:
                self.world.fault(f"{week} was reconciled as equal, and it differs since before")
            if not proof.equal and week not in differs and week not in self.mob.damaged:
                self.world.fault(f"FALSE ALARM: {week} was reconciled as differing: {proof.differences}")

    def repair(self, week: FiscalWeek | None = None, *, dry: bool | None = None) -> None:
        chosen = week or self.random.choice(WEEKS)
        dry_run = self.random.random() < 0.3 if dry is None else dry
        began = time.monotonic()
        done = self.step(
            f"repair {chosen.name}{' (dry)' if dry_run else ''}",
            lambda: repair_week(self.migration, chosen, dry_run=dry_run),
        )
        if done is None:
            return
        with self.rest():
            if not dry_run and self.mob.damaged.get(chosen, 0.0) < began:
                self.mob.damaged.pop(chosen, None)
            differs = self.look(f"after the repair of {chosen.name}")
        if dry_run and done.differences.rows and chosen not in differs and chosen not in self.mob.damaged:
            self.world.fault(f"FALSE ALARM: a dry repair of {chosen} found {done.differences}")
        if not dry_run and done.differences.rows > 20:
            self.world.fault(f"the repair of {chosen} changed {done.differences}: nobody damages so many")

    def copy(self) -> None:
        week = self.random.choice(WEEKS)
        began = time.monotonic()
        if self.step(f"copy {week.name}", lambda: copy_week(self.migration, week)) is not None:
            with self.rest():
                if self.mob.damaged.get(week, 0.0) < began:
                    self.mob.damaged.pop(week, None)
                self.look(f"after the copy of {week.name}")

    def start(self, *, rebuild: bool = False) -> bool:
        began = time.monotonic()
        name = "rebuild" if rebuild else "start"
        # Between the steps it may be left anyhow; what a started stream has once promised holds from its end on.
        self.mob.following, before = False, self.mob.following
        joined = self.step(name, lambda: start_stream(self.migration, QUARTER, rebuild=rebuild))
        if joined is None:
            # One that stopped half way has cleared the stream away: the next start brings everything.
            self.mob.following = before and self.is_live()
            return False
        self.mob.following = True
        with self.rest():
            # Where the others were under CDC already, only those that joined them were trued up.
            made_equal = {one.week for one in joined.weeks}
            for week in [week for week, at in self.mob.damaged.items() if at < began and week in made_equal]:
                self.mob.damaged.pop(week)
            self.sabotaged = self.sabotaged and joined.how not in {"activated", "rebuilt"}
            self.look(f"after {name} ({joined.how})")
        return True

    def rebuild(self) -> None:
        self.start(rebuild=True)

    def pause_and_resume(self) -> None:
        if self.step("pause", lambda: pause_stream(self.migration, "a person wants to look")) is None:
            return
        time.sleep(self.random.uniform(0, 0.2))  # applications write on meanwhile: this is what is tested
        for _ in range(5):
            if self.step("resume", lambda: resume_stream(self.migration)) is not None:
                return
        self.world.fault("a paused stream could not be resumed")

    def switch(self, *, to: Side, rehearse: bool = False, during: Callable[[str], None] | None = None) -> bool:
        """A cutover or rollback; whether it was done. Applications change their side when they are told."""

        def told(_kind: object, state: object) -> None:
            self.world.note(f"  {state}")
            if str(state) == "switched" and not rehearse:
                self.ask_who_is_in_charge()
            if during is not None:
                during(str(state))

        if to == "base":
            name = "rehearsal" if rehearse else "cutover"
            call = lambda: cut_over(  # noqa: E731
                self.migration, "Ada", rehearse=rehearse, on_state=told,
                confirm="" if rehearse else code_for_cutover(self.migration),
            )  # fmt: skip
        else:
            name, call = (
                "rollback",
                lambda: roll_back(self.migration, "Ada", on_state=told, confirm=code_for_rollback(self.migration)),
            )
        done = self.step(name, call)
        self.require_free(name)
        with self.rest():
            self.look(f"after the {name}")
        if done is not None and not rehearse and self.world.side != to:
            self.world.fault(f"the {name} succeeded, and the {self.world.side} is in charge")
        return self.world.side == to


def _short(text: str | None) -> str:
    return "has no such row" if text is None else text[:90]
