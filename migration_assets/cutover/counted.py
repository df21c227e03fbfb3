"""Whether the base's server has counted every change: a session keeps its counts to itself until it comes to rest.

It hands them over when it is idle outside a transaction: at once where it last did so a second ago, and ten seconds
later at the latest. One that went on into another transaction hands over nothing until that ends, for hours.
"""

from datetime import datetime

from psycopg import sql

from migration_assets.cutover.plan import CutoverPlan
from migration_assets.domain.cutover_state import CutoverError
from migration_assets.postgres.other_sessions import APPLICATION
from migration_assets.postgres.retries import wait_until
from migration_assets.postgres.sessions import Connected, require_row

# Since the base is held nobody writes there. What a transaction may keep to itself was committed before it began: where
# every proof's cut was taken later, it is proven. A cut is noted a moment after it was taken; it is far less than these
# minutes. Who may not see another's session sees NULL, also for its kind, and waits. Not only clients write: a worker
# in the background may, and a WAL sender that runs statements, but none that streams; who has made a temporary slot is
# no WAL sender yet. Our own stream's worker tells all at its end, which is before anything is compared.
_UNKNOWN = "of unknown state"
_UNCOUNTED = sql.SQL("""
SELECT format('backend %%s (%%s, %%s), %%s since %%s', a.pid, coalesce(a.usename::text, '?'),
              {application}, coalesce(a.state, {unknown}),
              coalesce(date_trunc('second', coalesce(a.xact_start, a.state_change))::text, 'an unknown time'))
FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
  AND coalesce(a.backend_type, '') NOT IN ('autovacuum worker', 'parallel worker')
  AND NOT EXISTS (SELECT FROM pg_replication_slots r WHERE r.active_pid = a.pid AND NOT r.temporary)
  AND NOT EXISTS (SELECT FROM pg_stat_subscription w JOIN migration.streams t ON t.subscription = w.subname
                  WHERE w.pid = a.pid AND t.relation = %(relation)s)
  AND coalesce(a.backend_start < %(held)s, true)
  AND coalesce(CASE WHEN a.state = 'idle'
                    THEN a.state_change <= %(held)s + interval '1.5 s'
                         AND a.state_change > clock_timestamp() - interval '11 s'
                    ELSE a.xact_start IS NULL OR a.xact_start > (
                        SELECT min(coalesce(c.taken_at, '-infinity')) - interval '10 min' FROM migration.slices s
                        LEFT JOIN migration.cuts c ON c.relation = s.relation AND c.marker = s.validated_marker
                        WHERE s.relation = %(relation)s AND s.validated_equal) END, true)
ORDER BY coalesce(a.xact_start, a.state_change)
""").format(application=APPLICATION, unknown=sql.Literal(_UNKNOWN))


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
    role = require_row(base.execute("SELECT quote_ident(current_user)").fetchone(), "the role")[0]
    hidden = f"; where a state is unknown: GRANT pg_read_all_stats TO {role} shows it to our role"
    raise CutoverError(
        "which weeks of the base changed is not known: sessions there may have changed rows that the server has not"
        f" counted yet, as long as they stay in a transaction: {'; '.join(found)}",
        where=plan.relation,
        next_step="let these transactions end (or end them: SELECT pg_terminate_backend(pid)), or compare every week"
        f" (MIGRATION_CUTOVER_COMPARE_ALL=true); then run this again{hidden if _UNKNOWN in str(found) else ''}",
    )
