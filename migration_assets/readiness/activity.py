"""Examines who is in a cutover's way now: long and prepared transactions, sessions that wait, on either side."""

from psycopg import sql

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.postgres.other_sessions import APPLICATION, COMMAND
from migration_assets.postgres.sessions import Connected, Side, require_row
from migration_assets.preflight.wording import info, listed
from migration_assets.readiness.sides import Sides

_AREA: dict[Side, Area] = {"legacy": Area.LEGACY, "base": Area.BASE}
# Of the whole server: a slot, such as the reverse stream's, begins only when every transaction that writes has ended.
_TRANSACTIONS = sql.SQL("""
SELECT format('backend %%s (%%s, %%s, database %%s): %%s for %%s s, %%s%%s: %%s', a.pid, a.usename,
              {application}, a.datname, a.state,
              round(extract(epoch FROM clock_timestamp() - a.xact_start)),
              CASE WHEN a.backend_xid IS NULL THEN 'reads' ELSE 'writes' END,
              CASE WHEN w.held THEN ' to the table' ELSE '' END, {command}),
       a.backend_xid IS NOT NULL OR w.held, a.pid
FROM pg_stat_activity a
CROSS JOIN LATERAL (SELECT EXISTS (
    SELECT FROM pg_locks k WHERE k.pid = a.pid AND k.locktype = 'relation' AND k.granted
      AND k.relation = to_regclass(%(table)s)
      AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND k.mode NOT IN ('AccessShareLock', 'RowShareLock')) AS held) w
WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
  AND a.xact_start < clock_timestamp() - %(seconds)s * interval '1 second'
  AND (a.datname = current_database() OR a.backend_xid IS NOT NULL)
ORDER BY a.xact_start
""").format(application=APPLICATION, command=COMMAND)
_PREPARED = (
    "SELECT format('%s of %s, prepared %s, database %s', quote_literal(gid), owner, prepared::timestamp(0), database),"
    " gid FROM pg_prepared_xacts ORDER BY prepared"
)
_WAITING = """
SELECT format('backend %%s (%%s) waits for %%s since %%s s, held up by %%s', a.pid, a.usename, a.wait_event,
              round(extract(epoch FROM clock_timestamp() - l.waitstart)), pg_blocking_pids(a.pid)::text)
FROM pg_stat_activity a JOIN LATERAL (
    SELECT min(waitstart) AS waitstart FROM pg_locks k WHERE k.pid = a.pid AND NOT k.granted) l ON true
WHERE a.wait_event_type = 'Lock' AND a.datname = current_database()
  -- The apply worker waits at a marker by design, and never for long.
  AND l.waitstart < clock_timestamp() - %(seconds)s * interval '1 second' ORDER BY l.waitstart
"""


def examine_activity(sides: Sides) -> list[Finding]:
    """What is open at this moment; the cutover itself asks again."""
    return [*_side(sides, "legacy", sides.legacy), *_side(sides, "base", sides.base)]


def _side(sides: Sides, side: Side, connection: Connected) -> list[Finding]:
    area, findings = _AREA[side], list[Finding]()
    parameters = {"table": str(sides.spec.table), "seconds": sides.plan.long_seconds}
    found = connection.execute(_TRANSACTIONS, parameters).fetchall()
    for writes in (True, False):
        mine = [row for row in found if row[1] is writes]
        if mine:
            what = "transactions that write" if writes else "transactions that read"
            findings.append(
                Finding(
                    "long_transaction",
                    area,
                    Severity.BLOCKING if writes else Severity.WARNING,
                    f"{len(mine)} {what} are open for over {sides.plan.long_seconds:g} s:"
                    f" {listed(row[0] for row in mine)}",
                    "let them end, or " + " ".join(f"SELECT pg_terminate_backend({row[2]});" for row in mine),
                )
            )
    prepared = connection.execute(_PREPARED).fetchall()
    if prepared:
        evidence = f"{len(prepared)} prepared transactions: {listed(row[0] for row in prepared)}"
        remedy = "COMMIT PREPARED or ROLLBACK PREPARED each, in its database, by whoever knows what it is"
        findings.append(Finding("prepared_transaction", area, Severity.BLOCKING, evidence, remedy))
    waiting = connection.execute(_WAITING, parameters).fetchall()
    if waiting:
        evidence = f"{len(waiting)} sessions wait for a lock: {listed(row[0] for row in waiting)}"
        remedy = "end whoever holds them up: SELECT pg_terminate_backend(pid) of the last number"
        findings.append(Finding("stuck_session", area, Severity.BLOCKING, evidence, remedy))
    row = connection.execute("SELECT pg_has_role('pg_read_all_stats', 'USAGE'), current_user::text").fetchone()
    sees, user = require_row(row, "a right")
    if not sees:
        evidence = f"role {user} does not see what other roles' sessions do: only its own were examined"
        remedy = f'on the {side}: GRANT pg_read_all_stats TO "{user}";'
        findings.append(Finding("activity_hidden", area, Severity.WARNING, evidence, remedy))
    if not findings:
        long = f"no transaction is open for over {sides.plan.long_seconds:g} s"
        findings.append(info("activity", area, f"{long}, none is prepared, nobody waits for a lock for long"))
    return findings
