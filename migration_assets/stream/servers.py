"""Which two servers a stream rests on, and whether they are still the same and did not go back in time.

PostgreSQL starts a subscription at the later of its own position and the slot's. A subscriber that went back (a lagging
standby was promoted, a backup was restored) skips what the slot considers applied, and a publisher that went back sends
new changes at positions that were passed already. Neither is an error to PostgreSQL. So the ledger keeps what
identifies each server, and both sides keep the markers: each marker that one side sent must be on the other.

Not detected: a copy of the data directory that is put back without recovery, if between the copy and its return no
look was made and no cut was taken.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import psycopg
from psycopg import errors, sql

from migration_assets.domain.errors import ServerChangedError
from migration_assets.domain.samples import RECOVER
from migration_assets.ledger.own_objects import ledger_has
from migration_assets.ledger.stream import StreamStatus, read_stream, set_status
from migration_assets.ledger.stream_parts import notice_alterations
from migration_assets.postgres.own_schema import in_own_schema
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected, Databases, Side, require_row, standby_answers
from migration_assets.stream.subscription import apply_worker, disable

log = logging.getLogger(__name__)
_IDENTITY = """
SELECT c.system_identifier::text, d.oid::bigint, d.datname::text, current_setting('server_version'),
       CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn()::text END,
       CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END
FROM pg_control_system() c, pg_database d WHERE d.datname = current_database()
"""
_KNOWN = """
SELECT s.side, s.system_identifier, s.timeline, s.database_oid, s.database_name, s.server_version,
       s.lsn_seen::text, s.seen_at::text, s.markers_since
FROM migration.servers s WHERE s.relation = %s
"""
_ORIGIN = """
SELECT o.remote_lsn::text FROM pg_replication_origin_status o JOIN pg_subscription p ON o.external_id = 'pg_' || p.oid
WHERE p.subname = {} AND p.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@dataclass(frozen=True)
class Identity:
    """What identifies a server and its database; `lsn` is its current WAL position."""

    system_identifier: str
    timeline: int
    database_oid: int
    database: str
    version: str
    lsn: str


@dataclass(frozen=True)
class Known:
    """A server as the ledger knows it: `identity.lsn` was on its disk at `seen_at`."""

    identity: Identity
    seen_at: str
    markers_since: int


def read_identity(connection: Connected, side: Side) -> Identity:
    """Read the identity of the server behind a session.

    Raises:
        ServerChangedError: A standby answers.
    """
    row = require_row(connection.execute(_IDENTITY).fetchone(), "the server")
    system_identifier, oid, name, version, lsn, timeline = row
    if lsn is None:
        raise standby_answers(connection, side)
    return Identity(system_identifier, int(timeline, 16), oid, name, version, lsn)


def require_same_servers(base: Connected, relation: str, legacy: Connected | None = None) -> None:
    """Refuse if a server was replaced or went back: the one gate of every step that relies on the stream or its proofs.

    Without `legacy` only the base and earlier findings are judged. A finding bars the stream.

    Raises:
        ServerChangedError: A server was replaced or went back in time.
    """
    found = look_at_servers(base, relation, legacy)
    if found:
        raise ServerChangedError(
            "; ".join(found),
            where=relation,
            state_left="the stream is barred, and what was proven with it is void until that is mended;"
            " the slot, where it is there, keeps what comes meanwhile",
            next_step=RECOVER,
        )


def look_at_servers(base: Connected, relation: str, legacy: Connected | None = None) -> tuple[str, ...]:
    """What changed about the servers, in sentences: found now, or earlier and not mended. Any change bars the stream.

    A server that the ledger does not know yet is recorded.

    Raises:
        ServerChangedError: A standby answers.
    """
    if not _rests_on_servers(base, relation):
        return ()
    barred = open_change(base, relation)
    if barred is not None:
        return (barred,)
    known = known_servers(base, relation)
    # Before the legacy is asked for its position, which only goes forward meanwhile.
    passed = _origin(base, relation)
    lasting = _compared(base, relation, "base", known)
    notice_alterations(base, relation, legacy)
    passing: list[str] = []
    if legacy is not None:
        of_legacy = _compared(legacy, relation, "legacy", known, ledger=base)
        now = read_identity(legacy, "legacy")
        if passed is not None and position(passed) > position(now.lsn):
            of_legacy.append(f"the legacy stands at {now.lsn}, and the base has applied it up to {passed}")
        # Another server altogether may only mean a wrong URL: then nothing happened to the stream, and nothing is
        # barred.
        same = "legacy" not in known or known["legacy"].identity.system_identifier == now.system_identifier
        (lasting if same else passing).extend(of_legacy)
    if lasting:
        try:
            bar(base, relation, lasting)
        except errors.LockNotAvailable:
            log.warning("a step at work keeps the stream from being barred; the next look will: %s", "; ".join(lasting))
    return (*lasting, *passing)


def require_servers(databases: Databases, base: Connected, relation: str) -> None:
    """As `require_same_servers`, with its own session on the legacy; one that cannot be reached is not judged.

    For steps that need the legacy for nothing else: the others notice a lost legacy by their own session.

    Raises:
        ServerChangedError: A server was replaced or went back in time.
    """
    require_same_servers(base, relation)
    if not _rests_on_servers(base, relation):
        return
    try:
        with databases.session("legacy", "servers") as legacy:
            require_same_servers(base, relation, legacy)
    except psycopg.OperationalError as error:
        log.info("the legacy's identity could not be checked: %s", told(error))


def _knows_servers(base: Connected) -> bool:
    """Whether the ledger is new enough to know servers."""
    return ledger_has(base, "server_changes")


def _rests_on_servers(base: Connected, relation: str) -> bool:
    """Whether a stream was begun and the legacy is not decommissioned."""
    if not _knows_servers(base) or read_stream(base, relation) is None:
        return False
    closed = base.execute(
        "SELECT 1 FROM migration.decommissions WHERE relation = %s AND state IN ('closed', 'severed', 'done')",
        [relation],
    )
    return closed.fetchone() is None


def _compared(
    connection: Connected, relation: str, side: Side, known: dict[Side, Known], *, ledger: Connected | None = None
) -> list[str]:
    now = read_identity(connection, side)
    if side not in known:
        since = newest_sent(connection, side)
        note_server(ledger or connection, relation, side, _on_disk(connection, now), since, "first seen")
        return []
    return _differing(known[side], now, side)


def changed_server(base: Connected, relation: str, side: Side, connection: Connected) -> tuple[str, ...]:
    """Return how the server behind a session differs from the one that the ledger knows; records and bars nothing.

    Args:
        base: The base, whose ledger is read.
        relation: The table whose stream it is.
        side: The session's side.
        connection: A session on that side.

    Raises:
        ServerChangedError: A standby answers.
    """
    known = known_servers(base, relation)
    if side not in known or not _rests_on_servers(base, relation):
        return ()
    return tuple(_differing(known[side], read_identity(connection, side), side))


def _differing(known: Known, now: Identity, side: Side) -> list[str]:
    then = known.identity
    found: list[str] = []
    if now.system_identifier != then.system_identifier:
        found.append(
            f"the {side} is another server than the one that the stream was built on: its system identifier is"
            f" {now.system_identifier}, and was {then.system_identifier}"
        )
    elif now.timeline != then.timeline:
        found.append(
            f"the {side} was promoted or recovered from a backup: its timeline is {now.timeline}, and was"
            f" {then.timeline}"
        )
    elif position(now.lsn) < position(then.lsn):
        found.append(f"the {side} went back: it stands at {now.lsn}, and stood at {then.lsn} at {known.seen_at}")
    if not found and now.database_oid != then.database_oid:
        found.append(
            f"the {side}'s database is another one: {now.database} ({now.database_oid}) instead of"
            f" {then.database} ({then.database_oid})"
        )
    return found


def position(lsn: str) -> int:
    """Return a WAL position as a number."""
    high, low = lsn.split("/")
    return int(high, 16) << 32 | int(low, 16)


def _origin(base: Connected, relation: str) -> str | None:
    """The position up to which the base has applied the legacy; None where it cannot be seen, or there is none."""
    row = base.execute("SELECT has_table_privilege('pg_replication_origin_status', 'SELECT')").fetchone()
    stream = read_stream(base, relation)
    if stream is None or not require_row(row, "has_table_privilege")[0]:
        return None
    found = base.execute(sql.SQL(_ORIGIN).format(sql.Literal(stream.subscription))).fetchone()
    return None if found is None else str(found[0])


def known_servers(base: Connected, relation: str) -> dict[Side, Known]:
    """What the ledger knows of each side's server."""
    if not _knows_servers(base):
        return {}
    return {
        side: Known(Identity(system, timeline, oid, name, version, lsn), seen_at, since)
        for side, system, timeline, oid, name, version, lsn, seen_at, since in base.execute(_KNOWN, [relation])
    }


def note_server(base: Connected, relation: str, side: Side, now: Identity, markers_since: int, by: str) -> None:
    """Note that this is the server from now on; in the caller's transaction, where there is one.

    Args:
        base: The base, whose ledger is written.
        relation: The table whose stream it is.
        side: The server's side.
        now: The server; its `lsn` must be on its disk.
        markers_since: Only later markers of this side have to be on the other.
        by: Recorded as the author.
    """
    base.execute(
        "INSERT INTO migration.servers (relation, side, system_identifier, timeline, database_oid, database_name,"
        " server_version, lsn_seen, markers_since, recorded_by) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (relation, side) DO UPDATE SET system_identifier = excluded.system_identifier,"
        " timeline = excluded.timeline, database_oid = excluded.database_oid, database_name = excluded.database_name,"
        " server_version = excluded.server_version, lsn_seen = excluded.lsn_seen, seen_at = clock_timestamp(),"
        " markers_since = excluded.markers_since, recorded_at = clock_timestamp(), recorded_by = excluded.recorded_by",
        [relation, side, now.system_identifier, now.timeline, now.database_oid, now.database, now.version, now.lsn,
         markers_since, by],
    )  # fmt: skip


def note_position(base: Connected, relation: str, side: Side, lsn: str) -> None:
    """Note a position that the server has on its disk: a later commit was waited for."""
    base.execute(
        "UPDATE migration.servers SET lsn_seen = %(lsn)s, seen_at = clock_timestamp()"
        " WHERE relation = %(relation)s AND side = %(side)s AND lsn_seen < %(lsn)s::pg_lsn",
        {"lsn": lsn, "relation": relation, "side": side},
    )


def note_pair(base: Connected, legacy: Connected, relation: str, by: str) -> None:
    """Record both servers as they are now, for a stream that begins here; earlier findings become mended.

    Call it in the transaction that lets the stream run. Later markers of both streams count from here on.
    """
    sides: Mapping[Side, Connected] = {"legacy": legacy, "base": base}
    for side, connection in sides.items():
        now = read_identity(connection, side)
        note_server(base, relation, side, _on_disk(connection, now), newest_sent(connection, side), by)
    base.execute(
        "UPDATE migration.server_changes SET mended_at = clock_timestamp(), mended_by = %s"
        " WHERE relation = %s AND mended_at IS NULL",
        [by, relation],
    )


def _on_disk(connection: Connected, now: Identity) -> Identity:
    """The identity with a position that a crash does not take back: the WAL on disk may end within a record."""
    row = connection.execute(
        "SELECT ('0/0'::pg_lsn + greatest(pg_current_wal_flush_lsn() - '0/0'::pg_lsn - 16777216, 0))::text"
    ).fetchone()
    return replace(now, lsn=str(require_row(row, "a position")[0]))


def count_markers_anew(base: Connected, sender: Connected, relation: str, side: Side) -> None:
    """Note that a stream begins: no marker that this side sent until now has to arrive."""
    if not _knows_servers(base):
        return
    base.execute(
        "UPDATE migration.servers SET markers_since = %s WHERE relation = %s AND side = %s",
        [newest_sent(sender, side), relation, side],
    )


def newest_sent(connection: Connected, side: Side) -> int:
    """Return the number of the newest marker that a side may have sent, in any table; 0 before the first."""
    name = in_own_schema(connection, "migration.marker_id" if side == "legacy" else "migration.reverse_marker_id")
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [name]).fetchone()
    if not require_row(row, "to_regclass")[0]:
        return 0
    last = connection.execute(
        sql.SQL("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {}").format(
            sql.Identifier(*name.split("."))
        )
    ).fetchone()
    return int(require_row(last, "the newest marker")[0])


def open_change(base: Connected, relation: str) -> str | None:
    """The change that was found earlier and is not mended; None where there is none."""
    if not _knows_servers(base):
        return None
    row = base.execute(
        "SELECT what || ' (found at ' || date_trunc('second', found_at) || ')' FROM migration.server_changes"
        " WHERE relation = %s AND mended_at IS NULL",
        [relation],
    ).fetchone()
    return None if row is None else str(row[0])


def bar(base: Connected, relation: str, what: Sequence[str]) -> None:
    """Bar the stream: nothing is applied in the base any more. The first reason that was found stays."""
    stream = read_stream(base, relation)
    with base.transaction():
        base.execute("SET LOCAL synchronous_commit = on")
        base.execute(
            "INSERT INTO migration.server_changes (relation, what) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            [relation, "; ".join(what)],
        )
        if stream is not None and stream.status in {StreamStatus.LIVE, StreamStatus.PAUSED}:
            set_status(base, relation, StreamStatus.HELD, "a server changed: " + "; ".join(what))
        if stream is not None and apply_worker(base, stream.subscription) is not None:
            disable(base, stream.subscription)
