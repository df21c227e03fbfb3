"""The steps on one week (copy, measure, verify, validate, repair, undo a repair), each with its gate and retries."""

from collections.abc import Callable, Mapping

from migration_assets.copying.copying import copy_slice
from migration_assets.copying.throttle import CopyLimits, SliceCopy
from migration_assets.copying.verifying import Verified, verify_slice
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.charge import legacy_leads
from migration_assets.ledger.preflights import require_preflight
from migration_assets.ledger.slices import CopyEvidence
from migration_assets.ledger.steps import open_ledger, run_step
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.copy_stream import Progress
from migration_assets.postgres.sessions import uncounted
from migration_assets.proof import repair
from migration_assets.proof.repair import Repaired, repair_slice
from migration_assets.proof.validation import Validated, validate_slice
from migration_assets.quarters.legacy_weeks import SliceMeasure, estimate_rows, measure_slice
from migration_assets.runtime import Migration
from migration_assets.stream.plan import StreamPlan
from migration_assets.stream.running import require_not_barred

NOTHING_TO_COMPARE = "there is nothing to validate against, the legacy follows"


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
    with open_ledger(migration, f"{week.key}:gate") as base:
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

    def measure() -> SliceMeasure:
        timeouts = CopyLimits.of(migration.settings).timeouts()
        with migration.databases.session("legacy", f"{week.key}:measure", timeouts) as legacy:
            uncounted(legacy)
            description = require_table(legacy, migration.spec.table, "legacy")
            return measure_slice(legacy, description, migration.spec, migration.calendar, week, exact=exact)

    gate = legacy_leads(migration.spec.relation, "nothing is to be moved any more")
    return run_step(migration, f"measuring of {week.key}", measure, gate=gate)


def verify_week(migration: Migration, week: FiscalWeek, *, run_id: str | None = None) -> Verified:
    """Read the base again; see `verify_slice`. Not while the base is in charge: what was copied is changed there."""
    timeouts = CopyLimits.of(migration.settings).timeouts()
    return run_step(
        migration,
        f"verification of {week.key}",
        lambda: verify_slice(
            migration.databases, migration.spec, migration.calendar, week, timeouts=timeouts, run_id=run_id
        ),
        gate=legacy_leads(migration.spec.relation, "what applications change in the base is no fault of its copy"),
    )


def validate_week(migration: Migration, week: FiscalWeek, *, run_id: str | None = None) -> Validated:
    """Prove the week equal at a cut; see `validate_slice`."""
    return run_step(
        migration,
        f"validation of {week.key}",
        lambda: validate_slice(StreamPlan.of(migration, run_id), week),
        gate=legacy_leads(migration.spec.relation, NOTHING_TO_COMPARE),
    )


def repair_week(
    migration: Migration,
    week: FiscalWeek,
    *,
    dry_run: bool = True,
    run_id: str | None = None,
    confirmed_deletes: Mapping[FiscalWeek, int] | None = None,
) -> Repaired:
    """Find out what differs and, unless `dry_run`, mend it; see `repair_slice`."""
    why_not = "nothing is repaired after the legacy, whose rows are the older ones"
    return run_step(
        migration,
        f"repair of {week.key}",
        lambda: repair_slice(StreamPlan.of(migration, run_id, confirmed_deletes), week, dry_run=dry_run),
        gate=legacy_leads(migration.spec.relation, why_not),
    )


def undo_repair(migration: Migration, repair_id: int, *, run_id: str | None = None) -> Repaired:
    """Put back what a repair changed; see `repair.undo_repair`. Not tried again: it is not done twice by accident."""
    why_not = "the images of before a repair are older than what applications wrote since"
    return run_step(
        migration,
        f"undoing of repair {repair_id}",
        lambda: repair.undo_repair(StreamPlan.of(migration, run_id), repair_id),
        gate=legacy_leads(migration.spec.relation, why_not),
        attempts=1,
    )
