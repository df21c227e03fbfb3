"""Closes the legacy for everybody but us and the table's owner, and keeps what is needed to open it again.

Either the whole database is closed or the table alone; this module decides which, and whether our role may. The data
stays as it is. Grants and settings change in one transaction, so that nobody ever finds half of it.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import errors, sql

from migration_assets.domain.states import DecommissionError, Obstacle, Scope
from migration_assets.domain.table_spec import TableSpec, quote_identifier
from migration_assets.postgres.own_schema import ON_LEGACY
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import raw_sql
from migration_assets.watch.legacy_reads import CLIENTS, FAMILY

_OTHERS: LiteralString = """
SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm', 'f') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%%'
  AND NOT (n.nspname = 'migration' AND c.relname = ANY(%(ours)s))
  AND NOT EXISTS (SELECT FROM family o WHERE o.oid = c.oid)
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
  -- A partition belongs to its root.
  AND NOT c.relispartition
ORDER BY 1
"""
_SESSIONS: LiteralString = """
SELECT a.pid, format('backend %s (%s, %s, %s)', a.pid, a.usename, a.application, a.address)
FROM clients a ORDER BY a.backend_start
"""
# Only sequences that the table owns: one that is shared with other tables belongs to them, too.
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
    """The scope, and the reason for it."""

    scope: Scope
    why: str


def choose_scope(legacy: Connected, spec: TableSpec, wanted: Scope | None) -> Chosen:
    """The scope that was asked for; else the database if nothing else is in it, else the table."""
    if wanted is not None:
        return Chosen(wanted, "as asked for")
    others = other_tables(legacy, spec)
    if others:
        return Chosen("table", f"the database holds other tables, too: {_few(others)}")
    return Chosen("database", "nothing else is in the database")


def other_tables(legacy: Connected, spec: TableSpec) -> list[str]:
    """Other tables in the legacy's database; those of this program and those of extensions are left out."""
    wanted = {"table": str(spec.table), "ours": list(ON_LEGACY)}
    return [str(row[0]) for row in legacy.execute(FAMILY + _OTHERS, wanted)]


def other_sessions(legacy: Connected) -> list[tuple[int, str]]:
    """Clients in the legacy's database that are not ours: their process ids, and descriptions of them."""
    return [(int(pid), str(who)) for pid, who in legacy.execute("WITH" + CLIENTS + _SESSIONS)]


def scope_obstacles(legacy: Connected, spec: TableSpec, scope: Scope, subscription: str) -> list[Obstacle]:
    """Obstacles that come from the scope: other users of what would be closed, and rights that our role lacks."""
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
            # Membership in a superuser role would give far more than is needed.
            "a DBA runs in the legacy's database: "
            + (f"ALTER {kind} {name} OWNER TO {me}" if above else f"GRANT {quote_identifier(owner)} TO {me}"),
        )
        for kind, name, owner, above in lacking
        # A sequence that belongs to a column is closed with its table.
        if kind != "SEQUENCE" or not any(other == "TABLE" for other, *_ in lacking)
    ]
    row = legacy.execute(
        "SELECT pg_get_userbyid(s.subowner)::text FROM pg_subscription s"
        " WHERE s.subname = %s AND NOT pg_has_role(s.subowner, 'USAGE')"
        " AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
        [subscription],
    ).fetchone()
    if row is not None:
        # Its worker runs as its owner. We do not ask for another owner, because that one may not be able to run it.
        what = f"role {user} may not drop the reverse subscription {subscription}, which belongs to {row[0]}"
        found.append(Obstacle("rights", what, f"run this as {row[0]}, as the cutover was (MIGRATION_LEGACY_URL)"))
    return found


def _few(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


# kind, object, column or NULL, grantee, privilege, with grant option
_GRANTS: LiteralString = """
, acls AS (
    SELECT o.kind, o.oid, NULL::text AS name, c.relacl AS acl, c.relowner FROM objects o JOIN pg_class c USING (oid)
    UNION ALL SELECT o.kind, o.oid, quote_ident(a.attname), a.attacl, c.relowner FROM objects o
    JOIN pg_class c USING (oid) JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE o.kind = 'TABLE'
)
SELECT l.kind, l.oid::regclass::text, l.name, CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END,
       g.privilege_type, g.is_grantable
FROM acls l CROSS JOIN aclexplode(l.acl) g LEFT JOIN pg_roles r ON r.oid = g.grantee
WHERE g.grantee <> l.relowner ORDER BY 1 DESC, 2, 3 NULLS FIRST, 4, 5
"""
_CONNECTS = """
SELECT CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END, g.is_grantable, r.rolname = session_user
FROM pg_database d CROSS JOIN aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) g
LEFT JOIN pg_roles r ON r.oid = g.grantee
WHERE d.datname = current_database() AND g.privilege_type = 'CONNECT' ORDER BY 1
"""
_DATABASE = """
SELECT quote_ident(d.datname), pg_get_userbyid(d.datdba)::text, d.datacl::text[],
       (SELECT c FROM pg_db_role_setting s, unnest(s.setconfig) c
        WHERE s.setdatabase = d.oid AND s.setrole = 0 AND starts_with(c, 'default_transaction_read_only='))
FROM pg_database d WHERE d.datname = current_database()
"""
_STILL_READ = """
SELECT r.rolname::text FROM pg_roles r
WHERE r.rolcanlogin AND NOT r.rolsuper AND r.rolname <> session_user AND has_table_privilege(r.oid, %s, 'SELECT')
ORDER BY 1
"""
_VIEWS = """
SELECT DISTINCT w.ev_class::regclass::text FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
  AND d.refobjid = to_regclass(%s)::oid AND w.ev_class <> d.refobjid ORDER BY 1
"""


def former_grants(legacy: Connected, spec: TableSpec, scope: Scope) -> dict[str, Any]:
    """What will be revoked, and under `reopen` the statements that grant it again."""
    grants = _grants(legacy, spec)
    reopen: list[str] = []
    former: dict[str, Any] = {}
    if scope == "database":
        name, owner, acl, setting = _database(legacy)
        former["database"] = {"name": name, "owner": owner, "acl": acl, "read_only": setting}
        value = setting.partition("=")[2] if setting else None
        reopen.append("SET default_transaction_read_only = off;")  # without it a DBA's session could not change it
        reopen.append(f"ALTER DATABASE {name} " + (f"SET default_transaction_read_only = {value};" if value
                      else "RESET default_transaction_read_only;"))  # fmt: skip
        for who, grantable, _ in legacy.execute(_CONNECTS.encode()):
            reopen.append(f"GRANT CONNECT ON DATABASE {name} TO {who}{_option(grantable)};")
    for kind, name, column, who, privilege, grantable in grants:
        what = f"{privilege} ({column})" if column else privilege
        reopen.append(f"GRANT {what} ON {kind} {name} TO {who}{_option(grantable)};")
    former["grants"] = [
        {"on": f"{kind} {name}", "column": column, "to": who, "privilege": privilege, "grantable": grantable}
        for kind, name, column, who, privilege, grantable in grants
    ]
    return {**former, "reopen": reopen}


def close(legacy: Connected, spec: TableSpec, scope: Scope) -> list[str]:
    """Revoke every privilege; for the database also CONNECT and writing. Safe to repeat.

    Returns:
        Sessions of other clients that could not be ended.

    Raises:
        DecommissionError: A grant could not be revoked; then none was.
    """
    with legacy.transaction():
        legacy.execute("SET LOCAL synchronous_commit = on")
        _revoke_grants(legacy, spec)
        if scope == "database":
            _close_database(legacy)
    if scope == "table":
        return []
    for pid, _ in other_sessions(legacy):
        # Sessions of superusers, and of roles that ours is not a member of, stay and are listed.
        with suppress(errors.InsufficientPrivilege):
            legacy.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    return [who for _, who in other_sessions(legacy)]


def still_open(legacy: Connected, spec: TableSpec, scope: Scope) -> list[str]:
    """The ways to the rows that are left, which a person should know of."""
    if scope == "database":
        return ["superusers can still connect"]
    roles = [str(row[0]) for row in legacy.execute(_STILL_READ, [str(spec.table)])]
    views = [str(row[0]) for row in legacy.execute(_VIEWS, [str(spec.table)])]
    found = ["superusers can still read the table"]
    if roles:
        found.append(f"so can, as its owner or by a membership: {', '.join(roles)}")
    if views:
        found.append(f"views read it with their owner's rights, whoever may read them: {', '.join(views)}")
    return found


def would_close(former: Mapping[str, Any], scope: Scope) -> list[str]:
    """What `close` would do, for a dry run."""
    grants = {(str(one["on"]), str(one["to"])) for one in former["grants"]}
    steps = [f"revoke all privileges on {on} from {to}" for on, to in sorted(grants)]
    if scope == "database":
        name = former["database"]["name"]
        steps += [f"revoke CONNECT on database {name} from PUBLIC and every role but ours",
                  f"make database {name} read-only (default_transaction_read_only)",
                  "end sessions that are left"]  # fmt: skip
    return steps


def _grants(legacy: Connected, spec: TableSpec) -> list[tuple[Any, ...]]:
    return legacy.execute(OBJECTS + _GRANTS, {"table": str(spec.table)}).fetchall()


def _revoke_grants(legacy: Connected, spec: TableSpec) -> None:
    for kind, name, who in sorted({(str(row[0]), str(row[1]), str(row[3])) for row in _grants(legacy, spec)}):
        # All three are texts that the server itself has quoted.
        legacy.execute(raw_sql(f"REVOKE ALL PRIVILEGES ON {kind} {name} FROM {who} CASCADE"))
    stays = _grants(legacy, spec)
    if stays:
        raise DecommissionError(
            f"{stays[0][4]} on {stays[0][1]} could not be revoked from {stays[0][3]}",
            where=spec.relation,
            state_left="no privilege was taken away; a rollback is refused already",
            next_step="take it away as the role that granted it, then run this again: it goes on",
        )


def _close_database(legacy: Connected) -> None:
    name = raw_sql(_database(legacy)[0])
    connects = legacy.execute(_CONNECTS.encode()).fetchall()
    if not any(ours for _, _, ours in connects):
        # Else our own next run could not connect.
        legacy.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO SESSION_USER").format(name))
    for who, _, ours in connects:
        if not ours:
            legacy.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM {} CASCADE").format(name, raw_sql(str(who))))
    legacy.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))


def _database(legacy: Connected) -> tuple[Any, ...]:
    return require_row(legacy.execute(_DATABASE.encode()).fetchone(), "the database")


def _option(grantable: bool) -> str:
    return " WITH GRANT OPTION" if grantable else ""
