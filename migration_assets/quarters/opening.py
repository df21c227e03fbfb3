"""Opens a quarter of the base: behind the gate of preflight while rows are to come from the legacy, else by itself."""

import logging

from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.domain.table_description import TableDescription
from migration_assets.ledger.charge import is_base_in_charge
from migration_assets.ledger.preflights import require_preflight
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.retries import retry_locked, retry_transient
from migration_assets.postgres.sessions import Connected, Timeouts
from migration_assets.quarters.partitions import OpenedQuarter, ensure_quarter
from migration_assets.quarters.runway import note_lost_rows
from migration_assets.runtime import Migration

log = logging.getLogger(__name__)


def open_quarter(migration: Migration, quarter: FiscalQuarter) -> tuple[OpenedQuarter, TableDescription]:
    """Make the quarter's places; waits for locks with short random tries.

    Where a leaf is made again whose week is under CDC, the ledger says from then on that the week is not equal.

    While the base is in charge its own table is the pattern, and neither the legacy nor a preflight is asked for: both
    speak of a migration that is over.

    Returns:
        What was made, and the table after whose pattern.

    Raises:
        PreflightError: The legacy is in charge, and preflight is missing or blocks.
        PartitionError: What is there does not fit.
        psycopg.errors.LockNotAvailable: Somebody held a lock for longer than our patience.
    """
    settings, spec = migration.settings, migration.spec
    timeouts = Timeouts(lock=settings.lock_timeout_ms)

    def once() -> tuple[OpenedQuarter, TableDescription]:
        with migration.databases.session("base", f"{quarter.key}:open", timeouts) as base:
            ensure_ledger(base)
            own = is_base_in_charge(base, spec.relation)
            description = require_table(base, spec.table, "base") if own else _of_legacy(migration, base, quarter)

            def make() -> tuple[OpenedQuarter, tuple[FiscalWeek, ...]]:
                with base.transaction():
                    opened = ensure_quarter(base, description, spec, migration.calendar, quarter)
                    return opened, note_lost_rows(base, spec, quarter, opened.created)

            opened, lost = retry_locked(make, patience_seconds=settings.lock_patience_seconds)
        if lost:
            log.warning(
                "%s: the leaf was gone, and is empty now: %s",
                ", ".join(week.key for week in lost),
                "its rows are on the legacy (until that is decommissioned) and in backups"
                if own
                else "under CDC: materialize change_stream with rebuild set",
            )
        return opened, description

    return retry_transient(once, what=f"opening of {quarter.key}", attempts=settings.retry_attempts, log=log)


def _of_legacy(migration: Migration, base: Connected, quarter: FiscalQuarter) -> TableDescription:
    require_preflight(base, migration.spec.relation)
    with migration.databases.session("legacy", f"{quarter.key}:open") as legacy:
        return require_table(legacy, migration.spec.table, "legacy")
