"""The nursery of `child` with the steps of a week that leaves the base and comes back.

A process of its own, so that the other steps' matrix stays what it is.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from migration_assets.postgres.retirement import retire_slice
from migration_assets.postgres.returning import return_slice
from migration_assets.runtime import Migration
from migration_assets_tests.crashes.child import Nursery, _serve  # pyright: ignore[reportPrivateUsage]
from migration_assets_tests.crashes.steps import STEPS, Step
from migration_assets_tests.postgres.retiring import GRACE, NOW, trust
from migration_assets_tests.postgres.support import week

NUMBER = 5
"""The week that comes and goes; no writer touches it."""


def _retire(quarantine: timedelta, now: datetime) -> Callable[[Migration], object]:
    return lambda migration: (
        retire_slice(
            migration.stream_plan("test"),
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
        lambda migration: return_slice(migration.stream_plan("test"), week(NUMBER), now=NOW).equal, "quarantined"
    ),
}


@contextmanager
def retiring_nursery() -> Generator[Nursery]:
    """A running one; it and its last child are gone at the end."""
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, "-m", __spec__.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            assert process.stdout.readline(), "the nursery did not start: its error is above"
            yield Nursery(Path(folder), process)
        finally:
            process.kill()


if __name__ == "__main__":
    STEPS.update(LEAVING)
    _serve()
