"""The demo's worker processes: each loads Dagster once and then runs one week after the other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from migration_assets.definitions import defs
from migration_assets.defs.runs import RunOutcome, quiet_worker, run_alone, run_asset, run_sensor, run_week
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek


def prepare(log_folder: Path) -> None:
    """Called once in every new worker."""
    quiet_worker(log_folder / "workers.log")


def ready() -> None:
    """Nothing: whoever waits for it waits for a worker that has loaded Dagster."""


def materialize(asset: str, quarter: FiscalQuarter | None, config: Mapping[str, Any] | None = None) -> RunOutcome:
    """One run that materializes one asset."""
    return run_asset(defs, asset, quarter, config)


def run_job(job: str, week: FiscalWeek, config: Mapping[str, Mapping[str, Any]] | None = None) -> RunOutcome:
    """One run of a job for one week."""
    return run_week(defs, job, week, config)


def run_plain(job: str, config: Mapping[str, Mapping[str, Any]] | None = None) -> RunOutcome:
    """One run of a job without partitions."""
    return run_alone(defs, job, config)


def tick(sensor: str) -> list[tuple[str, RunOutcome]]:
    """One tick of a sensor, and the runs that it asks for."""
    return run_sensor(defs, sensor)
