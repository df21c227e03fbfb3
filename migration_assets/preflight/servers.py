"""Examines each server by itself: version, replication, free places."""

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.session_places import SessionLimits, needed, needed_by_copies
from migration_assets.postgres.sessions import Connected, Side, require_row
from migration_assets.preflight.plan import PreflightPlan
from migration_assets.preflight.wording import judge

_OLDEST_MAJOR, _NEWEST_PROVEN_MAJOR = 15, 18
_ORIGINS_SETTING_SINCE = 18
# Proven by experiment on 15.20, 16.14 and 18.4: ALTER PUBLICATION takes effect under open transactions. Older minors
# may keep the stale row filter (16.2 does, and loses rows in silence). 17.10 came out together with 16.14 and 18.4.
_SAFE_MINOR = {15: 20, 16: 14, 17: 10, 18: 4}
_AREA: dict[Side, Area] = {"legacy": Area.LEGACY, "base": Area.BASE}


def version_of(connection: Connected) -> tuple[int, int]:
    """Major and minor."""
    return divmod(connection.info.server_version, 10_000)


def examine_version(connection: Connected, side: Side) -> list[Finding]:
    """Major on both sides; on the legacy the minor too, because it evaluates the row filters."""
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
                f"{evidence}; nothing newer than {_NEWEST_PROVEN_MAJOR} was proven",
                good=False,
                remedy="run this package's tests against this version first",
                severity=Severity.WARNING,
            )
        ]
    least = _SAFE_MINOR[major]
    if side == "legacy":
        evidence += f"; safe from {major}.{least} on, older ones may keep a stale row filter and lose rows in silence"
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
    """Whether a change stream can begin here."""
    row = legacy.execute(
        "SELECT pg_is_in_recovery(), current_setting('wal_level'), current_setting('max_replication_slots')::int,"
        " current_setting('max_wal_senders')::int, (SELECT count(*) FROM pg_replication_slots),"
        " (SELECT count(*) FROM pg_stat_replication), current_setting('max_slot_wal_keep_size'),"
        " (SELECT count(*) FROM pg_replication_slots WHERE plugin = 'pgoutput' AND database = current_database())"
    ).fetchone()
    standby, wal_level, slots, senders, slots_used, senders_used, kept, own = require_row(row, "the legacy's settings")
    # A stream of ours that runs already needs no second slot.
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
    """Whether the base accepts writes and can run a subscription."""
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
            remedy=f"ALTER SYSTEM SET {origins_setting} = {origins_used + 10}; then restart the base: one subscription"
            " too many loops without a word",
        ),
    ]


def examine_connections(connection: Connected, side: Side, plan: PreflightPlan) -> list[Finding]:
    """Whether the copies find free connections, the role's and the database's own limits included."""
    row = connection.execute(
        "SELECT current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int"
        " + coalesce(current_setting('reserved_connections', true)::int, 0),"
        # Not pg_stat_activity: it hides from weak roles which of its rows are clients.
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
                f", or set MIGRATION_{side.upper()}_SESSIONS={limit}: then no more weeks at once than fit"
                if fits
                else ""
            ),
            severity=Severity.BLOCKING if min(free) < at_least else Severity.WARNING,
        )
    ]
