"""What lives are made of; one seed is one life. Belongs here: the order of things. What a step is stands in `life`."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psycopg

from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.steps.approval import sign_off_quarter
from migration_assets.steps.examination import examine
from migration_assets.steps.opening import open_quarter
from migration_assets_tests.adversarial.applications import World, applications
from migration_assets_tests.adversarial.definitions import DEFINITIONS, HARMLESS_IN_CHARGE
from migration_assets_tests.adversarial.judge import rows_of
from migration_assets_tests.adversarial.life import FaultFound, Life
from migration_assets_tests.adversarial.mob import Deed, Mob
from migration_assets_tests.adversarial.strangers import KILLERS, VANDALS, WRITERS, out_of_range
from migration_assets_tests.adversarial.table import QUARTER, create_table, migration_of, run
from migration_assets_tests.convergence.ordeal import fresh_databases


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

    def __str__(self) -> str:
        return (
            f"seed {self.seed:>10} {self.kind}: {self.steps} steps, {self.refusals} refused, acknowledged"
            f" {self.acknowledged}, {self.rows} rows equal, {self.seconds:.1f} s"
        )


def live(servers: EmbeddedServers, seed: int, *, steps: int = 8) -> Lived:
    """Run one life on databases of its own.

    Raises:
        AssertionError: Somebody found a fault; with everything that happened.
    """
    random = Random(seed)
    kind = random.choice(sorted(KINDS))
    began = time.monotonic()
    with fresh_databases(servers) as urls, tempfile.TemporaryDirectory(prefix="life-") as folder:
        create_table(urls[0])
        world = World(*urls)
        world.journal.begin(rows_of(world.legacy_url).items())
        mob = Mob(world, Random(f"{seed}/mob"))
        life = Life(migration_of(*urls, Path(folder)), world, mob, random)
        world.note(f"seed {seed}, {kind}")
        try:
            with applications(world, seed) as life.crowd:
                KINDS[kind](life, steps)
                life.judge("in the end")
            rows = len(rows_of(world.url()))
        except FaultFound as error:
            raise AssertionError(_told(life, seed)) from error
        except Exception as error:
            world.fault(f"the life ended with {error!r}")
            raise AssertionError(_told(life, seed)) from error
        finally:
            mob.close(all_of_them=True)  # a prepared transaction would keep the database
    if world.faults:
        raise AssertionError(_told(life, seed))
    return Lived(seed, kind, time.monotonic() - began, life.done, life.refusals, dict(world.journal.acknowledged), rows)


def _told(life: Life, seed: int) -> str:
    faults = "\n".join(f"- {fault}" for fault in life.world.faults)
    return f"seed {seed}: {len(life.world.faults)} faults:\n{faults}\n\n" + "\n".join(life.world.lines)


def _begin(life: Life) -> None:
    examined = life.step("preflight", lambda: examine(life.migration))
    assert examined, "preflight failed"
    blocking = [finding for finding in examined.findings if finding.severity.value == "blocking"]
    assert not blocking, blocking
    assert life.step("open", lambda: open_quarter(life.migration, QUARTER)), "the quarter could not be opened"


def _started(life: Life) -> None:
    for _ in range(4):
        if life.start():
            return
    life.world.fault("the stream could not be started in four tries")


def _mend_and_prove(life: Life) -> None:
    """Without enemies everything can be made whole, proven, and signed."""
    for week in sorted(life.mob.damaged):
        life.repair(week, dry=False)
    life.validate_some()
    life.reconcile()
    for week in sorted(life.mob.damaged):
        life.world.fault(f"{week} could not be repaired")
    if life.step("sign-off", lambda: sign_off_quarter(life.migration, QUARTER, "Ada")) is None:
        life.world.fault("what was proven could not be signed off")


def following(life: Life, steps: int) -> None:
    """The base follows; enemies alter definitions, write strangely, damage the base, and end sessions."""
    _begin(life)
    deeds: list[Deed] = [*DEFINITIONS, *WRITERS, *(VANDALS if life.random.random() < 0.5 else ())]
    if life.random.random() < 0.3:
        deeds, life.restless = [*deeds, *KILLERS], True
        life.world.excused = (psycopg.OperationalError,)
    with life.attacked(life.random.sample(deeds, min(len(deeds), 9))):
        life.copy()
        _started(life)
        choices: dict[Callable[[], None], int] = {
            life.validate_some: 5,
            life.reconcile: 3,
            life.repair: 3,
            life.copy: 3,
            life.pause_and_resume: 1,
            lambda: life.start(rebuild=True) and None: 1,
        }
        for _ in range(steps):
            life.random.choices(list(choices), list(choices.values()))[0]()
    life.restless = False
    _mend_and_prove(life)


def switching(life: Life, steps: int) -> None:
    """Cutovers and rollbacks, with writers by every way at every state."""
    _begin(life)
    _started(life)
    _mend_and_prove(life)
    run(life.world.base_url, "ANALYZE public.bookings")
    deeds: list[Deed] = [*HARMLESS_IN_CHARGE, *WRITERS, *WRITERS]
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
    if not life.switch(to=target):
        life.world.fault(f"without enemies the {target} could not be put in charge")


def late_strays(life: Life, _steps: int) -> None:
    """Rows that no open week takes, acknowledged while a cutover waits or holds: named, never lost."""
    _begin(life)
    _started(life)
    _mend_and_prove(life)
    run(life.world.base_url, "ANALYZE public.bookings")
    at = life.random.choice(["begun", "waiting", "held", "drained"])
    strays: list[str] = []

    def during(state: str) -> None:
        if state == at:
            strays.append(out_of_range(life.mob))
            life.world.note(f"  stray {strays[-1]}")

    life.switch(to="base", during=during)
    if life.world.side == "base":
        life.judge("with a stray")


KINDS: dict[str, Callable[[Life, int], None]] = {
    "following": following,
    "switching": switching,
    "late strays": late_strays,
}
