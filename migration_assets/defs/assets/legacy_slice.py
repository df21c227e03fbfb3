"""What of one week is to be moved."""

from typing import Any

import dagster as dg

from migration_assets.copying.weeks import measure_week
from migration_assets.defs.assets.quarter_partitions import quarter_partitions
from migration_assets.defs.failures import readable_failures
from migration_assets.defs.labels import KINDS, OWNERS, PREPARE
from migration_assets.defs.metadata import measure_metadata
from migration_assets.defs.partitions import fiscal_weeks, quarter_of_its_weeks, week_of
from migration_assets.runtime import LEGACY_READ_POOL, Migration


class LegacySliceConfig(dg.Config):
    """How to measure."""

    exact: bool = False
    """Read the slice to count rows and bytes, instead of asking the planner."""


@dg.asset(
    group_name=PREPARE,
    owners=OWNERS,
    kinds=KINDS,
    partitions_def=fiscal_weeks,
    deps=[dg.AssetDep(quarter_partitions, partition_mapping=quarter_of_its_weeks)],
    description=(
        "What the legacy holds of the week: rows, bytes, first and last value, predicted duration against the window."
        " Reads next to nothing unless `exact` is set."
    ),
    pool=LEGACY_READ_POOL,
)
def legacy_slice(
    context: dg.AssetExecutionContext, config: LegacySliceConfig, migration: dg.ResourceParam[Migration]
) -> dg.MaterializeResult[Any]:
    """Measure the slice."""
    settings = migration.settings
    with readable_failures():
        measure = measure_week(migration, week_of(context), exact=config.exact)
    return dg.MaterializeResult(
        metadata=measure_metadata(
            measure, window_hours=settings.window_hours, target_gb_per_hour=settings.target_gb_per_hour
        )
    )
