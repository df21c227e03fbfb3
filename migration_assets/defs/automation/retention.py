"""Archives what is due by itself, and retires it where the settings say so."""

from collections.abc import Iterator, Mapping

import dagster as dg
import psycopg

from migration_assets.defs.assets.parquet_archive import parquet_archive
from migration_assets.defs.assets.retired_slice import retired_slice
from migration_assets.defs.partitions import partition_key, register_quarters
from migration_assets.defs.resources import MigrationSource
from migration_assets.defs.runs import UNFINISHED
from migration_assets.domain.errors import MigrationError
from migration_assets.postgres.server_messages import told
from migration_assets.retirement.policy import DueWeek, Step, due_weeks
from migration_assets.runtime import Migration

EVERY_SECONDS = 15 * 60


@dg.sensor(  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    asset_selection=[parquet_archive, retired_slice],
    minimum_interval_seconds=EVERY_SECONDS,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description=(
        "Launches parquet_archive for signed-off weeks older than MIGRATION_RETENTION_QUARTERS (while the base is in"
        " charge: for all weeks of that age), and again for those that received a late booking since."
        " Only with MIGRATION_AUTO_RETIRE it also lets archived weeks leave the"
        " base, and drops them when their quarantine is over. A week whose run failed is tried again once a day."
    ),
)
def retention(
    context: dg.SensorEvaluationContext, migration_source: dg.ResourceParam[MigrationSource]
) -> dg.SensorResult | dg.SkipReason:
    """One look at what is due."""
    try:
        migration = migration_source.open()
        due = due_weeks(migration)
    except (MigrationError, psycopg.OperationalError) as error:
        return dg.SkipReason(f"nothing can be looked at: {told(error)}")
    if not due.weeks:
        return dg.SkipReason(due.why_nothing)
    busy = _busy(context.instance)
    requests = list(_requests(migration, [one for one in due.weeks if partition_key(one.week) not in busy]))
    if not requests:
        return dg.SkipReason(f"{len(due.weeks)} weeks are due, and all of them are being worked on")
    register_quarters(context.instance, {one.week.quarter for one in due.weeks})
    return dg.SensorResult(run_requests=requests)


def _requests(migration: Migration, weeks: list[DueWeek]) -> Iterator[dg.RunRequest]:
    today = f"{migration.now():%Y-%m-%d}"
    for one in weeks:
        asset, config = _asset_of(one)
        yield dg.RunRequest(
            # What is due for another reason than before is due at once; a failure is tried again tomorrow.
            run_key=f"{one.step.value}:{one.week.key}:{one.why}:{today}",
            partition_key=partition_key(one.week),
            asset_selection=[asset.key],
            run_config={"ops": {asset.op.name: {"config": config}}} if config else {},
            tags={"migration_assets/why": one.why[:200]},
        )


def _asset_of(one: DueWeek) -> tuple[dg.AssetsDefinition, Mapping[str, object]]:
    if one.step is Step.ARCHIVE:
        return parquet_archive, {}
    return retired_slice, {"dry_run": False}


def _busy(instance: dg.DagsterInstance) -> set[str]:
    runs = instance.get_runs(filters=dg.RunsFilter(statuses=UNFINISHED))
    return {run.tags.get("dagster/partition", "") for run in runs}
