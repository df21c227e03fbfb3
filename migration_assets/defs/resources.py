"""What assets, schedules and sensors are given to work with, and the fields with which a person confirms a deed."""

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
    """The migration for a tick, opened inside it: what cannot be opened is a tick's reason to skip, not its error."""

    migration: Migration | None

    def open(self) -> Migration:
        """The migration.

        Raises:
            MigrationError: The settings are wrong, or the embedded servers were never started.
        """
        return self.migration or open_migration(load_settings())


def migration_resource(migration: Migration | None) -> dg.ResourceDefinition:
    """The migration itself; without one the settings are read when a run starts, never when definitions load.

    It is no configurable resource on purpose: what such a one holds is shown in the UI, and URLs hold passwords.
    """
    return dg.ResourceDefinition(
        resource_fn=lambda context: _of_run(MigrationSource(migration).open(), context),
        description="Both databases, the table and the fiscal calendar, from MIGRATION_* variables.",
    )


def _of_run(migration: Migration, context: dg.InitResourceContext) -> Migration:
    return launched_by(migration, context.run.tags) if context.run else migration


def source_resource(migration: Migration | None) -> dg.ResourceDefinition:
    """The same for schedules and sensors, not opened yet."""
    return dg.ResourceDefinition(
        resource_fn=lambda _: MigrationSource(migration), description="Opens the migration inside a tick."
    )


CODE = (
    "The code that a dry run shows, typed back: good once, for 15 minutes, as long as what was looked at is the same."
)
CODES = CODE + " Several may stand there, between blanks or commas: each week takes its own."
CONFIRM = (
    'Of these weeks so many rows may be deleted, as the refusal says: {"FY25-Q2|W05": 70}; only with the code that it'
    " shows, as `confirm`."
)
CODE_OF_REFUSAL = (
    "The code that the refusal showed, for the number in confirm_deletes: good once, for 15 minutes. Several may stand"
    " there, between blanks or commas."
)


def confirmed(config: Mapping[str, int]) -> dict[FiscalWeek, int]:
    """Keys of weeks and rows as the launchpad has them.

    Raises:
        CalendarError: A key is no week.
    """
    return parse_confirmations(f"{week}={rows}" for week, rows in config.items())
