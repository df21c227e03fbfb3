"""Runs jobs and assets in this process and records the runs in the Dagster instance like any other run."""

import atexit
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg

from migration_assets.defs.partitions import partition_key
from migration_assets.defs.resources import MIGRATION_SOURCE, MigrationSource
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek

_STATEMENT_SECONDS = 120
_MOST_CONNECTIONS = 20

UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
"""States of a run that is not over."""


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended; `error` is the message of its first failed step."""

    run_id: str
    success: bool
    error: str = ""


def run_week(
    definitions: dg.Definitions, job: str, week: FiscalWeek, config: Mapping[str, Mapping[str, Any]] | None = None
) -> RunOutcome:
    """Run a job for one week; `config` maps its assets to their configuration."""
    arguments: dict[str, Any] = {"partition_key": partition_key(week)}
    return _run(definitions.resolve_job_def(job), arguments | _configured(config))


def run_alone(
    definitions: dg.Definitions, job: str, config: Mapping[str, Mapping[str, Any]] | None = None
) -> RunOutcome:
    """Run a job that has no partitions; `config` maps its ops to their configuration."""
    return _run(definitions.resolve_job_def(job), _configured(config))


def run_asset(
    definitions: dg.Definitions,
    asset: str,
    quarter: FiscalQuarter | None = None,
    config: Mapping[str, Any] | None = None,
) -> RunOutcome:
    """Materialize one asset in one run; `quarter` is for an asset that is partitioned by quarter."""
    job = definitions.resolve_implicit_global_asset_job_def()
    arguments: dict[str, Any] = {"asset_selection": [dg.AssetKey(asset)]}
    arguments |= {"partition_key": quarter.key} if quarter else {}
    return _run(job, arguments | _configured({asset: config} if config else None))


def run_sensor(definitions: dg.Definitions, sensor: str) -> list[tuple[str, RunOutcome]]:
    """Evaluate a sensor once and execute the runs that it requests, one after the other, as Dagster's daemon would.

    Returns:
        Partition and outcome of each run; empty if the sensor skipped.
    """
    job, instance = definitions.resolve_implicit_global_asset_job_def(), _lasting_instance()
    with dg.build_sensor_context(instance=instance, resources={MIGRATION_SOURCE: MigrationSource(None)}) as context:
        result = definitions.resolve_sensor_def(sensor)(context)
        if not isinstance(result, dg.SensorResult):
            return []
        for request in result.dynamic_partitions_requests or []:
            instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
        return [(str(request.partition_key), _run(job, _arguments(request))) for request in result.run_requests or []]


def _arguments(request: dg.RunRequest) -> dict[str, Any]:
    return {
        "partition_key": request.partition_key,
        "asset_selection": list(request.asset_selection or []),
        "run_config": dict(request.run_config),
        "tags": dict(request.tags),
    }


def _configured(config: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any]:
    if not config:
        return {}
    return {"run_config": {"ops": {asset: {"config": dict(values)} for asset, values in config.items()}}}


@cache
def _lasting_instance() -> dg.DagsterInstance:
    """The instance, opened once a process with pooled connections.

    One run writes to Dagster's storage about ninety times. By default Dagster opens a connection for each write, which
    costs more than everything else in the run of a small week. Dagster's web server asks for pooled connections by the
    same call.
    """
    instance = dg.DagsterInstance.get()
    instance.optimize_for_webserver(
        statement_timeout=_STATEMENT_SECONDS * 1000, pool_recycle=3600, max_overflow=_MOST_CONNECTIONS
    )
    atexit.register(instance.dispose)
    return instance


def _run(job: dg.JobDefinition, arguments: Mapping[str, Any]) -> RunOutcome:
    result = job.execute_in_process(instance=_lasting_instance(), raise_on_error=False, **arguments)
    return RunOutcome(result.run_id, result.success, "" if result.success else _first_error(result))


def _first_error(result: dg.ExecuteInProcessResult) -> str:
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data and data.user_failure_data.description:
                return data.user_failure_data.description
            return data.error.to_string() if data.error else "the step failed"
    return "the run failed before its first step"


def quiet_worker(log_file: Path) -> None:
    """Send everything that this worker process prints to a file."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    target = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
