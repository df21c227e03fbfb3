"""The steps on the change stream, each behind its gate."""

import logging
from collections.abc import Mapping
from dataclasses import replace

from migration_assets.domain.errors import StreamError
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.postgres.change_stream import holding, joining
from migration_assets.postgres.change_stream.barred import require_not_barred
from migration_assets.postgres.change_stream.joining import Joined
from migration_assets.postgres.change_stream.weeks import OnWeek
from migration_assets.postgres.cutover.charge import is_base_in_charge
from migration_assets.postgres.cutover.recovering import ReverseRecovered, recover_reverse
from migration_assets.postgres.ledger_schema import ensure_ledger
from migration_assets.postgres.preflight_records import require_preflight
from migration_assets.postgres.retries import retry_transient
from migration_assets.postgres.server_identity import look_at_servers
from migration_assets.runtime import Migration
from migration_assets.steps.cutover_planning import cutover_plan

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
    plan = migration.stream_plan(run_id, confirmed_deletes)

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
        lambda: holding.hold_stream(migration.stream_plan(), reason),
        what="pause of the change stream",
        attempts=migration.settings.retry_attempts,
        log=log,
    )


def resume_stream(
    migration: Migration, run_id: str | None = None, confirmed_deletes: Mapping[FiscalWeek, int] | None = None
) -> str:
    """Let it go on, and finish what never was; see `holding.resume_stream`."""
    return retry_transient(
        lambda: holding.resume_stream(migration.stream_plan(run_id, confirmed_deletes)),
        what="resumption of the change stream",
        attempts=migration.settings.retry_attempts,
        log=log,
    )


def recover_stream(
    migration: Migration,
    by: str,
    *,
    run_id: str | None = None,
    on_week: OnWeek | None = None,
    confirmed_deletes: Mapping[FiscalWeek, int] | None = None,
) -> Joined | ReverseRecovered | None:
    """After a failover, a restore or a move of a server: a new slot, every week trued up, the servers noted anew.

    Of the side that follows; what it has and the side in charge has not is kept as a repair's images. None where both
    servers are as they were; and, while the base is in charge, the reverse stream's slot and subscription are there.

    Args:
        migration: Which migration.
        by: The person who says that these are the servers from now on.
        run_id: Noted in the ledger.
        on_week: Told of every week that is done.
        confirmed_deletes: How many rows of a week a person allows to be deleted.

    Raises:
        StreamError: Nobody is named; or as `joining.start_stream`.
    """
    relation = migration.spec.relation
    if not by.strip():
        raise StreamError(
            "nobody says that these are the servers from now on",
            where=relation,
            state_left="nothing was changed",
            next_step="run it with --by NAME",
        )
    plan = migration.stream_plan(run_id, confirmed_deletes)

    def once() -> Joined | ReverseRecovered | None:
        with migration.databases.session("base", "recover") as base:
            ensure_ledger(base)
            if is_base_in_charge(base, relation):
                return recover_reverse(replace(cutover_plan(migration), stream=plan), by.strip())
            require_not_barred(base, relation, mending=True)
            with migration.databases.session("legacy", "recover") as legacy:
                if not look_at_servers(base, relation, legacy):
                    return None
        return joining.start_stream(plan, None, rebuild=True, by=by.strip(), on_week=on_week)

    return retry_transient(
        once,
        what="recovery of the change stream",
        attempts=migration.settings.retry_attempts,
        log=log,
    )
