"""The step that makes the legacy's rows those of the base, while the base is in charge."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from migration_assets.cutover import legacy_repair, outside_repair
from migration_assets.cutover.cutover_planning import cutover_plan
from migration_assets.cutover.legacy_repair import LegacyRepaired
from migration_assets.cutover.outside_repair import OutsideRepaired
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.upgrading import prepare_ledger
from migration_assets.postgres.retries import retry_transient
from migration_assets.runtime import Migration
from migration_assets.stream.plan import StreamPlan

__all__ = ["LegacyRepaired", "OutsideRepaired", "repair_legacy", "repair_outside", "undo_legacy_repair"]

log = logging.getLogger(__name__)


def repair_legacy(
    migration: Migration,
    weeks: Sequence[FiscalWeek],
    *,
    dry_run: bool = True,
    run_id: str | None = None,
    confirmed_deletes: Mapping[FiscalWeek, int] | None = None,
) -> list[LegacyRepaired]:
    """Find out what differs and, unless `dry_run`, mend it on the legacy; see `legacy_repair.repair_legacy`."""
    prepare_ledger(migration, "repair-legacy")
    plan = replace(cutover_plan(migration, run_id), stream=StreamPlan.of(migration, run_id, confirmed_deletes))
    return retry_transient(
        lambda: legacy_repair.repair_legacy(plan, weeks, dry_run=dry_run),
        what="repair of the legacy",
        attempts=migration.settings.retry_attempts,
        log=log,
    )


def repair_outside(
    migration: Migration, *, dry_run: bool = True, confirmed: int = 0, run_id: str | None = None
) -> OutsideRepaired:
    """The same of rows at times that no week has; see `outside_repair.repair_outside`."""
    prepare_ledger(migration, "repair-legacy")
    return retry_transient(
        lambda: outside_repair.repair_outside(cutover_plan(migration, run_id), dry_run=dry_run, confirmed=confirmed),
        what="repair of the legacy's rows outside",
        attempts=migration.settings.retry_attempts,
        log=log,
    )


def undo_legacy_repair(migration: Migration, repair_id: int, *, run_id: str | None = None) -> list[str]:
    """Put back what it changed; in which weeks. See `legacy_repair.undo_legacy_repair`."""
    prepare_ledger(migration, "repair-legacy")
    return retry_transient(
        lambda: legacy_repair.undo_legacy_repair(cutover_plan(migration, run_id), repair_id),
        what=f"undoing of repair {repair_id}",
        attempts=1,
        log=log,
    )
