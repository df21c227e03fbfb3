"""What is closed: the legacy's whole database or its table alone; what else lives there, and whether our role may."""

from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from migration_assets.domain.decommission_state import Obstacle, Scope
from migration_assets.domain.table_spec import TableSpec, quote_identifier
from migration_assets.postgres.own_schema import ON_LEGACY
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.watch.queries import CLIENTS, FAMILY

_OTHERS: LiteralString = """
SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm', 'f') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%%'
  AND NOT (n.nspname = 'migration' AND c.relname = ANY(%(ours)s))
  AND NOT EXISTS (SELECT FROM family o WHERE o.oid = c.oid)
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
  -- A partition goes with its root.
  AND NOT c.relispartition
ORDER BY 1
"""
_SESSIONS: LiteralString = """
SELECT a.pid, format('backend %s (%s, %s, %s)', a.pid, a.usename, a.application, a.address)
FROM clients a ORDER BY a.backend_start
"""
# Its own sequences alone: one that is shared with other tables is theirs, too.
_OBJECTS: LiteralString = """
, objects AS (
    SELECT 'TABLE' AS kind, oid FROM family
    UNION SELECT 'SEQUENCE', d.objid FROM pg_depend d JOIN family t ON d.refobjid = t.oid
    JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
)
"""
OBJECTS: LiteralString = FAMILY + _OBJECTS
_LISTED = 5


@dataclass(frozen=True)
class Chosen:
    """The scope, and why that one."""

    scope: Scope
    why: str


def choose_scope(legacy: Connected, spec: TableSpec, wanted: Scope | None) -> Chosen:
    """What was asked for; else the database where nothing else is in it, else the table."""
    if wanted is not None:
        return Chosen(wanted, "as asked for")
    others = other_tables(legacy, spec)
    if others:
        return Chosen("table", f"the database holds other tables, too: {_few(others)}")
    return Chosen("database", "nothing else is in the database")


def other_tables(legacy: Connected, spec: TableSpec) -> list[str]:
    """What else applications keep in the legacy's database: not this program's, not what belongs to extensions."""
    wanted = {"table": str(spec.table), "ours": list(ON_LEGACY)}
    return [str(row[0]) for row in legacy.execute(FAMILY + _OTHERS, wanted)]


def other_sessions(legacy: Connected) -> list[tuple[int, str]]:
    """Clients in the legacy's database that are not ours: their pids, and who they are."""
    return [(int(pid), str(who)) for pid, who in legacy.execute("WITH" + CLIENTS + _SESSIONS)]


def scope_obstacles(legacy: Connected, spec: TableSpec, scope: Scope, subscription: str) -> list[Obstacle]:
    """Of the scope alone: others who would be hurt, and rights that are missing."""
    found = _rights(legacy, spec, scope, subscription)
    if scope == "table":
        return found
    others = other_tables(legacy, spec)
    if others:
        what = f"the legacy's database holds other tables, which would be closed with it: {_few(others)}"
        found.append(Obstacle("other_tables", what, "close the table alone (scope table), or move those first"))
    sessions = other_sessions(legacy)
    if sessions:
        ends = " ".join(f"SELECT pg_terminate_backend({pid});" for pid, _ in sessions[:_LISTED])
        what = f"{len(sessions)} other sessions are connected to the legacy: {_few([who for _, who in sessions])}"
        found.append(Obstacle("sessions", what, f"switch them to the base, then let them end, or end them: {ends}"))
    return found


def _rights(legacy: Connected, spec: TableSpec, scope: Scope, subscription: str) -> list[Obstacle]:
    user = str(require_row(legacy.execute("SELECT current_user::text").fetchone(), "the role")[0])
    query = sql.SQL(
        "{} SELECT o.kind, o.oid::regclass::text, r.rolname::text, r.rolsuper FROM objects o"
        " JOIN pg_class c ON c.oid = o.oid JOIN pg_roles r ON r.oid = c.relowner"
        " WHERE NOT pg_has_role(c.relowner, 'USAGE') ORDER BY o.kind DESC, 2"
    ).format(sql.SQL(OBJECTS))
    lacking = [
        (str(kind), str(name), str(owner), bool(above))
        for kind, name, owner, above in legacy.execute(query, {"table": str(spec.table)})
    ]
    if scope == "database":
        row = legacy.execute(
            "SELECT quote_ident(datname), r.rolname::text, r.rolsuper FROM pg_database d"
            " JOIN pg_roles r ON r.oid = d.datdba"
            " WHERE datname = current_database() AND NOT pg_has_role(d.datdba, 'USAGE')"
        ).fetchone()
        if row is not None:
            lacking.append(("DATABASE", str(row[0]), str(row[1]), bool(row[2])))
    me = quote_identifier(user)
    found = [
        Obstacle(
            "rights",
            f"role {user} may not close {kind.lower()} {name}, which belongs to {owner}",
            # To be a member of a superuser would give far more than is needed.
            "a DBA runs in the legacy's database: "
            + (f"ALTER {kind} {name} OWNER TO {me}" if above else f"GRANT {quote_identifier(owner)} TO {me}"),
        )
        for kind, name, owner, above in lacking
        # A sequence that belongs to a column goes with its table.
        if kind != "SEQUENCE" or not any(other == "TABLE" for other, *_ in lacking)
    ]
    row = legacy.execute(
        "SELECT pg_get_userbyid(s.subowner)::text FROM pg_subscription s"
        " WHERE s.subname = %s AND NOT pg_has_role(s.subowner, 'USAGE')"
        " AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
        [subscription],
    ).fetchone()
    if row is not None:
        # Its worker runs as its owner, so that another owner may be one whom it cannot run as.
        what = f"role {user} may not drop the reverse subscription {subscription}, which belongs to {row[0]}"
        found.append(Obstacle("rights", what, f"run this as {row[0]}, as the cutover was (MIGRATION_LEGACY_URL)"))
    return found


def _few(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
