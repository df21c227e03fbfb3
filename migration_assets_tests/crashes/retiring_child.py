"""The nursery of `child` with the steps of a week that leaves the base and comes back.

A process of its own, so that the other steps' matrix stays what it is.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta

from migration_assets.retirement.leaving import retire_slice
from migration_assets.retirement.retiring import return_slice
from migration_assets.runtime import Migration
from migration_assets.stream.plan import StreamPlan
from migration_assets_tests.crashes.child import Nursery, nursery, serve
from migration_assets_tests.crashes.steps import STEPS, Step
from migration_assets_tests.ground import week
from migration_assets_tests.retirement.signed_off_quarter import GRACE, NOW, trust

NUMBER = 5
"""The week that comes and goes; no writer touches it."""


def _retire(quarantine: timedelta, now: datetime) -> Callable[[Migration], object]:
    return lambda migration: (
        retire_slice(
            StreamPlan.of(migration, "test"),
            week(NUMBER),
            reread=trust,
            now=now,
            quarantine=quarantine,
            outside_retention=True,
            dry_run=False,
        ).step
    )


LEAVING: dict[str, Step] = {
    "retire": Step(_retire(GRACE, NOW), "archived"),
    "retire at once": Step(_retire(timedelta(), NOW), "archived"),
    "drop": Step(_retire(GRACE, NOW + GRACE), "quarantined"),
    "return": Step(
        lambda migration: return_slice(StreamPlan.of(migration, "test"), week(NUMBER), now=NOW).equal, "quarantined"
    ),
}


def retiring_nursery() -> AbstractContextManager[Nursery]:
    """One whose children know these steps, too."""
    return nursery(__spec__.name)


if __name__ == "__main__":
    STEPS.update(LEAVING)
    serve()
