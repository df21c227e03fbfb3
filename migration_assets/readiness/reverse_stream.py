"""Examines what a cutover needs beyond the migration: the base has to publish, and the legacy to subscribe."""

from collections.abc import Iterator

from psycopg import sql

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.table_description import identity_statement
from migration_assets.domain.table_spec import parse_identifiers, quote_identifier
from migration_assets.postgres.own_schema import own_schema
from migration_assets.postgres.sessions import Connected, Side, require_row
from migration_assets.preflight.plan import info, judge, listed
from migration_assets.preflight.servers import version_of
from migration_assets.quarters.own_writes import grant_silence, what_fires
from migration_assets.readiness.rules import Sides
from migration_assets.stream.way import examine_applying, examine_sending

_SUBSCRIPTION_ROLE_SINCE = 16
_ORIGINS_SETTING_SINCE = 18
_AREA: dict[Side, Area] = {"legacy": Area.LEGACY, "base": Area.BASE}


def examine_reverse(sides: Sides) -> list[Finding]:
    """Servers, rights and sequences for the reverse stream. Preflight examines what the forward stream needs."""
    return [
        *_publisher(sides.base),
        *_subscriber(sides.legacy),
        *_rights_in_base(sides),
        *_rights_in_legacy(sides),
        *_identity(sides),
        *_repairs(sides.legacy, sides, "legacy"),
        *_repairs(sides.base, sides, "base"),
        *_sequences(sides, "legacy"),
        *_sequences(sides, "base"),
        *examine_applying(sides.legacy, "legacy"),
        *examine_sending(sides.base, "base"),
    ]


def _publisher(base: Connected) -> Iterator[Finding]:
    row = base.execute(
        "SELECT pg_is_in_recovery(), current_setting('wal_level'), current_setting('max_replication_slots')::int,"
        " current_setting('max_wal_senders')::int, (SELECT count(*) FROM pg_replication_slots),"
        " (SELECT count(*) FROM pg_stat_replication), current_setting('max_slot_wal_keep_size'),"
        " EXISTS (SELECT FROM pg_replication_slots WHERE database = current_database()"
        "         AND slot_name ~ '^migration_assets_.*_back$')"
    ).fetchone()
    standby, level, slots, senders, slots_used, senders_used, kept, own = require_row(row, "the base's settings")
    wanted = 0 if own else 1
    yield judge(
        "base_publishes",
        Area.BASE,
        f"wal_level = {level} in the base{', which is a standby' if standby else ''}",
        good=level == "logical" and not standby,
        remedy="in the base, a primary: ALTER SYSTEM SET wal_level = 'logical'; then restart it (RDS:"
        " rds.logical_replication = 1); the reverse stream begins there",
    )
    yield judge(
        "base_slots",
        Area.BASE,
        f"{slots - slots_used} of {slots} replication slots and {senders - senders_used} of {senders} WAL senders are"
        " free in the base",
        good=slots - slots_used >= wanted and senders - senders_used >= wanted,
        remedy=f"in the base: ALTER SYSTEM SET max_replication_slots = {max(slots, slots_used + 2)}; ALTER SYSTEM SET"
        f" max_wal_senders = {max(senders, senders_used + 4)}; then restart it; or drop unused slots",
    )
    yield judge(
        "base_slot_wal_limit",
        Area.BASE,
        f"max_slot_wal_keep_size = {kept} in the base"
        + (": a legacy that does not read fills its disk" if kept == "-1" else ""),
        good=kept != "-1",
        remedy="in the base: ALTER SYSTEM SET max_slot_wal_keep_size = '64GB'; SELECT pg_reload_conf(); -- less than is"
        " free; a slot that reached it ends the possibility to roll back",
        severity=Severity.WARNING,
    )


def _subscriber(legacy: Connected) -> Iterator[Finding]:
    major, _ = version_of(legacy)
    setting = "max_active_replication_origins" if major >= _ORIGINS_SETTING_SINCE else "max_replication_slots"
    row = legacy.execute(
        "SELECT current_setting('max_logical_replication_workers')::int, current_setting(%s)::int,"
        " (SELECT count(*) FROM pg_stat_subscription WHERE pid IS NOT NULL),"
        " (SELECT count(*) FROM pg_replication_origin),"
        " EXISTS (SELECT FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid"
        "         WHERE d.datname = current_database() AND s.subname ~ '^migration_assets_.*_back$')",
        [setting],
    ).fetchone()
    workers, origins, workers_used, origins_used, own = require_row(row, "the legacy's settings")
    wanted = 0 if own else 1
    yield judge(
        "legacy_apply_workers",
        Area.LEGACY,
        f"{workers - workers_used} of {workers} logical replication workers and {origins - origins_used} of {origins}"
        " replication origins are free in the legacy",
        good=workers - workers_used >= wanted and origins - origins_used >= wanted,
        remedy=f"in the legacy: ALTER SYSTEM SET max_logical_replication_workers = {max(workers, workers_used + 4)};"
        f" ALTER SYSTEM SET {setting} = {max(origins, origins_used + 4)}; then restart it",
    )


def _rights_in_base(sides: Sides) -> Iterator[Finding]:
    row = sides.base.execute(
        "SELECT current_user::text, r.rolsuper OR r.rolreplication OR EXISTS (SELECT FROM pg_roles g WHERE g.rolname"
        "  IN ('rds_superuser', 'rds_replication') AND pg_has_role(g.oid, 'USAGE')),"
        " pg_has_role(c.relowner, 'USAGE'), pg_get_userbyid(c.relowner)::text,"
        " has_database_privilege(current_database(), 'CREATE'), current_database()::text"
        " FROM pg_roles r, pg_class c WHERE r.rolname = current_user AND c.oid = to_regclass(%s)",
        [str(sides.spec.table)],
    ).fetchone()
    user, replicates, owns, owner, creates, database = require_row(row, "the rights in the base")
    role = quote_identifier(user)
    yield judge(
        "base_replication_right",
        Area.BASE,
        f"role {role} may {'' if replicates else 'not '}make the reverse stream's slot in the base",
        good=replicates,
        remedy=f"in the base: ALTER ROLE {role} REPLICATION; -- on RDS: GRANT rds_replication TO {role};",
    )
    yield judge(
        "base_ownership",
        Area.BASE,
        f"{sides.spec.table} belongs to {owner} in the base; role {role} has its rights: {_yes(owns)}; CREATE on"
        f" database {database}: {_yes(creates)}",
        good=owns and creates,
        remedy=f"in the base: GRANT {quote_identifier(owner)} TO {role}; GRANT CREATE ON DATABASE"
        f" {quote_identifier(database)} TO {role}; -- the hold and the publication need the owner",
    )


def _rights_in_legacy(sides: Sides) -> Iterator[Finding]:
    row = sides.legacy.execute(
        "SELECT current_user::text, r.rolsuper,"
        " EXISTS (SELECT FROM pg_roles g WHERE g.rolname = 'pg_create_subscription' AND pg_has_role(g.oid, 'USAGE')),"
        " EXISTS (SELECT FROM pg_roles g WHERE g.rolname = 'rds_superuser' AND pg_has_role(g.oid, 'USAGE')),"
        " pg_has_role(c.relowner, 'USAGE'), pg_get_userbyid(c.relowner)::text,"
        " has_database_privilege(current_database(), 'CREATE'), current_database()::text,"
        " coalesce((SELECT has_schema_privilege(n.oid, 'CREATE') FROM pg_namespace n WHERE n.nspname = 'migration'),"
        "          true)"
        " FROM pg_roles r, pg_class c WHERE r.rolname = current_user AND c.oid = to_regclass(%s)",
        [str(sides.spec.table)],
    ).fetchone()
    user, superuser, subscribes, managed, owns, owner, creates, database, in_schema = require_row(row, "the rights")
    role = quote_identifier(user)
    has_role = version_of(sides.legacy)[0] >= _SUBSCRIPTION_ROLE_SINCE
    yield judge(
        "legacy_subscription_right",
        Area.LEGACY,
        f"role {role} may {'' if superuser or subscribes or managed else 'not '}create the reverse stream's"
        " subscription in the legacy",
        good=superuser or subscribes or managed,
        remedy=f"in the legacy: GRANT pg_create_subscription TO {role};"
        if has_role
        else f"in the legacy: ALTER ROLE {role} SUPERUSER; -- before PostgreSQL 16 nobody else may; only until the"
        " rollback window is over",
    )
    yield judge(
        "legacy_ownership",
        Area.LEGACY,
        f"{sides.spec.table} belongs to {owner} in the legacy; role {role} has its rights: {_yes(owns)}; CREATE on"
        f" database {database}: {_yes(creates)}, on schema {own_schema(sides.legacy)}: {_yes(in_schema)}",
        good=owns and creates and in_schema,
        remedy=f"in the legacy: GRANT {quote_identifier(owner)} TO {role}; GRANT CREATE ON DATABASE"
        f" {quote_identifier(database)} TO {role}; -- the hold's trigger needs the owner",
    )
    password = bool(sides.base.info.password)
    yield judge(
        "reverse_password",
        Area.LEGACY,
        "the reverse stream's connection has "
        + ("a password" if password else "no password" + ("" if superuser else ", which only a superuser's may lack")),
        good=superuser or password,
        remedy="give MIGRATION_BASE_URL_FOR_LEGACY with user and password; the base must ask for it (pg_hba.conf:"
        " scram-sha-256)",
        severity=Severity.WARNING,
    )


def _repairs(connection: Connected, sides: Sides, side: Side) -> Iterator[Finding]:
    found = what_fires(connection, [sides.spec.table])
    if found:
        evidence = (
            f"a repair of the {side} would be refused: its rows would fire {listed(found)}, which no stream does, and"
            " our role may not keep them from firing"
        )
        remedy = f"in the {side}, as a superuser: {grant_silence(connection)}"
        yield Finding("repairs_would_fire", _AREA[side], Severity.WARNING, evidence, remedy)


def _identity(sides: Sides) -> Iterator[Finding]:
    """Whether every partition has a replica identity: without one, updates and deletes fail once the base publishes."""
    rows = sides.base.execute(
        "SELECT c.oid::regclass::text FROM pg_partition_tree(to_regclass(%s)) p JOIN pg_class c ON c.oid = p.relid"
        " WHERE p.isleaf AND c.relreplident <> 'f' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid"
        "  AND i.indimmediate AND i.indisvalid AND i.indisunique"
        "  AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END)"
        " ORDER BY 1",
        [str(sides.spec.table)],
    ).fetchall()
    yield judge(
        "base_identity",
        Area.BASE,
        f"partitions whose rows the reverse stream could not tell apart: {listed(str(row[0]) for row in rows)}"
        if rows
        else "every partition has a replica identity",
        good=not rows,
        remedy=f"in the base: {identity_statement(sides.spec.table)}",
    )


def _sequences(sides: Sides, side: Side) -> Iterator[Finding]:
    """Rights on sequences. A cutover reads the legacy's and sets the base's; a rollback does it the other way round."""
    connection, description = (
        (sides.legacy, sides.of_legacy) if side == "legacy" else (sides.base, sides.of_base)
    )  # fmt: skip
    for name in sorted({one.sequence for one in description.sequence_uses}):
        row = connection.execute(
            "SELECT has_sequence_privilege(%(name)s, 'SELECT') AND has_sequence_privilege(%(name)s, 'UPDATE'),"
            " quote_ident(current_user)",
            {"name": name},
        ).fetchone()
        good, role = require_row(row, "a privilege")
        if good:
            yield info("sequence_rights", _AREA[side], f"sequence {name} may be read and set in the {side}")
            continue
        quoted = sql.Identifier(*parse_identifiers(name)).as_string(connection)
        yield Finding(
            "sequence_rights",
            _AREA[side],
            Severity.BLOCKING,
            f"role {role} may not read and set sequence {name} in the {side}",
            f"in the {side}: GRANT SELECT, UPDATE ON SEQUENCE {quoted} TO {role};",
        )


def _yes(value: bool) -> str:
    return "yes" if value else "no"
