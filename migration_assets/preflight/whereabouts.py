"""Whether the two URLs lead to two databases, and to the servers that the ledger knows: by what answers there."""

import secrets

from migration_assets.domain.findings import Area, Finding
from migration_assets.domain.stream_sample import RECOVER
from migration_assets.postgres.sessions import Connected, Side, is_standby, require_row
from migration_assets.preflight.wording import info, judge
from migration_assets.stream.servers import changed_server

_AREA: dict[Side, Area] = {"legacy": Area.LEGACY, "base": Area.BASE}


def examine_two_databases(legacy: Connected, base: Connected) -> list[Finding]:
    """Two URLs may differ in every word and lead to one database; and a clone has the identifiers of what it is of."""
    of_legacy, of_base = _identifiers(legacy), _identifiers(base)
    if of_legacy == of_base and _is_seen(legacy, base):
        evidence = f"both URLs lead to the same database: {_name(base)} on the server {of_base[0]}"
    elif of_legacy == of_base and (is_standby(legacy) or is_standby(base)):
        follower, other = ("legacy", "base") if is_standby(legacy) else ("base", "legacy")
        evidence = f"the {follower}'s URL leads to a standby of the {other}: to the same database, in another place"
    else:
        where = "on one server" if of_legacy[0] == of_base[0] else "on two servers"
        return [info("two_databases", Area.BASE, f"{_name(legacy)} and {_name(base)} are two databases {where}")]
    remedy = (
        "let MIGRATION_LEGACY_URL lead to the database that has the table, and MIGRATION_BASE_URL to the new one that"
        " is to have it; nothing can be moved from a database into itself"
    )
    return [judge("two_databases", Area.BASE, evidence, good=False, remedy=remedy)]


def examine_known_server(base: Connected, relation: str, side: Side, connection: Connected) -> list[Finding]:
    """Whether what answers is the server that the stream was built on: else it is a copy of it, or came back as one."""
    if is_standby(connection) or is_standby(base):
        return []  # another finding says so, and a standby has no place of its own in the WAL
    found = changed_server(base, relation, side, connection)
    which = "this ledger was written in another base: this is a copy of it (a fork), or it has moved"
    return [
        judge(
            "known_server",
            _AREA[side],
            (f"{which}; " if side == "base" else "") + "; ".join(found)
            if found
            else f"the ledger knows of no other server as the {side}",
            good=not found,
            remedy=f"where this is a copy or another server by mistake, correct MIGRATION_{side.upper()}_URL: two bases"
            f" with one ledger must never follow one legacy, nor write one archive. Where the {side} is this one from"
            f" now on: {RECOVER}",
        )
    ]


def _identifiers(connection: Connected) -> tuple[str, int]:
    row = connection.execute(
        "SELECT c.system_identifier::text, d.oid::bigint FROM pg_control_system() c, pg_database d"
        " WHERE d.datname = current_database()"
    ).fetchone()
    system, database = require_row(row, "the server")
    return str(system), int(database)


def _is_seen(one: Connected, other: Connected) -> bool:
    """Whether both sessions are of one running server: what one of them locks, the other sees."""
    key = secrets.randbits(31), secrets.randbits(31)
    with one.transaction():
        one.execute("SELECT pg_advisory_xact_lock(%s, %s)", key)
        row = other.execute(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND objid = %s"
            " AND objsubid = 2 AND pid = %s)",
            [*key, one.info.backend_pid],
        ).fetchone()
    return bool(require_row(row, "a lock")[0])


def _name(connection: Connected) -> str:
    return f"{connection.info.dbname} on {connection.info.host}:{connection.info.port}"
