"""Lives among restarts and outsiders, and of a weak role."""

import psycopg

from migration_assets.stream.holding import resume_stream
from migration_assets_tests.adversarial.definitions import DEFINITIONS
from migration_assets_tests.adversarial.life import Life
from migration_assets_tests.adversarial.outsiders import OUTSIDERS, REFUSED_TO_APPLICATIONS, gone
from migration_assets_tests.adversarial.restarts import RESTARTS
from migration_assets_tests.adversarial.strangers import VANDALS, WRITERS, giant, replica_writer
from migration_assets_tests.adversarial.table import migration_of
from migration_assets_tests.adversarial.weak_roles import ROW_SECURITY, weak_role
from migration_assets_tests.adversarial.whole import (
    begin,
    cut_over_in_peace,
    mend_and_prove,
    ready,
    some_steps,
    started,
)


def restarted(life: Life, steps: int) -> None:
    """Servers stop and start at any moment: of the copies, the stream, a cutover, a rollback."""
    life.world.excused = (psycopg.OperationalError,)
    begin(life)
    life.restless = True
    with life.attacked([*RESTARTS, *RESTARTS, *WRITERS], 1.5):
        life.copy()
        started(life)
        some_steps(life, max(2, steps // 2))
    life.restless = False
    life.step("resume", lambda: resume_stream(life.migration))
    ready(life)
    life.restless = True
    with life.attacked([*RESTARTS, *WRITERS], 2.0):
        for _ in range(2):
            life.switch(to="base" if life.world.side == "legacy" else "legacy")
    life.restless = False
    if life.world.side == "base" and not life.switch(to="legacy"):
        life.world.fault("the legacy could not be put in charge again")
    started(life)
    mend_and_prove(life)


def among_outsiders(life: Life, steps: int) -> None:
    """Other people's publications and subscriptions of the same tables come and go."""
    life.world.excused = REFUSED_TO_APPLICATIONS
    begin(life)
    try:
        with life.attacked([*OUTSIDERS, *OUTSIDERS, replica_writer, giant, *VANDALS], 0.4):
            for _ in range(3):
                if life.start():
                    break
            some_steps(life, steps)
        life.step("resume", lambda: resume_stream(life.migration))
        started(life)
        ready(life)
        with life.attacked([*OUTSIDERS, replica_writer, giant], 0.4):
            if life.switch(to="base"):
                life.switch(to="legacy")
        if life.world.side == "base" and not life.switch(to="legacy"):
            life.world.fault("the legacy could not be put in charge again")
        life.step("resume", lambda: resume_stream(life.migration))
        started(life)
        ready(life)
        cut_over_in_peace(life)
    finally:
        gone(life.mob)


def of_a_weak_role(life: Life, steps: int) -> None:
    """No superuser does the steps, and the table has row security at times, which its owner meets as well."""
    strong = life.migration
    with weak_role(life.mob) as urls:
        life.migration = migration_of(*urls, strong.settings.var)
        life.may_stall = True  # the worker is refused by a table with row security
        begin(life)
        with life.attacked([*ROW_SECURITY, *WRITERS, *VANDALS, *life.random.sample(DEFINITIONS, 3)]):
            for _ in range(3):
                if life.start():
                    break
            some_steps(life, steps)
        life.may_stall = False
        life.step("resume", lambda: resume_stream(life.migration))
        started(life)
        ready(life)
        cut_over_in_peace(life)
        life.judge("in charge")
        if not life.switch(to="legacy"):
            life.world.fault("the legacy could not be put in charge again")
        life.judge("before the role goes")
        life.mob.following = False  # what the role owns changes hands
    life.migration = strong
