"""The resources of assets, schedules and sensors, and the launchpad's fields for confirming deletions."""

from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg

from migration_assets.domain.confirmation import parse_confirmations
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.runtime import Migration, launched_by, open_migration
from migration_assets.settings import load_settings

MIGRATION = "migration"
MIGRATION_SOURCE = "migration_source"


@dataclass(frozen=True)
class MigrationSource:
    """Opens the migration inside a tick, so that a failure to open it makes the tick skip instead of fail."""

    migration: Migration | None

    def open(self) -> Migration:
        """The migration.

        Raises:
            MigrationError: The settings are wrong, or the embedded servers were never started.
        """
        return self.migration or open_migration(load_settings())


def migration_resource(migration: Migration | None) -> dg.ResourceDefinition:
    """The migration as a resource; without one, the settings are read when a run starts, never when definitions load.

    It is not a configurable resource, because Dagster shows the configuration in the UI, and URLs hold passwords.
    """
    return dg.ResourceDefinition(
        resource_fn=lambda context: _of_run(MigrationSource(migration).open(), context),
        description="Both databases, the table and the fiscal calendar, from MIGRATION_* variables.",
    )


def _of_run(migration: Migration, context: dg.InitResourceContext) -> Migration:
    return launched_by(migration, context.run.tags) if context.run else migration


def source_resource(migration: Migration | None) -> dg.ResourceDefinition:
    """The resource for schedules and sensors, which open the migration themselves."""
    return dg.ResourceDefinition(
        resource_fn=lambda _: MigrationSource(migration), description="Opens the migration inside a tick."
    )


CODE = "The code that a dry run shows. It is valid once, for 15 minutes, as long as what the dry run saw is unchanged."
CODES = CODE + " Several codes may be given, separated by blanks or commas; each week uses its own."
CONFIRM = (
    'How many rows of each week may be deleted, as the refusal states: {"FY25-Q2|W05": 70}. Needs the code that the'
    " refusal shows, as `confirm`."
)
CODE_OF_REFUSAL = (
    "The code that the refusal shows for the numbers in confirm_deletes. It is valid once, for 15 minutes. Several"
    " codes may be given, separated by blanks or commas."
)


def confirmed(config: Mapping[str, int]) -> dict[FiscalWeek, int]:
    """The confirmed rows of each week, from the launchpad's `confirm_deletes`.

    Raises:
        CalendarError: A key is not a week.
    """
    return parse_confirmations(f"{week}={rows}" for week, rows in config.items())
