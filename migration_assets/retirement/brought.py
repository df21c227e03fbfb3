"""While the base is in charge: whether the legacy holds of a week what its archive does, so that a rollback finds it.

DETACH and DROP do not travel: a week's rows stay on the legacy when it leaves the base. Nobody but the reverse stream
writes there, and of a week without a leaf it has nothing to bring: what is equal now stays so.
"""

from collections.abc import Iterator

import psycopg

from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.slice_state import SliceState
from migration_assets.ledger.archives import ArchiveRecord
from migration_assets.ledger.charge import is_decommissioned
from migration_assets.ledger.slices import SliceRecord
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.fingerprints import hashed_columns, in_range, take_fingerprint
from migration_assets.postgres.retries import wait_until
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected, uncounted
from migration_assets.stream.heartbeats import reverse_arrived, send_reverse_marker
from migration_assets.stream.plan import StreamPlan


def difference(now: Fingerprint, then: Fingerprint) -> str:
    """In words, to be followed by what `then` is of; for two that differ."""
    more = now.rows - then.rows
    if not more:
        return f"as many rows ({now.rows:,}) but other values than"
    return f"{abs(more):,} row{'' if abs(more) == 1 else 's'} {'more' if more > 0 else 'fewer'} than"


def rows_of_week(legacy: Connected, plan: StreamPlan, record: SliceRecord) -> Fingerprint:
    """The native fingerprint of what the legacy has of the week; reads all of it, and is no reader that counts."""
    uncounted(legacy)
    description = require_table(legacy, plan.spec.table, "legacy")
    bounds = plan.calendar.bound_values(record.week, description.control_kind(plan.spec.control_column))
    where = in_range(plan.spec.control_column, bounds)
    return take_fingerprint(legacy, plan.spec.table, hashed_columns(description), where)


def why_not_brought(plan: StreamPlan, base: Connected, record: SliceRecord, archive: ArchiveRecord) -> Iterator[str]:
    """Why a rollback would not find on the legacy what the archive holds; nothing once nobody can go back.

    Sends a marker along the reverse stream and waits for it, so that what the leaf has got until now has arrived.
    """
    if is_decommissioned(base, plan.relation):
        return
    keep = "its rows stay in the base, so that a rollback finds them"
    try:
        marker = send_reverse_marker(base, plan.relation)
        with plan.databases.session("legacy", f"{record.week.key}:brought", plan.limits.timeouts()) as legacy:
            patience = plan.limits.cut_patience_seconds
            if not wait_until(lambda: reverse_arrived(legacy, plan.relation, marker), seconds=patience):
                yield (
                    f"the reverse stream brought nothing to the legacy for {patience:g} s: {keep};"
                    " see `migration-assets stream status`"
                )
                return
            found = rows_of_week(legacy, plan, record)
    except psycopg.OperationalError as error:
        yield f"the legacy cannot be asked what it holds ({told(error)}): {keep}; bring it back, or decommission it"
        return
    if found != archive.native:
        yield (
            f"the legacy, which a rollback would go back to, has {difference(found, archive.native)} the archive:"
            f" {keep}; {_to_mend(record)}, or decommission it"
        )


def _to_mend(record: SliceRecord) -> str:
    key = f"{record.week.quarter.key} {record.week.name}"
    back = f"`migration-assets restore {key}`, then " if record.state is SliceState.RETIRED else ""
    return f"find out who wrote to the legacy: {back}`migration-assets repair-legacy {key}` shows and mends the rows"
