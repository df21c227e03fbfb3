"""What assets are given to work with."""

import dagster as dg

from migration_assets.runtime import Migration, open_migration
from migration_assets.settings import load_settings

MIGRATION = "migration"


def migration_resource(migration: Migration | None) -> dg.ResourceDefinition:
    """The migration itself; without one the settings are read when a run starts, never when definitions load.

    It is no configurable resource on purpose: what such a one holds is shown in the UI, and URLs hold passwords.
    """
    return dg.ResourceDefinition(
        resource_fn=lambda _: migration or open_migration(load_settings()),
        description="Both databases, the table and the fiscal calendar, from MIGRATION_* variables.",
    )
