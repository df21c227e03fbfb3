"""The demo's worker processes: each loads Dagster once and then runs one week after the other."""

from pathlib import Path

from migration_assets.definitions import defs
from migration_assets.defs.runs import RunOutcome, quiet_worker, run_asset, run_week
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek


def prepare(log_folder: Path) -> None:
    """Called once in every new worker."""
    quiet_worker(log_folder / "workers.log")


def ready() -> None:
    """Nothing: whoever waits for it waits for a worker that has loaded Dagster."""


def materialize(asset: str, quarter: FiscalQuarter | None) -> RunOutcome:
    """One run that materializes one asset."""
    return run_asset(defs, asset, quarter)


def migrate(week: FiscalWeek) -> RunOutcome:
    """One run of `migrate_quarter` for one week."""
    return run_week(defs, "migrate_quarter", week)
