"""The steps on one quarter, each behind its gate."""

import logging

from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.ledger.side_in_charge import require_legacy
from migration_assets.postgres.retries import retry_transient
from migration_assets.proof import reconciliation
from migration_assets.proof.reconciliation import Reconciled
from migration_assets.runtime import Migration
from migration_assets.stream.plan import StreamPlan

log = logging.getLogger(__name__)


def reconcile_quarter(migration: Migration, quarter: FiscalQuarter, *, run_id: str | None = None) -> Reconciled:
    """Compare all weeks at one cut; see `reconciliation.reconcile_quarter`. A difference is a result, not an error."""
    require_legacy(migration, "there is nothing to reconcile with, the legacy follows")
    return retry_transient(
        lambda: reconciliation.reconcile_quarter(StreamPlan.of(migration, run_id), quarter),
        what=f"reconciliation of {quarter.key}",
        attempts=migration.settings.retry_attempts,
        log=log,
    )
