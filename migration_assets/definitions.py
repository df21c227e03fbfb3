"""The composition root: everything that Dagster loads, and the only place where it is put together."""

import dagster as dg

from migration_assets.defs.assets.change_stream import change_stream
from migration_assets.defs.assets.legacy_slice import legacy_slice
from migration_assets.defs.assets.migrated_slice import migrated_slice
from migration_assets.defs.assets.preflight import preflight
from migration_assets.defs.assets.quarter_partitions import quarter_partitions
from migration_assets.defs.assets.reconciled_quarter import reconciled_quarter
from migration_assets.defs.assets.sign_off import sign_off
from migration_assets.defs.assets.validated_slice import validated_slice
from migration_assets.defs.checks import lag_within_threshold, still_stands, stream_is_healthy
from migration_assets.defs.jobs import migrate_quarter, repair_slices, validate_slices, verify_slices
from migration_assets.defs.resources import MIGRATION, MIGRATION_SOURCE, migration_resource, source_resource
from migration_assets.defs.run_failures import run_failure_alert
from migration_assets.defs.schedules import ongoing_validation
from migration_assets.defs.sensors import change_stream_monitor
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
        ],
        asset_checks=[stream_is_healthy, lag_within_threshold, still_stands],
        jobs=[migrate_quarter, verify_slices, validate_slices, repair_slices],
        schedules=[ongoing_validation],
        sensors=[change_stream_monitor, run_failure_alert],
        resources={MIGRATION: migration_resource(migration), MIGRATION_SOURCE: source_resource(migration)},
        executor=dg.in_process_executor,
    )


defs = build_defs()
