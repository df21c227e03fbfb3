"""What lives are made of; one seed is one life. Belongs here: the order of things. What a step is stands in `life`."""

import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random

import psycopg

from migration_assets.archive.archiving import archive_week
from migration_assets.domain.samples import ProblemCode
from migration_assets.domain.states import SliceState
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.preflight.run import examine
from migration_assets.quarters.opening import open_quarter
from migration_assets.readiness.step import cut_over
from migration_assets.retirement.retiring import bring_back
from migration_assets.stream.holding import resume_stream, start_stream
from migration_assets.watch.watching import observe
from migration_assets_tests.adversarial import child
from migration_assets_tests.adversarial.ageing import AGED, ageing
from migration_assets_tests.adversarial.applications import World, applications, standing_still
from migration_assets_tests.adversarial.definitions import DEFINITIONS, HARMLESS_IN_CHARGE, reorganise_base, storage
from migration_assets_tests.adversarial.further_lives import among_outsiders, of_a_weak_role, restarted
from migration_assets_tests.adversarial.hostile_settings import hostile_setting, reset_all
from migration_assets_tests.adversarial.judge import rows_of
from migration_assets_tests.adversarial.life import FaultFound, Life
from migration_assets_tests.adversarial.mob import Deed, Mob
from migration_assets_tests.adversarial.sabotage import SABOTAGES, Sabotage, hands_off
from migration_assets_tests.adversarial.strangers import (
    FIRST_STRANGE,
    KILLERS,
    VANDALS,
    WRITERS,
    late_in,
    out_of_range,
    replica_writer,
)
from migration_assets_tests.adversarial.table import QUARTER, WEEKS, create_table, migration_of, run
from migration_assets_tests.adversarial.whole import begin, mend_and_prove, proven, started
from migration_assets_tests.confirmed_deeds import code_for_cutover, let_leave
from migration_assets_tests.convergence.ordeal import fresh_databases
from migration_assets_tests.crashes.child import nursery

Play = Callable[[Life, int], None]


@dataclass(frozen=True)
class Lived:
    """What became of one seed."""

    seed: int
    kind: str
    seconds: float
    steps: int
    refusals: int
    acknowledged: dict[str, int]
    rows: int
    told: str = field(repr=False)

    def __str__(self) -> str:
        return (
            f"seed {self.seed:>10} {self.kind}: {self.steps} steps, {self.refusals} refused, acknowledged"
            f" {self.acknowledged}, {self.rows} rows equal, {self.seconds:.1f} s"
        )


def live(
    servers: EmbeddedServers, seed: int, *, kind: str | None = None, steps: int = 8, play: Play | None = None
) -> Lived:
    """Run one life on databases of its own.

    Raises:
        AssertionError: Somebody found a fault; with everything that happened.
    """
    random = Random(seed)
    if kind is None and seed in SABOTEURS:
        kind, play = "sabotaged", partial(sabotaged, deed=SABOTEURS[seed])
    kind = kind or random.choice(sorted(KINDS if seed >= FIRST_OF_ANY_KIND else FIRST_KINDS))
    began = time.monotonic()
    with fresh_databases(servers) as urls, tempfile.TemporaryDirectory(prefix="life-") as folder:
        create_table(urls[0])
        world = World(*urls, servers)
        world.journal.begin(rows_of(world.legacy_url).items())
        mob = Mob(world, Random(f"{seed}/mob"))
        life = Life(migration_of(*urls, Path(folder)), world, mob, random)
        world.note(f"seed {seed}, {kind}")
        try:
            with applications(world, seed) as life.crowd:
                (play or KINDS[kind])(life, steps)
                life.judge("in the end")
            rows = len(rows_of(world.url()))
        except FaultFound as error:
            raise AssertionError(told(life, seed)) from error
        except Exception as error:
            world.fault(f"the life ended with {error!r}")
            raise AssertionError(told(life, seed)) from error
        finally:
            mob.close(all_of_them=True)  # a prepared transaction would keep the database
    if world.faults:
        raise AssertionError(told(life, seed))
    acknowledged = dict(world.journal.acknowledged)
    return Lived(seed, kind, time.monotonic() - began, life.done, life.refusals, acknowledged, rows, told(life, seed))


def told(life: Life, seed: int) -> str:
    faults = "\n".join(f"- {fault}" for fault in life.world.faults)
    return f"seed {seed}: {len(life.world.faults)} faults:\n{faults}\n\n" + "\n".join(life.world.lines)


def following(life: Life, steps: int) -> None:
    """The base follows; enemies alter definitions, write strangely, damage the base, and end sessions."""
    begin(life)
    deeds: list[Deed] = [*DEFINITIONS, *WRITERS, *(VANDALS if life.random.random() < 0.5 else ())]
    if life.random.random() < 0.3:
        deeds, life.restless = [*deeds, *KILLERS], True
        life.world.excused = (psycopg.OperationalError,)
    with life.attacked(life.random.sample(deeds, min(len(deeds), 9))):
        life.copy()
        started(life)
        choices: dict[Callable[[], None], int] = {
            life.validate_some: 5,
            life.reconcile: 3,
            life.repair: 3,
            life.copy: 3,
            life.pause_and_resume: 1,
            life.rebuild: 1,
        }
        for _ in range(steps):
            life.random.choices(list(choices), list(choices.values()))[0]()
    life.restless = False
    started(life)
    mend_and_prove(life)


def switching(life: Life, steps: int) -> None:
    """Cutovers and rollbacks, with writers by every way at every state."""
    proven(life)
    # Whoever rewrites the table makes its proofs stale, so that most of such a life's cutovers are refused.
    deeds: list[Deed] = [*WRITERS, *(HARMLESS_IN_CHARGE if life.random.random() < 0.4 else (reorganise_base, storage))]
    if life.random.random() < 0.3:
        deeds, life.restless = [*deeds, *KILLERS], True
        life.world.excused = (psycopg.OperationalError,)
    with life.attacked(deeds, 0.15):
        for _ in range(max(2, steps // 3)):
            target = "base" if life.world.side == "legacy" else "legacy"
            if target == "base" and life.random.random() < 0.3:
                life.switch(to="base", rehearse=True)
            life.switch(to=target)
    life.restless = False
    target = "base" if life.world.side == "legacy" else "legacy"
    if target == "base":
        mend_and_prove(life)
    if not life.switch(to=target):
        life.world.fault(f"without enemies the {target} could not be put in charge")


def late_strays(life: Life, _steps: int) -> None:
    """Rows that no open week takes, acknowledged while a cutover waits or holds: named, never lost."""
    proven(life)
    at = life.random.choice(["begun", "waiting", "waiting", "held", "drained"])
    before = set(life.world.journal.allowed)

    def during(state: str) -> None:
        if state == at:
            life.world.note(f"  stray at {state}: {out_of_range(life.mob)}")

    if not life.switch(to="base", during=during):
        with life.rest():
            for key in set(life.world.journal.allowed) - before:
                if key >= FIRST_STRANGE:
                    run(life.world.legacy_url, f"DELETE FROM public.bookings WHERE id = {key}")
                    life.world.journal.commit("legacy", {key: None})
        if not life.switch(to="base"):
            life.world.fault("without the stray the base could not be put in charge")


def hostile(life: Life, steps: int) -> None:
    """Databases and roles whose settings change what a query sees, or whether it works at all."""
    mob = life.mob
    for _ in range(2):
        life.world.note(f"  enemy: {hostile_setting(mob)}")
    examined = life.step("preflight", lambda: examine(life.migration))
    if examined is None or any(finding.severity.value == "blocking" for finding in examined.findings):
        life.world.note("preflight blocks; the settings go")
        reset_all(mob)
    life.may_stall = True
    begin(life)
    with life.attacked([hostile_setting, *VANDALS, replica_writer], 1.0):
        for _ in range(3):
            if life.start():
                break
        choices = (life.validate_some, life.reconcile, life.repair, life.copy, life.pause_and_resume)
        for _ in range(max(2, steps // 2)):
            life.random.choice(choices)()
    reset_all(mob)
    life.may_stall = False
    life.step("resume", lambda: resume_stream(life.migration))
    started(life)
    mend_and_prove(life)


def killed(life: Life, steps: int) -> None:
    """kill -9 of our process at any moment of any step; whoever comes next makes everything whole."""
    proven(life)
    with nursery(child.__name__) as children:
        for _ in range(max(3, steps)):
            kinds = ["cutover"] * 4 if life.world.side == "legacy" else ["rollback"] * 4
            if life.world.side == "legacy":
                kinds += ["rebuild", "copy", "repair", "validate", "reconcile"]
            life.killed_step(children, life.random.choice(kinds))
            target = "base" if life.world.side == "legacy" else "legacy"
            if life.random.random() < 0.3:
                life.switch(to=target)
    if life.world.side == "base" and not life.switch(to="legacy"):
        life.world.fault("the legacy could not be put in charge again")
    life.step("resume", lambda: resume_stream(life.migration))
    started(life)
    mend_and_prove(life)


def sabotaged(life: Life, _steps: int, *, deed: Sabotage | None = None) -> None:
    """Somebody lays hands on the stream itself: no proof and no cutover hides what is lost, and a rebuild mends it."""
    proven(life)
    deed = deed or life.random.choice(SABOTAGES)
    life.world.note(f"  enemy: {deed.__name__}")
    # Applications fail where the saboteur broke the legacy's own publication: that is not ours.
    life.world.excused = (psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.InvalidTextRepresentation)
    with life.rest():
        deed(life.mob)
    life.may_stall = True
    life.sabotaged = True
    with life.rest():
        differs = life.look("after the sabotage")
    # Proofs from before it may still be signed for until they are too old, as after any damage: what is asked from now
    # on must be true.
    life.mob.damaged.update(dict.fromkeys(differs, time.monotonic()))
    observed = life.step("observe", lambda: observe(life.migration))
    names = ", ".join(week.name for week in sorted(differs))
    problems = ", ".join(str(problem.code) for problem in observed.problems) if observed else "not to be seen"
    life.world.note(f"  differs: {names or 'nothing'}; problems: {problems or 'none'}")
    if life.switch(to="base"):
        with life.rest():
            if life.look("after a cutover under sabotage"):
                life.world.fault(f"after {deed.__name__} a cutover succeeded over differences")
        life.switch(to="legacy")
    for week in [*sorted(differs)[:1], life.random.choice(WEEKS)]:
        life.validate(week)
    if life.world.side == "base":
        return
    # While the hand is on it, a rebuild may be refused, or be undone by what comes next.
    life.step("rebuild under sabotage", lambda: start_stream(life.migration, QUARTER, rebuild=True))
    with life.rest():
        hands_off(life.mob)
    if not life.start(rebuild=True):
        _give_leaves_back(life)
        if not life.start(rebuild=True):
            life.world.fault(f"no rebuild was possible after {deed.__name__}")
    life.may_stall = False
    life.judge("after the rebuild")
    mend_and_prove(life)


def _give_leaves_back(life: Life) -> None:
    """As the refusal of a rebuild says: what is gone is made again, what was detached is attached as the alert says."""
    if life.step("open again", lambda: open_quarter(life.migration, QUARTER)) is not None:
        return
    observed = life.step("observe", lambda: observe(life.migration))
    for problem in observed.problems if observed else ():
        if problem.code is ProblemCode.LEAF_MISSING:
            run(life.world.base_url, *re.findall(r"ALTER TABLE [^;]+;", problem.what))


def leaving(life: Life, _steps: int) -> None:
    """A week leaves for the archive; what is written into it on the legacy afterwards is never forgotten."""
    proven(life)
    week = WEEKS[0]
    life.migration = replace(life.migration, settings=life.migration.settings.model_copy(update=AGED))
    with life.rest():
        life.step("archive", lambda: archive_week(life.migration, week))
        life.mob.archived = life.rows_in(week)
        for _ in range(2):
            life.step("retire", lambda: let_leave(life.migration, week))
        if life.states()[week] != SliceState.RETIRED:
            life.world.fault(f"{week} could not be retired: it is {life.states()[week]}")
            return
    late = life.random.choice(["before", "waiting", "held"])

    def during(state: str) -> None:
        if state == late:
            life.world.note(f"  late at {state}: {late_in(life.mob, week)}")

    with standing_still(life.crowd):
        if late == "before":
            life.world.note(f"  late: {late_in(life.mob, week)}")
        done = life.step("cutover", lambda: cut_over(
            life.migration, "Ada", rehearse=False, confirm=code_for_cutover(life.migration),
            on_state=lambda _, state: during(str(state))))  # fmt: skip
        life.ask_who_is_in_charge()
        life.look_at_journal("after the cutover")
    if done is not None:
        return
    life.step("bring back", lambda: bring_back(life.migration, week))
    life.mob.archived = {}
    started(life)
    mend_and_prove(life)
    if not life.switch(to="base"):
        life.world.fault("with the week back the base could not be put in charge")


FIRST_KINDS: dict[str, Play] = {
    "following": following,
    "switching": switching,
    "late strays": late_strays,
    "hostile": hostile,
    "killed": killed,
    "sabotaged": sabotaged,
    "leaving": leaving,
}
KINDS: dict[str, Play] = {
    **FIRST_KINDS,
    "restarted": restarted,
    "among outsiders": among_outsiders,
    "of a weak role": of_a_weak_role,
    "ageing": ageing,
}
# Seeds below had their lives before there were more kinds, and keep them.
FIRST_OF_ANY_KIND = 45
SABOTEURS: dict[int, Sabotage] = {1001 + number: deed for number, deed in enumerate(SABOTAGES)}
"""Seeds of their own, one for each way to lay hands on the stream."""
