"""Compares the settings that an application's new session gets on either side, and the room for connections."""

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.readiness import SETTINGS, setting_findings
from migration_assets.domain.table_spec import quote_identifier
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.preflight.wording import info, listed
from migration_assets.readiness.sides import Sides

# What ALTER DATABASE says, or else the server: not what our own role is set to. A command-line setting has no source
# file, so that `reset_val` of a session whose role has no setting of its own stands for the server's.
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
    """Database and server first, then what single roles are set to, then connections."""
    database = require_row(sides.base.execute("SELECT current_database()::text").fetchone(), "the database")[0]
    findings = setting_findings(_effective(sides.legacy), _effective(sides.base), quote_identifier(database))
    return [*findings, *_of_roles(sides), *_connections(sides)]


def _effective(connection: Connected) -> dict[str, str]:
    return {str(name): str(value) for name, value in connection.execute(_SETTINGS, [list(SETTINGS)])}


def _of_roles(sides: Sides) -> list[Finding]:
    wanted = {(role, setting) for role, setting, _ in sides.legacy.execute(_ROLES)}
    there = {(role, setting) for role, setting, _ in sides.base.execute(_ROLES)}
    roles = {str(row[0]) for row in sides.base.execute("SELECT rolname FROM pg_roles")}
    # A role that is missing in the base is named by its grants.
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
