"""Steps of ours in a process of their own, which may be killed at any moment.

Started once, since imports take a second and a fork takes milliseconds; see `crashes.child`, whose nursery runs it.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.runtime import Migration
from migration_assets.steps.cutover import cut_over, roll_back
from migration_assets.steps.quarters import reconcile_quarter
from migration_assets.steps.streaming import start_stream
from migration_assets.steps.weeks import copy_week, repair_week, validate_week
from migration_assets_tests.adversarial.table import QUARTER, migration_of

Step = Callable[[Migration, FiscalWeek], object]

STEPS: dict[str, Step] = {
    "start": lambda migration, _: start_stream(migration, QUARTER),
    "rebuild": lambda migration, _: start_stream(migration, QUARTER, rebuild=True),
    "copy": copy_week,
    "repair": lambda migration, week: repair_week(migration, week, dry_run=False),
    "validate": validate_week,
    "reconcile": lambda migration, _: reconcile_quarter(migration, QUARTER),
    "cutover": lambda migration, _: cut_over(migration, "Ada", rehearse=False),
    "rollback": lambda migration, _: roll_back(migration, "Ada"),
}


def _work(task: dict[str, Any]) -> NoReturn:
    code = 1
    try:
        settings = task["settings"]
        migration = migration_of(task["legacy_url"], task["base_url"], Path(settings["folder"]))
        STEPS[task["step"]](migration, FiscalWeek.parse(settings["week"]))
        code = 0
    except BaseException as error:  # noqa: BLE001 - whoever started the child looks at it
        Path(task["log"]).write_text(json.dumps({"said": f"{type(error).__name__}: {error}", "failed": True}) + "\n")
    finally:
        os._exit(code)


def serve() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _work(json.loads(line))
        print(json.dumps({"pid": pid}), flush=True)
        print(json.dumps({"status": os.waitpid(pid, 0)[1]}), flush=True)


if __name__ == "__main__":
    serve()
