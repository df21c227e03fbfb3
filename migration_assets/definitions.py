"""The composition root: everything that Dagster loads, and the only place where it is put together."""

import dagster as dg

from migration_assets.defs.assets.change_stream import change_stream
from migration_assets.defs.assets.cutover_readiness import cutover_readiness
from migration_assets.defs.assets.decommissioned_legacy import decommissioned_legacy
from migration_assets.defs.assets.legacy_cutover import legacy_cutover
from migration_assets.defs.assets.legacy_slice import legacy_slice
from migration_assets.defs.assets.migrated_slice import migrated_slice
from migration_assets.defs.assets.parquet_archive import parquet_archive
from migration_assets.defs.assets.preflight import preflight
from migration_assets.defs.assets.quarter_partitions import quarter_partitions
from migration_assets.defs.assets.reconciled_quarter import reconciled_quarter
from migration_assets.defs.assets.restored_slice import restored_slice
from migration_assets.defs.assets.retired_slice import retired_slice
from migration_assets.defs.assets.sign_off import sign_off
from migration_assets.defs.assets.validated_slice import validated_slice
from migration_assets.defs.automation.quarter_opener import quarter_opener
from migration_assets.defs.automation.retention import retention
from migration_assets.defs.automation.run_failures import run_failure_alert
from migration_assets.defs.automation.schedules import ongoing_validation
from migration_assets.defs.automation.sensors import change_stream_monitor
from migration_assets.defs.checks.archives import drilled_lately, nothing_came_late
from migration_assets.defs.checks.cutover import reverse_stream_is_healthy, writes_are_accepted
from migration_assets.defs.checks.runway import no_gap_no_overlap, runway_is_sufficient
from migration_assets.defs.checks.slices import lag_within_threshold, still_stands, stream_is_healthy
from migration_assets.defs.jobs.of_assets import JOBS
from migration_assets.defs.resources import MIGRATION, MIGRATION_SOURCE, migration_resource, source_resource
from migration_assets.runtime import Migration


def build_defs(migration: Migration | None = None) -> dg.Definitions:
    """All definitions.

    Args:
        migration: What runs work on; by default the settings are read when a run starts, so that definitions load in
            an empty environment.
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
