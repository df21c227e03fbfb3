"""The steps on the change stream, each behind its gate."""

import logging
from collections.abc import Mapping

from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.ledger.preflights import require_preflight
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.postgres.retries import retry_transient
from migration_assets.runtime import Migration
from migration_assets.stream import holding, joining
from migration_assets.stream.barred import require_not_barred
from migration_assets.stream.joining import Joined
from migration_assets.stream.plan import StreamPlan
from migration_assets.stream.true_up_weeks import OnWeek

log = logging.getLogger(__name__)


def start_stream(
    migration: Migration,
    quarter: FiscalQuarter,
    *,
    rebuild: bool = False,
    run_id: str | None = None,
    on_week: OnWeek | None = None,
    confirmed_deletes: Mapping[FiscalWeek, int] | None = None,
) -> Joined:
    """Bring the quarter under CDC; tried again from its beginning where a server was lost for a while.

    Raises:
        PreflightError: Preflight is missing or blocks.
        MigrationError: As `joining.start_stream`.
    """
    plan = StreamPlan.of(migration, run_id, confirmed_deletes)

    def once() -> Joined:
        with migration.databases.session("base", f"{quarter.key}:gate") as base:
            ensure_ledger(base)
            require_not_barred(base, migration.spec.relation, mending=rebuild)
            require_preflight(base, migration.spec.relation)
        return joining.start_stream(plan, quarter, rebuild=rebuild, on_week=on_week)

    return retry_transient(
        once,
        what=f"change stream of {quarter.key}",
        attempts=migration.settings.retry_attempts,
        log=log,
    )


def pause_stream(migration: Migration, reason: str) -> str:
    """Stop the stream until `resume_stream`; see `holding.hold_stream`."""
    return retry_transient(
        lambda: holding.hold_stream(StreamPlan.of(migration), reason),
        what="pause of the change stream",
        attempts=migration.settings.retry_attempts,
        log=log,
    )


def resume_stream(
    migration: Migration, run_id: str | None = None, confirmed_deletes: Mapping[FiscalWeek, int] | None = None
) -> str:
    """Let it go on, and finish what never was; see `holding.resume_stream`."""
    return retry_transient(
        lambda: holding.resume_stream(StreamPlan.of(migration, run_id, confirmed_deletes)),
        what="resumption of the change stream",
        attempts=migration.settings.retry_attempts,
        log=log,
    )
