"""The composition root: everything that Dagster loads, and the only place where it is put together."""

import dagster as dg

from migration_assets.defs.assets.legacy_slice import legacy_slice
from migration_assets.defs.assets.migrated_slice import migrated_slice
from migration_assets.defs.assets.preflight import preflight
from migration_assets.defs.assets.quarter_partitions import quarter_partitions
from migration_assets.defs.jobs import migrate_quarter, verify_slices
from migration_assets.defs.resources import MIGRATION, migration_resource
from migration_assets.runtime import Migration


def build_defs(migration: Migration | None = None) -> dg.Definitions:
    """All definitions.

    Args:
        migration: What runs work on; by default the settings are read when a run starts, so that definitions load in
            an empty environment.
    """
    return dg.Definitions(
        assets=[preflight, quarter_partitions, legacy_slice, migrated_slice],
        jobs=[migrate_quarter, verify_slices],
        resources={MIGRATION: migration_resource(migration)},
        executor=dg.in_process_executor,
    )


defs = build_defs()
