"""After a failover, a restore or a move of a server: the stream of the side that follows is begun anew."""

import logging
from collections.abc import Mapping
from dataclasses import replace

from migration_assets.cutover.cutover_planning import cutover_plan
from migration_assets.cutover.recovering import ReverseRecovered, recover_reverse
from migration_assets.domain.errors import StreamError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.charge import is_base_in_charge
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.postgres.retries import retry_transient
from migration_assets.runtime import Migration
from migration_assets.stream import joining
from migration_assets.stream.barred import require_not_barred
from migration_assets.stream.joining import Joined
from migration_assets.stream.plan import StreamPlan
from migration_assets.stream.servers import look_at_servers
from migration_assets.stream.true_up_weeks import OnWeek

log = logging.getLogger(__name__)


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
    plan = StreamPlan.of(migration, run_id, confirmed_deletes)

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
