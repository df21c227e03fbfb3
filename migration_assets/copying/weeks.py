"""The steps on one week (copy, measure, verify, validate, repair, undo a repair), each with its gate and retries."""

import logging
from collections.abc import Callable, Mapping

from migration_assets.copying.copying import copy_slice
from migration_assets.copying.throttle import CopyLimits, SliceCopy
from migration_assets.copying.verifying import Verified, verify_slice
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.charge import require_legacy
from migration_assets.ledger.preflights import require_preflight
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.ledger.slices import CopyEvidence
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.copy_stream import Progress
from migration_assets.postgres.retries import retry_transient
from migration_assets.postgres.sessions import uncounted
from migration_assets.proof import repair
from migration_assets.proof.repair import Repaired, repair_slice
from migration_assets.proof.validation import Validated, validate_slice
from migration_assets.quarters.legacy_weeks import SliceMeasure, estimate_rows, measure_slice
from migration_assets.runtime import Migration
from migration_assets.stream.plan import StreamPlan
from migration_assets.stream.running import require_not_barred

NOTHING_TO_COMPARE = "there is nothing to validate against, the legacy follows"
log = logging.getLogger(__name__)


def copy_week(
    migration: Migration,
    week: FiscalWeek,
    *,
    run_id: str | None = None,
    progress: Callable[[int], Progress] | None = None,
    confirmed_deletes: Mapping[FiscalWeek, int] | None = None,
) -> CopyEvidence:
    """Copy one week, if preflight allows it. A week under CDC stays under CDC.

    Args:
        migration: Which migration.
        week: The slice.
        run_id: Noted in the ledger.
        progress: Makes the callback, given the expected number of rows.
        confirmed_deletes: By week, how many rows a person has allowed to be deleted.

    Raises:
        PreflightError: Preflight is missing or blocks.
        MigrationError: As `copy_slice`.
    """
    spec = migration.spec
    with migration.databases.session("base", f"{week}:gate") as base:
        ensure_ledger(base)
        require_not_barred(base, spec.relation)
        require_preflight(base, spec.relation)
    report: Progress | None = None
    if progress is not None:
        with migration.databases.session("legacy", f"{week}:gate") as legacy:
            kind = require_table(legacy, spec.table, "legacy").control_kind(spec.control_column)
            report = progress(estimate_rows(legacy, spec, migration.calendar.bound_values(week, kind)))
    return copy_slice(migration.databases, SliceCopy.of(migration, week, run_id, confirmed_deletes), report)


def measure_week(migration: Migration, week: FiscalWeek, *, exact: bool = False) -> SliceMeasure:
    """Measure what the legacy holds of the week; see `measure_slice`. Refused while the base is in charge.

    Raises:
        MigrationError: The base is in charge, or the legacy has no such table.
    """
    require_legacy(migration, "nothing is to be moved any more")

    def once() -> SliceMeasure:
        timeouts = CopyLimits.of(migration.settings).timeouts()
        with migration.databases.session("legacy", f"{week.key}:measure", timeouts) as legacy:
            uncounted(legacy)
            description = require_table(legacy, migration.spec.table, "legacy")
            return measure_slice(legacy, description, migration.spec, migration.calendar, week, exact=exact)

    return retry_transient(once, what=f"measuring of {week.key}", attempts=migration.settings.retry_attempts, log=log)


def verify_week(migration: Migration, week: FiscalWeek, *, run_id: str | None = None) -> Verified:
    """Read the base again; see `verify_slice`. Refused while the base is in charge, where applications change rows."""
    require_legacy(migration, "what applications change in the base is no fault of its copy")
    return verify_slice(
        migration.databases,
        migration.spec,
        migration.calendar,
        week,
        timeouts=CopyLimits.of(migration.settings).timeouts(),
        run_id=run_id,
    )


def validate_week(migration: Migration, week: FiscalWeek, *, run_id: str | None = None) -> Validated:
    """Prove the week equal at a cut; see `validate_slice`."""
    require_legacy(migration, NOTHING_TO_COMPARE)
    return retry_transient(
        lambda: validate_slice(StreamPlan.of(migration, run_id), week),
        what=f"validation of {week.key}",
        attempts=migration.settings.retry_attempts,
        log=log,
    )


def repair_week(
    migration: Migration,
    week: FiscalWeek,
    *,
    dry_run: bool = True,
    run_id: str | None = None,
    confirmed_deletes: Mapping[FiscalWeek, int] | None = None,
) -> Repaired:
    """Find the rows that differ and, unless `dry_run`, repair them; see `repair_slice`."""
    require_legacy(migration, "nothing is repaired after the legacy, whose rows are the older ones")
    return retry_transient(
        lambda: repair_slice(StreamPlan.of(migration, run_id, confirmed_deletes), week, dry_run=dry_run),
        what=f"repair of {week.key}",
        attempts=migration.settings.retry_attempts,
        log=log,
    )


def undo_repair(migration: Migration, repair_id: int, *, run_id: str | None = None) -> Repaired:
    """Undo a repair; see `repair.undo_repair`. Tried only once, so that it is never done twice."""
    require_legacy(migration, "the images of before a repair are older than what applications wrote since")
    return retry_transient(
        lambda: repair.undo_repair(StreamPlan.of(migration, run_id), repair_id),
        what=f"undoing of repair {repair_id}",
        attempts=1,
        log=log,
    )
