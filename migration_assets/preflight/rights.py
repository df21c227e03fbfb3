"""Examines what the two roles may do, and what publishing the table will ask of the legacy."""

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import QualifiedName, TableSpec, quote_identifier
from migration_assets.ledger.stream_parts import may_see_subscription
from migration_assets.postgres.refused_changes import refused_changes
from migration_assets.postgres.sessions import Connected, Side, require_row
from migration_assets.preflight.plan import info, judge, listed, size
from migration_assets.preflight.servers import version_of
from migration_assets.stream.legacy_side import replica_identity

_SUBSCRIPTION_ROLE_SINCE = 16


def examine_legacy_rights(legacy: Connected, table: QualifiedName) -> list[Finding]:
    """Examine the rights to read, to replicate, and of the owner, who alone may set REPLICA IDENTITY and publish."""
    row = legacy.execute(
        "SELECT current_user::text, r.rolsuper, r.rolreplication,"
        " ARRAY(SELECT g.rolname::text FROM pg_roles g WHERE g.rolname IN ('rds_superuser', 'rds_replication')"
        "       AND pg_has_role(g.oid, 'USAGE')),"
        " current_database()::text, has_database_privilege(current_database(), 'CREATE'),"
        " has_schema_privilege(n.oid, 'USAGE'), has_table_privilege(c.oid, 'SELECT'),"
        " pg_has_role(c.relowner, 'USAGE'), pg_get_userbyid(c.relowner)::text, row_security_active(c.oid)"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, pg_roles r"
        " WHERE n.nspname = %s AND c.relname = %s AND r.rolname = current_user",
        [table.schema, table.name],
    ).fetchone()
    (user, superuser, replication, managed, database, create, usage, select, owns, owner, hidden) = require_row(
        row, "the rights on the table"
    )
    role = quote_identifier(user)
    may_replicate = superuser or replication or bool(managed)
    by = "superuser" if superuser else "REPLICATION attribute" if replication else ", ".join(managed) or "nothing"
    return [
        judge(
            "read_right",
            Area.LEGACY,
            f"role {role}: USAGE on schema {table.schema} {_yes(usage)}, SELECT on {table} {_yes(select)}",
            good=usage and select,
            remedy=f"GRANT USAGE ON SCHEMA {quote_identifier(table.schema)} TO {role};"
            f" GRANT SELECT ON {table} TO {role};",
        ),
        judge(
            "row_security",
            Area.LEGACY,
            f"row security {'hides rows' if hidden else 'hides nothing'} from role {role}",
            good=not hidden,
            remedy=f"ALTER ROLE {role} BYPASSRLS; -- otherwise the copy silently misses rows",
        ),
        judge(
            "replication_right",
            Area.LEGACY,
            f"role {role} may replicate by: {by}",
            good=may_replicate,
            remedy=f"ALTER ROLE {role} REPLICATION; -- on RDS: GRANT rds_replication TO {role};",
        ),
        judge(
            "table_ownership",
            Area.LEGACY,
            f"{table} belongs to {owner}; role {role} has its rights: {_yes(owns)}",
            good=owns,
            remedy=f"GRANT {quote_identifier(owner)} TO {role};"
            " -- REPLICA IDENTITY FULL and the publication need the owner",
        ),
        judge(
            "create_right",
            Area.LEGACY,
            f"role {role}: CREATE on database {database} {_yes(create)}",
            good=create,
            remedy=f"GRANT CREATE ON DATABASE {quote_identifier(database)} TO {role};"
            " -- for the publication and the marker table",
        ),
    ]


def examine_base_rights(base: Connected, table: QualifiedName) -> list[Finding]:
    """Examine the rights to create tables and a subscription, and to see that the subscription was altered."""
    row = base.execute(
        "SELECT current_user::text, r.rolsuper, current_database()::text,"
        " has_database_privilege(current_database(), 'CREATE'),"
        " (SELECT has_schema_privilege(n.oid, 'CREATE') FROM pg_namespace n WHERE n.nspname = %s),"
        " (SELECT pg_has_role(g.oid, 'USAGE') FROM pg_roles g WHERE g.rolname = 'pg_create_subscription'),"
        " EXISTS (SELECT FROM pg_roles g WHERE g.rolname = 'rds_superuser' AND pg_has_role(g.oid, 'USAGE'))"
        " FROM pg_roles r WHERE r.rolname = current_user",
        [table.schema],
    ).fetchone()
    user, superuser, database, create, in_schema, subscriber, managed = require_row(row, "the rights in the base")
    role, schema = quote_identifier(user), quote_identifier(table.schema)
    schema_text = "does not exist and will be created" if in_schema is None else f"CREATE {_yes(in_schema)}"
    has_role = version_of(base)[0] >= _SUBSCRIPTION_ROLE_SINCE
    by = "superuser" if superuser else "rds_superuser" if managed else "pg_create_subscription" if subscriber else ""
    return [
        judge(
            "base_rights",
            Area.BASE,
            f"role {role}: CREATE on database {database} {_yes(create)}; schema {schema} {schema_text}",
            good=create and in_schema is not False,
            remedy=f"GRANT CREATE ON DATABASE {quote_identifier(database)} TO {role};"
            + (f" GRANT USAGE, CREATE ON SCHEMA {schema} TO {role};" if in_schema is not None else ""),
        ),
        judge(
            "subscription_right",
            Area.BASE,
            f"role {role} may create a subscription by: {by or 'nothing'}",
            good=bool(by),
            remedy=f"GRANT pg_create_subscription TO {role};" if has_role else f"ALTER ROLE {role} SUPERUSER;",
            severity=Severity.BLOCKING,
        ),
        judge(
            "alterations_right",
            Area.BASE,
            f"role {role} sees when another role alters the subscription: {_yes(may_see_subscription(base))}",
            good=may_see_subscription(base),
            remedy=f"GRANT SELECT (xmin) ON pg_catalog.pg_subscription TO {role}; -- otherwise a change that was"
            " skipped by ALTER SUBSCRIPTION … SKIP, or while the subscription was disabled, is found only by the next"
            " validation; and MIGRATION_CUTOVER_COMPARE_ALL=false compares every week under hold all the same",
            severity=Severity.WARNING,
        ),
    ]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


_FOR_STREAMS = """
SELECT v.statement FROM pg_roles r, LATERAL (VALUES
    (r.rolreplication, format('ALTER ROLE %I NOREPLICATION;', r.rolname)),
    (EXISTS (SELECT FROM pg_auth_members m
             WHERE m.member = r.oid AND m.roleid = to_regrole('pg_create_subscription')),
     format('REVOKE pg_create_subscription FROM %I;', r.rolname)),
    (EXISTS (SELECT FROM pg_attribute a, aclexplode(a.attacl) g
             WHERE a.attrelid = 'pg_subscription'::regclass AND a.attname = 'xmin' AND g.grantee = r.oid),
     format('REVOKE SELECT (xmin) ON pg_catalog.pg_subscription FROM %I;', r.rolname)),
    (EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid AND m.roleid = to_regrole('pg_read_all_stats')),
     format('REVOKE pg_read_all_stats FROM %I;', r.rolname)),
    (EXISTS (SELECT FROM pg_proc p, aclexplode(p.proacl) g WHERE p.pronamespace = 'pg_catalog'::regnamespace
             AND p.proname = 'pg_log_standby_snapshot' AND g.grantee = r.oid),
     format('REVOKE EXECUTE ON FUNCTION pg_catalog.pg_log_standby_snapshot() FROM %I;', r.rolname))
) AS v(there, statement) WHERE r.rolname = current_user AND NOT r.rolsuper AND v.there
"""


def rights_for_streams(base: Connected) -> list[str]:
    """Return statements that take from our role the rights for streams and cutovers; none for a superuser."""
    return [str(statement) for (statement,) in base.execute(_FOR_STREAMS)]


# From 18 on, a replica identity may only include generated columns that are published. Ours are not: the base computes
# its own.
_STRICT_SINCE = 18
_NAMES = {"d": "the primary key", "n": "nothing", "f": "FULL already"}
_SECONDS_A_DAY = 86_400.0


def examine_publication(legacy: Connected, spec: TableSpec, description: TableDescription) -> list[Finding]:
    """Examine what REPLICA IDENTITY FULL costs, and whether the table's columns allow it."""
    generated = [column.name for column in description.columns if column.is_generated]
    major, _ = version_of(legacy)
    possible = not generated or major < _STRICT_SINCE
    return [
        _cost_of_full(legacy, spec),
        *examine_refused_changes(legacy, "legacy", spec),
        judge(
            "generated_columns",
            Area.TABLE,
            f"generated: {listed(generated)}"
            + (
                ""
                if possible
                else f"; on PostgreSQL {major} REPLICA IDENTITY FULL would make every UPDATE and DELETE fail"
            )
            if generated
            else "no generated columns",
            good=possible,
            remedy="make them plain columns on the legacy: "
            + " ".join(f"ALTER TABLE {spec.table} ALTER COLUMN {name} DROP EXPRESSION;" for name in generated)
            + " -- and fill them by a trigger; virtual ones must be dropped",
        ),
    ]


def examine_refused_changes(connection: Connected, side: Side, spec: TableSpec) -> list[Finding]:
    """Find publications that conflict with the replica identity which the stream needs on this side.

    On the legacy that is FULL. On the base it is the identity of the leaves: there the apply worker would fail, and
    after the cutover the applications. These findings cannot be accepted: with such a publication no update or delete
    works.
    """
    area = Area.LEGACY if side == "legacy" else Area.BASE
    found = refused_changes(connection, spec.table, identity="f" if side == "legacy" else None)
    if not found:
        return [info("updates_refused", area, f"no publication of the {side} makes updates and deletes fail")]
    return [
        Finding("updates_refused", area, Severity.BLOCKING, one.what, f"in the {side}: {one.remedy}", one.publication)
        for one in found
    ]


def _cost_of_full(legacy: Connected, spec: TableSpec) -> Finding:
    """Estimate the WAL of REPLICA IDENTITY FULL from recent updates and deletes, each of which logs its old row."""
    row = legacy.execute(
        "SELECT coalesce(t.n_tup_upd + t.n_tup_del, 0)::float8,"
        " pg_table_size(c.oid)::float8 / greatest(c.reltuples::float8, 1),"
        " extract(epoch FROM clock_timestamp() - coalesce(d.stats_reset, pg_postmaster_start_time()))::float8"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " LEFT JOIN pg_stat_all_tables t ON t.relid = c.oid"
        " JOIN pg_stat_database d ON d.datname = current_database() WHERE n.nspname = %s AND c.relname = %s",
        [spec.table.schema, spec.table.name],
    ).fetchone()
    changes, row_bytes, seconds = require_row(row, "the table's statistics")
    identity = replica_identity(legacy, spec)
    now = _NAMES.get(identity, f"index {identity.removeprefix('i:')}")
    a_day = changes / max(seconds, 1.0) * _SECONDS_A_DAY
    return info(
        "replica_identity",
        Area.TABLE,
        f"it is {now}; the change stream sets FULL, under a brief exclusive lock. Every update and delete then also"
        f" writes its old row to the WAL: about {size(row_bytes)} each, {size(a_day * row_bytes)} a day at"
        f" {a_day:,.0f} updates and deletes a day, according to the statistics",
    )
