"""Examines the servers for a cutover: an application's settings and connections, open transactions, and the lock table.

The legacy is one table, and a statement on it locks that and its indexes. In the base a statement that does not say by
the control column which partitions it needs locks all of them with all their indexes. Where many do so at once, the
server's lock table is full: "out of shared memory", for everybody.
"""

import math

from psycopg import sql

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.table_spec import quote_identifier
from migration_assets.postgres.activity import APPLICATION, COMMAND
from migration_assets.postgres.sessions import Connected, Side, require_row
from migration_assets.preflight.plan import info, listed
from migration_assets.readiness.rules import SETTINGS, Sides, setting_findings

# The value that ALTER DATABASE sets, else the server's; not what our own role is set to. A setting from the command
# line has no source file, so `reset_val` is taken: it is the server's where our role has no such setting.
_SETTINGS = """
SELECT s.name, coalesce(
    (SELECT substr(c, strpos(c, '=') + 1) FROM pg_db_role_setting r JOIN pg_database d ON d.oid = r.setdatabase,
            unnest(r.setconfig) c
     WHERE d.datname = current_database() AND r.setrole = 0 AND lower(split_part(c, '=', 1)) = lower(s.name)),
    s.reset_val)
FROM pg_settings s WHERE s.name = ANY(%s)
"""
_ROLES = """
SELECT r.rolname::text, c, (setdatabase <> 0)
FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) c
WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
  AND r.rolname <> current_user ORDER BY 1, 2
"""


def examine_settings(sides: Sides) -> list[Finding]:
    """Compare settings of database and server, then settings of single roles, then connections."""
    database = require_row(sides.base.execute("SELECT current_database()::text").fetchone(), "the database")[0]
    findings = setting_findings(_effective(sides.legacy), _effective(sides.base), quote_identifier(database))
    return [*findings, *_of_roles(sides), *_connections(sides)]


def _effective(connection: Connected) -> dict[str, str]:
    return {str(name): str(value) for name, value in connection.execute(_SETTINGS, [list(SETTINGS)])}


def _of_roles(sides: Sides) -> list[Finding]:
    wanted = {(role, setting) for role, setting, _ in sides.legacy.execute(_ROLES)}
    there = {(role, setting) for role, setting, _ in sides.base.execute(_ROLES)}
    roles = {str(row[0]) for row in sides.base.execute("SELECT rolname FROM pg_roles")}
    # Roles that are missing in the base are reported with the grants.
    missing = sorted(pair for pair in wanted - there if pair[0] in roles)
    if not missing:
        return [info("role_settings", Area.BASE, f"{len(wanted)} settings of single roles, all on both sides")]
    remedy = "in the base: " + " ".join(
        f"ALTER ROLE {quote_identifier(role)} SET {_assignment(setting)};" for role, setting in missing
    )
    evidence = f"settings of roles in the legacy alone: {listed(f'{role}: {setting}' for role, setting in missing)}"
    return [Finding("role_settings", Area.BASE, Severity.WARNING, evidence, remedy)]


def _assignment(setting: str) -> str:
    name, _, value = setting.partition("=")
    return f"{name} = {value}" if name == "search_path" else f"{name} = '" + value.replace("'", "''") + "'"


def _connections(sides: Sides) -> list[Finding]:
    query = (
        "SELECT current_setting('max_connections')::int, (SELECT numbackends FROM pg_stat_database"
        " WHERE datname = current_database()),"
        " (SELECT datconnlimit FROM pg_database WHERE datname = current_database())"
    )
    of_legacy = require_row(sides.legacy.execute(query).fetchone(), "the connections")
    of_base = require_row(sides.base.execute(query).fetchone(), "the connections")
    limits = [of[0] if of[2] < 0 else min(of[0], of[2]) for of in (of_legacy, of_base)]
    evidence = f"{limits[0]} connections are allowed in the legacy ({of_legacy[1]} in use), {limits[1]} in the base"
    if limits[1] >= limits[0]:
        return [info("max_connections", Area.BASE, evidence)]
    remedy = f"in the base: ALTER SYSTEM SET max_connections = {limits[0]}; then restart it"
    severity = Severity.BLOCKING if of_legacy[1] >= limits[1] else Severity.WARNING
    return [Finding("max_connections", Area.BASE, severity, evidence, remedy)]


_AREA: dict[Side, Area] = {"legacy": Area.LEGACY, "base": Area.BASE}
# Of the whole server: a slot, such as the reverse stream's, can only begin when every writing transaction has ended.
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
    """Transactions and waits that are in the way at this moment; the cutover itself looks again."""
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
        remedy = "COMMIT PREPARED or ROLLBACK PREPARED each, in its database; ask who made it first"
        findings.append(Finding("prepared_transaction", area, Severity.BLOCKING, evidence, remedy))
    waiting = connection.execute(_WAITING, parameters).fetchall()
    if waiting:
        evidence = f"{len(waiting)} sessions wait for a lock: {listed(row[0] for row in waiting)}"
        remedy = "end the session that holds them up: SELECT pg_terminate_backend(pid) of the last number"
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


# The size of the lock table as the server computes it (NLOCKENTS): processes that may hold locks, and prepared
# transactions.
_LOCKS = """
SELECT (SELECT count(*) + coalesce(sum((SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid)), 0)
        FROM pg_partition_tree(to_regclass(%s)) t JOIN pg_class c ON c.oid = t.relid)::bigint,
       (SELECT count(*) FROM pg_partition_tree(to_regclass(%s)) t WHERE t.isleaf)::bigint,
       current_setting('max_locks_per_transaction')::bigint,
       current_setting('max_connections')::bigint,
       current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint
       + current_setting('max_worker_processes')::bigint + current_setting('max_wal_senders')::bigint
       + coalesce(current_setting('autovacuum_worker_slots', true), current_setting('autovacuum_max_workers'))::bigint
"""
_SHARE = 5


def examine_lock_table(sides: Sides) -> list[Finding]:
    """Warn where a fifth of all connections could fill the lock table by statements that lock every partition."""
    table = str(sides.spec.table)
    row = require_row(sides.base.execute(_LOCKS, [table, table]).fetchone(), "the settings of locks")
    locks, leaves, each, connections, processes = (int(value) for value in row)
    room = each * processes
    at_once = max(1, connections // _SHARE)
    evidence = (
        f"a statement that names no range of {sides.spec.control_column} locks {locks:,} tables and indexes"
        f" ({leaves:,} leaves); the server's lock table has room for {room:,} (max_locks_per_transaction {each}),"
        f" for {room // max(1, locks):,} of them at once"
    )
    if room >= locks * at_once:
        return [info("lock_table", Area.BASE, evidence)]
    wanted = math.ceil(locks * at_once / processes)
    remedy = (
        f"ALTER SYSTEM SET max_locks_per_transaction = {wanted}; then restart the base before the cutover (room for"
        f" {at_once:,} at once). Every quarter that opens adds to it"
    )
    return [Finding("lock_table", Area.BASE, Severity.WARNING, evidence, remedy)]
