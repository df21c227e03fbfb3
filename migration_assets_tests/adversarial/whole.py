"""How a life begins, and how everything is made whole and proven once the enemies are gone."""

from collections.abc import Callable

from migration_assets.evidence.approval import sign_off_quarter
from migration_assets.preflight.run import examine
from migration_assets.quarters.opening import open_quarter
from migration_assets_tests.adversarial.life import Life
from migration_assets_tests.adversarial.table import QUARTER, run


def begin(life: Life) -> None:
    examined = life.step("preflight", lambda: examine(life.migration))
    assert examined, "preflight failed"
    blocking = [finding for finding in examined.findings if finding.severity.value == "blocking"]
    assert not blocking, blocking
    assert life.step("open", lambda: open_quarter(life.migration, QUARTER)), "the quarter could not be opened"


def started(life: Life) -> None:
    for _ in range(4):
        if life.start():
            return
        life.judge("before another start")  # enemies finish what they have half done
    with life.left_alone():
        if not life.start():
            life.world.fault("the stream could not be started, although nobody did anything to it")


def mend_and_prove(life: Life) -> None:
    """Without enemies everything can be made whole, proven, and signed."""
    with life.rest():
        pass  # a column that an enemy could give to one side alone is gone
    for week in sorted(life.mob.damaged):
        life.repair(week, dry=False)
    life.validate_some()
    life.reconcile()
    for week in sorted(life.mob.damaged):
        life.world.fault(f"{week} could not be repaired")
    if life.step("sign-off", lambda: sign_off_quarter(life.migration, QUARTER, "Ada")) is None:
        life.world.fault("what was proven could not be signed off")


def proven(life: Life) -> None:
    """Ready for a cutover."""
    begin(life)
    started(life)
    ready(life)


def ready(life: Life) -> None:
    """Proven, signed, and analyzed."""
    mend_and_prove(life)
    run(life.world.base_url, "ANALYZE public.bookings")


def some_steps(life: Life, steps: int, *more: Callable[[], object]) -> None:
    """Any of those that every life may take, and of `more`."""
    choices: list[Callable[[], object]] = [
        life.validate_some, life.validate_some, life.reconcile, life.repair, life.copy, life.rebuild,
        life.pause_and_resume, *more,
    ]  # fmt: skip
    for _ in range(steps):
        life.random.choice(choices)()


def cut_over_in_peace(life: Life) -> None:
    """Without enemies the base can be put in charge."""
    if not life.switch(to="base"):
        life.world.fault("without enemies the base could not be put in charge")
