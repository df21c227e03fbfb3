"""Examines both servers, each by itself and as a pair, and the types and collations that the base must have."""

from collections.abc import Iterable
from typing import Any

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.session_places import SessionLimits, needed, needed_by_copies
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import parse_identifiers, quote_identifier
from migration_assets.domain.user_types import Collation, UserType, collation_differences, type_differences
from migration_assets.postgres.catalogue import describe_types
from migration_assets.postgres.sessions import Connected, Side, require_row
from migration_assets.preflight.plan import PreflightPlan, info, judge, listed
from migration_assets.quarters.base_table import type_exists

_OLDEST_MAJOR, _NEWEST_PROVEN_MAJOR = 15, 18
_ORIGINS_SETTING_SINCE = 18
# Tested on 15.20, 16.14 and 18.4: ALTER PUBLICATION takes effect for open transactions. Older minors may keep the stale
# row filter (16.2 does, and silently loses rows). 17.10 was released together with 16.14 and 18.4.
_SAFE_MINOR = {15: 20, 16: 14, 17: 10, 18: 4}
_AREA: dict[Side, Area] = {"legacy": Area.LEGACY, "base": Area.BASE}


def version_of(connection: Connected) -> tuple[int, int]:
    """Return the server's major and minor version."""
    return divmod(connection.info.server_version, 10_000)


def examine_version(connection: Connected, side: Side) -> list[Finding]:
    """Examine the major version, and on the legacy, which evaluates the row filters, also the minor version."""
    major, minor = version_of(connection)
    evidence = f"PostgreSQL {major}.{minor}"
    if major < _OLDEST_MAJOR:
        remedy = f"upgrade to PostgreSQL {_OLDEST_MAJOR} or newer: row filters of publications came with it"
        return [judge("version", _AREA[side], evidence, good=False, remedy=remedy)]
    if major > _NEWEST_PROVEN_MAJOR:
        return [
            judge(
                "version",
                _AREA[side],
                f"{evidence}; nothing newer than {_NEWEST_PROVEN_MAJOR} was tested",
                good=False,
                remedy="run this package's tests against this version first",
                severity=Severity.WARNING,
            )
        ]
    least = _SAFE_MINOR[major]
    if side == "legacy":
        evidence += f"; safe from {major}.{least} on, older ones may keep a stale row filter and silently lose rows"
    return [
        judge(
            "version",
            _AREA[side],
            evidence,
            good=side == "base" or minor >= least,
            remedy=f"minor update of the legacy to {major}.{least} or later: new binaries and a restart, no dump",
        )
    ]


def examine_legacy_server(legacy: Connected) -> list[Finding]:
    """Examine whether a change stream can begin here."""
    row = legacy.execute(
        "SELECT pg_is_in_recovery(), current_setting('wal_level'), current_setting('max_replication_slots')::int,"
        " current_setting('max_wal_senders')::int, (SELECT count(*) FROM pg_replication_slots),"
        " (SELECT count(*) FROM pg_stat_replication), current_setting('max_slot_wal_keep_size'),"
        " (SELECT count(*) FROM pg_replication_slots WHERE plugin = 'pgoutput' AND database = current_database())"
    ).fetchone()
    standby, wal_level, slots, senders, slots_used, senders_used, kept, own = require_row(row, "the legacy's settings")
    # A stream of ours that already runs needs no second slot.
    wanted = (0, 0) if own else (1, 2)
    return [
        judge(
            "in_recovery",
            Area.LEGACY,
            "it is a standby" if standby else "it is a primary",
            good=not standby,
            remedy="point MIGRATION_LEGACY_URL at the primary: publications and markers are written there",
        ),
        judge(
            "wal_level",
            Area.LEGACY,
            f"wal_level = {wal_level}",
            good=wal_level == "logical",
            remedy="ALTER SYSTEM SET wal_level = 'logical'; then restart the legacy (RDS: rds.logical_replication = 1)",
        ),
        judge(
            "replication_slots",
            Area.LEGACY,
            f"{slots - slots_used} of {slots} replication slots are free"
            + (f", {own} of those in use belong to this database and pgoutput" if own else ""),
            good=slots - slots_used >= wanted[0],
            remedy=f"ALTER SYSTEM SET max_replication_slots = {slots_used + 2}; then restart; or drop unused slots",
        ),
        judge(
            "wal_senders",
            Area.LEGACY,
            f"{senders - senders_used} of {senders} WAL senders are free",
            good=senders - senders_used >= wanted[1],
            remedy=f"ALTER SYSTEM SET max_wal_senders = {senders_used + 4}; then restart the legacy",
        ),
        judge(
            "slot_wal_limit",
            Area.LEGACY,
            "max_slot_wal_keep_size = "
            + ("-1: a slot that nobody reads keeps WAL until the disk is full" if kept == "-1" else kept),
            good=kept != "-1",
            remedy="ALTER SYSTEM SET max_slot_wal_keep_size = '64GB'; SELECT pg_reload_conf(); -- less than is free",
            severity=Severity.WARNING,
        ),
    ]


def examine_base_server(base: Connected) -> list[Finding]:
    """Examine whether the base accepts writes and can run a subscription."""
    major, _ = version_of(base)
    origins_setting = "max_active_replication_origins" if major >= _ORIGINS_SETTING_SINCE else "max_replication_slots"
    row = base.execute(
        "SELECT pg_is_in_recovery(), current_setting('transaction_read_only'),"
        " current_setting('max_logical_replication_workers')::int, current_setting('max_worker_processes')::int,"
        " current_setting(%s)::int, (SELECT count(*) FROM pg_replication_origin),"
        " (SELECT count(*) FROM pg_stat_subscription WHERE pid IS NOT NULL),"
        " (SELECT count(*) FROM pg_stat_subscription s JOIN pg_subscription p ON p.oid = s.subid"
        "  JOIN pg_database d ON d.oid = p.subdbid AND d.datname = current_database())",
        [origins_setting],
    ).fetchone()
    standby, read_only, workers, processes, origins, origins_used, workers_used, own = require_row(
        row, "the base's settings"
    )
    wanted = 0 if own else 1
    return [
        judge(
            "base_writable",
            Area.BASE,
            "it is a standby" if standby else f"transaction_read_only = {read_only}",
            good=not standby and read_only == "off",
            remedy="point MIGRATION_BASE_URL at a primary, with default_transaction_read_only = off for this role",
        ),
        judge(
            "apply_workers",
            Area.BASE,
            f"max_logical_replication_workers = {workers}, {workers_used} in use",
            good=workers - workers_used >= wanted,
            remedy=f"ALTER SYSTEM SET max_logical_replication_workers = {workers_used + 4}; then restart the base",
        ),
        judge(
            "worker_processes",
            Area.BASE,
            f"max_worker_processes = {processes}, of which replication may take {workers} and its launcher 1",
            good=processes > workers,
            remedy=f"ALTER SYSTEM SET max_worker_processes = {workers + 8}; then restart the base: apply workers and"
            " parallel index builds share them",
            severity=Severity.WARNING,
        ),
        judge(
            "replication_origins",
            Area.BASE,
            f"{origins_setting} = {origins}, {origins_used} in use",
            good=origins - origins_used >= wanted,
            remedy=f"ALTER SYSTEM SET {origins_setting} = {origins_used + 10}; then restart the base: the worker of a"
            " subscription without a free origin restarts for ever without a message",
        ),
    ]


def examine_connections(connection: Connected, side: Side, plan: PreflightPlan) -> list[Finding]:
    """Examine whether copies find free connections; limits of the role and the database count too."""
    row = connection.execute(
        "SELECT current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int"
        " + coalesce(current_setting('reserved_connections', true)::int, 0),"
        # Not pg_stat_activity: a role without rights does not see which of its rows are clients.
        " (SELECT sum(numbackends)::int FROM pg_stat_database),"
        " (SELECT numbackends FROM pg_stat_database WHERE datname = current_database()),"
        " (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user),"
        " (SELECT datconnlimit FROM pg_database WHERE datname = current_database())"
    ).fetchone()
    limit, reserved, used, used_here, role_limit, database_limit = require_row(row, "the connections")
    free = [limit - reserved - used]
    evidence = f"{free[0]} connections are free (max_connections {limit}, {reserved} reserved, {used} in use)"
    if role_limit >= 0:
        free.append(role_limit - used_here)
        evidence += f"; the role may have {role_limit}"
    if database_limit >= 0:
        free.append(database_limit - used_here)
        evidence += f"; the database may have {database_limit}"
    weeks, asked = plan.parallel_copies, max(plan.wanted_copies, plan.parallel_copies)
    places, by_copies = needed(weeks), needed_by_copies(weeks)
    at_most, at_least = (places.legacy, by_copies.legacy) if side == "legacy" else (places.base, by_copies.base)
    fewer = f" (of {asked}: MIGRATION_LEGACY_SESSIONS and MIGRATION_BASE_SESSIONS leave room for no more)"
    limit = max(1, min(free))
    fits = needed(1).fits(SessionLimits(**{side: limit}))
    return [
        judge(
            "connections",
            _AREA[side],
            f"{evidence}; with {weeks} weeks at once{fewer if asked > weeks else ''} up to {at_most} sessions on the"
            f" {side}, of which first copies alone take {at_least}",
            good=min(free) >= at_most,
            remedy=f"raise max_connections (restart) or the role's or database's CONNECTION LIMIT so that {at_most} are"
            " free, or lower MIGRATION_PARALLEL_COPIES"
            + (
                f", or set MIGRATION_{side.upper()}_SESSIONS={limit}: then only as many weeks run at once as fit"
                if fits
                else ""
            ),
            severity=Severity.BLOCKING if min(free) < at_least else Severity.WARNING,
        )
    ]


def compare_servers(legacy: Connected, base: Connected) -> list[Finding]:
    """Examine what matters only between two servers: majors, encodings, collations, time zones."""
    majors = version_of(legacy)[0], version_of(base)[0]
    of_legacy, of_base = _locale(legacy), _locale(base)
    encodings = of_legacy["encoding"], of_base["encoding"]
    same_order = _order(of_legacy) == _order(of_base)
    stale = [side for side, of in (("legacy", of_legacy), ("base", of_base)) if of["version"] != of["actual"]]
    # The server's own default: our sessions use UTC in any case.
    zones = f"default time zone {of_legacy['zone']} in the legacy, {of_base['zone']} in the base"
    return [
        judge(
            "version_order",
            Area.BASE,
            f"legacy {majors[0]}, base {majors[1]}",
            good=majors[0] <= majors[1],
            remedy="use a base of the same or a newer major version: types and settings may be missing in an older one",
            severity=Severity.WARNING,
        ),
        judge(
            "encoding",
            Area.BASE,
            f"legacy {encodings[0]}, base {encodings[1]}",
            good=encodings[0] == encodings[1] and "SQL_ASCII" not in encodings,
            remedy="create the base database with the legacy's encoding, and not SQL_ASCII: fingerprints hash the"
            " server's own bytes, so that every text beyond ASCII would differ",
            severity=Severity.WARNING,
        ),
        judge(
            "collation",
            Area.BASE,
            f"legacy {_locale_text(of_legacy)}; base {_locale_text(of_base)}",
            good=same_order and not stale,
            remedy="none is needed for the data: only the order of texts in indexes and results may differ. For equal"
            " order create the base database with the legacy's locale"
            + (f"; REINDEX and ALTER DATABASE … REFRESH COLLATION VERSION on: {', '.join(stale)}" if stale else ""),
            severity=Severity.WARNING,
        ),
        info("time_zone", Area.BASE, f"{zones}; every session of ours uses UTC, so that neither matters"),
    ]


def _locale(connection: Connected) -> dict[str, Any]:
    row = connection.execute(
        # As JSON, because the column of the ICU locale was renamed in PostgreSQL 17.
        "SELECT d.datlocprovider::text, d.datcollate, coalesce(j->>'datlocale', j->>'daticulocale'), d.datcollversion,"
        " pg_database_collation_actual_version(d.oid), pg_encoding_to_char(d.encoding),"
        " (SELECT reset_val FROM pg_settings WHERE name = 'TimeZone')"
        " FROM pg_database d, LATERAL to_jsonb(d) AS j WHERE d.datname = current_database()"
    ).fetchone()
    names = ("provider", "collate", "locale", "version", "actual", "encoding", "zone")
    return dict(zip(names, require_row(row, "the database's locale"), strict=True))


def _order(of: dict[str, Any]) -> tuple[Any, ...]:
    """Return what decides the order of texts."""
    name = of["locale"] or of["collate"]
    # These sort by code points whatever provides them, and so never change.
    if of["provider"] != "i" and name.upper().replace("-", "") in {"C", "POSIX", "C.UTF8"}:
        return ("code points",)
    return (of["provider"], name, of["version"])


def _locale_text(of: dict[str, Any]) -> str:
    provider = {"c": "libc", "i": "icu", "b": "builtin"}.get(of["provider"], of["provider"])
    text = f"{provider} {of['locale'] or of['collate']} version {of['version'] or 'none'}"
    return text if of["version"] == of["actual"] else f"{text} (the library has {of['actual']})"


_KINDS = {"c": "composite", "r": "range", "m": "multirange", "b": "base"}


def examine_types(base: Connected, description: TableDescription) -> list[Finding]:
    """Examine user types: enums and domains are created with the table, others must exist; existing ones must match."""
    absent = [one for one in description.types if not type_exists(base, one)]
    missing = [one for one in absent if not one.can_be_created]
    made = [one.name for one in absent if one.can_be_created]
    evidence = f"{len(description.types)} user types are used"
    if made:
        evidence += f", {listed(made)} will be created"
    if missing:
        evidence += ", missing in the base: " + listed(f"{t.name} ({_KINDS.get(t.kind, t.kind)})" for t in missing)
    findings = [
        judge(
            "types",
            Area.BASE,
            evidence,
            good=not missing,
            remedy="in the base: " + " ".join(_creation(base, description, absent, missing)),
        )
    ]
    if not description.types and not description.collations:
        return findings
    there = describe_types(base, [one.name for one in description.types], [one.name for one in description.collations])
    columns = [(column.name, column.type_name, column.default) for column in description.columns]
    differences = [
        *type_differences(description.types, there.types, columns, str(description.table)),
        *collation_differences(description.collations, there.collations),
    ]
    findings += [Finding("types_differ", Area.BASE, Severity.BLOCKING, one.what, one.remedy) for one in differences]
    return findings


def _creation(
    base: Connected, description: TableDescription, absent: list[UserType], missing: list[UserType]
) -> list[str]:
    """Return statements that can be run as they are, in this order; an extension may bring several types."""
    needed = {one.name for one in missing}
    for one in reversed(description.types):  # each type comes after those that it is made of
        if one.name in needed and one in absent:
            needed |= set(one.uses)
    making = [one for one in absent if one.name in needed]
    collations = {one.name: one for one in description.collations}
    statements: list[str] = []
    for one in making:
        wanted = [collations[name] for name in one.collations if name in collations]
        statements += [text for each in wanted if not has_collation(base, each.name) for text in collation_of(each)]
        schemas = {parse_identifiers(one.name)[0]} | ({one.extension.schema} if one.extension else set[str]())
        for schema in sorted(schemas):
            if not _has_schema(base, schema):
                statements.append(f"CREATE SCHEMA IF NOT EXISTS {quote_identifier(schema)};")
        if one.extension is not None and _has_extension(base, one.extension.name):
            statements.append(
                f"ALTER EXTENSION {quote_identifier(one.extension.name)} SET SCHEMA"
                f" {quote_identifier(one.extension.schema)};"
            )
        else:
            statements += one.creation
    return list(dict.fromkeys(statements))


def examine_collations(base: Connected, description: TableDescription) -> list[Finding]:
    """Examine the collations of columns, fields, domains and ranges; the rehearsal finds those of indexes."""
    missing = [one for one in description.collations if not has_collation(base, one.name)]
    return [
        judge(
            "collations",
            Area.BASE,
            f"missing in the base: {listed(one.name for one in missing)}"
            if missing
            else f"{len(description.collations)} collations that the table names, all of them in the base",
            good=not missing,
            remedy="in the base: " + " ".join(_creations(base, missing)),
        )
    ]


def _creations(base: Connected, missing: Iterable[Collation]) -> Iterable[str]:
    for one in missing:
        schema = parse_identifiers(one.name)[0]
        if not _has_schema(base, schema):
            yield f"CREATE SCHEMA IF NOT EXISTS {quote_identifier(schema)};"
        yield from collation_of(one)


def collation_of(one: Collation) -> tuple[str, ...]:
    """Return the statements that create the collation."""
    if parse_identifiers(one.name)[0] == "pg_catalog":
        return (
            f"SELECT pg_import_system_collations('pg_catalog'); -- once the system of the base has locale {one.locale}",
        )
    return (f"CREATE COLLATION IF NOT EXISTS {one.name} ({one.options});",)


def has_collation(base: Connected, name: str) -> bool:
    """Return whether the base has the collation in an encoding that it can use there."""
    # A collation of another encoding may have the same name, but cannot be used.
    row = base.execute(
        "SELECT EXISTS (SELECT FROM pg_collation WHERE oid = to_regcollation(%s)"
        " AND collencoding IN (-1, (SELECT encoding FROM pg_database WHERE datname = current_database())))",
        [name],
    ).fetchone()
    return bool(require_row(row, "a collation")[0])


def _has_schema(base: Connected, name: str) -> bool:
    return base.execute("SELECT FROM pg_namespace WHERE nspname = %s", [name]).fetchone() is not None


def _has_extension(base: Connected, name: str) -> bool:
    return base.execute("SELECT FROM pg_extension WHERE extname = %s", [name]).fetchone() is not None
