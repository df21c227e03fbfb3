"""The composition root: the only place where the definitions that Dagster loads are put together."""

import dagster as dg

from migration_assets.defs.archives import parquet_archive, restored_slice, retired_slice
from migration_assets.defs.change_stream import change_stream
from migration_assets.defs.checks import (
    drilled_lately,
    lag_within_threshold,
    no_gap_no_overlap,
    nothing_came_late,
    reverse_stream_is_healthy,
    runway_is_sufficient,
    still_stands,
    stream_is_healthy,
    writes_are_accepted,
)
from migration_assets.defs.cutover import cutover_readiness, decommissioned_legacy, legacy_cutover
from migration_assets.defs.jobs import JOBS
from migration_assets.defs.preflight import preflight
from migration_assets.defs.proofs import reconciled_quarter, sign_off, validated_slice
from migration_assets.defs.resources import MIGRATION, MIGRATION_SOURCE, migration_resource, source_resource
from migration_assets.defs.schedules import ongoing_validation, retention
from migration_assets.defs.sensors import change_stream_monitor, quarter_opener, run_failure_alert
from migration_assets.defs.slices import legacy_slice, migrated_slice, quarter_partitions
from migration_assets.runtime import Migration


def build_defs(migration: Migration | None = None) -> dg.Definitions:
    """All assets, checks, jobs, schedules and sensors, with their resources.

    Args:
        migration: The migration that runs work on. By default the settings are read when a run starts, so that the
            definitions load in an empty environment.
    """
    return dg.Definitions(
        assets=[
            preflight,
            quarter_partitions,
            legacy_slice,
            migrated_slice,
            change_stream,
            validated_slice,
            reconciled_quarter,
            sign_off,
            parquet_archive,
            retired_slice,
            restored_slice,
            cutover_readiness,
            legacy_cutover,
            decommissioned_legacy,
        ],
        asset_checks=[
            runway_is_sufficient,
            no_gap_no_overlap,
            stream_is_healthy,
            lag_within_threshold,
            still_stands,
            drilled_lately,
            nothing_came_late,
            writes_are_accepted,
            reverse_stream_is_healthy,
        ],
        jobs=JOBS,
        schedules=[ongoing_validation],
        sensors=[quarter_opener, change_stream_monitor, retention, run_failure_alert],
        resources={MIGRATION: migration_resource(migration), MIGRATION_SOURCE: source_resource(migration)},
        executor=dg.in_process_executor,
    )


defs = build_defs()
