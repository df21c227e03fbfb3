"""Steps of ours in a process of their own, which may be killed at any moment; `crashes.child` has its nursery."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from migration_assets.copying.weeks import copy_week, repair_week, validate_week
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.proof.reconciliation import reconcile_quarter
from migration_assets.readiness.step import cut_over, roll_back
from migration_assets.runtime import Migration
from migration_assets.stream.holding import start_stream
from migration_assets_tests.adversarial.table import QUARTER, migration_of
from migration_assets_tests.confirmed_deeds import code_for_cutover, code_for_rollback
from migration_assets_tests.crashes.child import serve
from migration_assets_tests.crashes.trap import Trap

Step = Callable[[Migration, FiscalWeek], object]

STEPS: dict[str, Step] = {
    "start": lambda migration, _: start_stream(migration, QUARTER),
    "rebuild": lambda migration, _: start_stream(migration, QUARTER, rebuild=True),
    "copy": copy_week,
    "repair": lambda migration, week: repair_week(migration, week, dry_run=False),
    "validate": validate_week,
    "reconcile": lambda migration, _: reconcile_quarter(migration, QUARTER),
    "cutover": lambda migration, _: cut_over(migration, "Ada", rehearse=False, confirm=code_for_cutover(migration)),
    "rollback": lambda migration, _: roll_back(migration, "Ada", confirm=code_for_rollback(migration)),
}


def _step(task: dict[str, Any], _trap: Trap) -> str:
    settings = task["settings"]
    migration = migration_of(task["legacy_url"], task["base_url"], Path(settings["folder"]))
    STEPS[task["step"]](migration, FiscalWeek.parse(settings["week"]))
    return "done"


if __name__ == "__main__":
    serve(_step)
