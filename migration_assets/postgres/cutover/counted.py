"""Whether the base's server has counted every change: a session keeps its counts to itself until it comes to rest.

It hands them over when it is idle outside a transaction: at once where it last did so a second ago, and ten seconds
later at the latest. One that went on into another transaction hands over nothing until that ends, for hours.
"""

from datetime import datetime

from psycopg import sql

from migration_assets.domain.cutover_state import CutoverError
from migration_assets.postgres.cutover.plan import CutoverPlan
from migration_assets.postgres.other_sessions import APPLICATION
from migration_assets.postgres.retries import wait_until
from migration_assets.postgres.sessions import Connected

# Since the base is held nobody writes there. What a transaction may keep to itself was committed before it began: where
# every proof's cut was taken later, it is proven. A cut is noted a moment after it was taken; it is far less than these
# minutes. Who is not allowed to see another's state sees NULL, and waits.
_UNCOUNTED = sql.SQL("""
SELECT format('backend %%s (%%s, %%s), %%s since %%s', a.pid, coalesce(a.usename::text, '?'),
              {application}, coalesce(a.state, 'of unknown state'),
              coalesce(date_trunc('second', coalesce(a.xact_start, a.state_change))::text, 'an unknown time'))
FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
  AND coalesce(a.backend_start < %(held)s, true)
  AND coalesce(CASE WHEN a.state = 'idle'
                    THEN a.state_change <= %(held)s + interval '1.5 s'
                         AND a.state_change > clock_timestamp() - interval '11 s'
                    ELSE a.xact_start IS NULL OR a.xact_start > (
                        SELECT min(coalesce(c.taken_at, '-infinity')) - interval '10 min' FROM migration.slices s
                        LEFT JOIN migration.cuts c ON c.relation = s.relation AND c.marker = s.validated_marker
                        WHERE s.relation = %(relation)s AND s.validated_equal) END, true)
ORDER BY coalesce(a.xact_start, a.state_change)
""").format(application=APPLICATION)


def require_counted(base: Connected, plan: CutoverPlan, held_at: datetime) -> None:
    """Wait until no session may have changes of its own that the server knows nothing of; nobody but the base is held.

    Args:
        base: In no transaction.
        plan: Which table, and how patient.
        held_at: Since when nobody writes to the base, by its own clock.

    Raises:
        CutoverError: One stays in a transaction for longer; names it.
    """
    found: list[str] = []

    def counted() -> bool:
        rows = base.execute(_UNCOUNTED, {"held": held_at, "relation": plan.relation})
        found[:] = [str(row[0]) for row in rows]
        return not found

    if wait_until(counted, seconds=plan.patience_seconds):
        return
    raise CutoverError(
        "which weeks of the base changed is not known: sessions there may have changed rows that the server has not"
        f" counted yet, as long as they stay in a transaction: {'; '.join(found)}",
        where=plan.relation,
        next_step="let these transactions end (or end them: SELECT pg_terminate_backend(pid)), or compare every week"
        " (MIGRATION_CUTOVER_COMPARE_ALL=true); then run this again",
    )
