"""The replication slot, the snapshot of the legacy at which it begins, and what the legacy keeps for it."""

import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, LiteralString

import psycopg
from psycopg import errors, sql
from psycopg.rows import dict_row

from migration_assets.domain.errors import StreamError
from migration_assets.domain.samples import StreamSample
from migration_assets.ledger.definitions import filenodes
from migration_assets.postgres.activity import APPLICATION, COMMAND
from migration_assets.postgres.own_schema import own_side
from migration_assets.postgres.retries import is_transient, wait_until
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected, Timeouts, connect, require_row
from migration_assets.postgres.snapshots import in_snapshot
from migration_assets.stream.plan import StreamPlan

# Tried within the server: an ended reader is back within milliseconds, and a wait for its end looks every 100 ms only.
_TAKE_AWAY: LiteralString = """
DO $$ DECLARE until timestamptz := clock_timestamp() + interval '1 s'; BEGIN
    LOOP
        BEGIN
            PERFORM pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {slot};
            RETURN;
        EXCEPTION
            WHEN undefined_object THEN RETURN;
            WHEN object_in_use THEN
                IF clock_timestamp() > until THEN RAISE; END IF;
                PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots
                WHERE slot_name = {slot} AND active_pid IS NOT NULL;
                PERFORM pg_sleep(0.001);
        END;
    END LOOP;
END $$
"""
log = logging.getLogger(__name__)

_FAILOVER_SINCE = 170000
_SLOT_FREE_SECONDS = 20.0


def has_failover_slots(publisher: Connected) -> bool:
    """Return whether the server can synchronize its slots to a standby that asks for them."""
    return publisher.info.server_version >= _FAILOVER_SINCE


def create_slot(publisher: Connected, slot: str) -> None:
    """Create a slot that begins now, without a snapshot; it outlives a failover where the server can do that."""
    failover = sql.SQL(", failover => true" if has_failover_slots(publisher) else "")
    publisher.execute(
        sql.SQL("SELECT pg_create_logical_replication_slot({}, 'pgoutput'{})").format(sql.Literal(slot), failover)
    )


@dataclass(frozen=True)
class SlotSnapshot:
    """Everything committed before `lsn` is in the snapshot; everything after it will come through the slot."""

    snapshot: str
    lsn: str


@contextmanager
def true_slot(plan: StreamPlan, legacy: Connected, slot: str) -> Generator[SlotSnapshot]:
    """Do as `exported_slot`, and guarantee that the table was not rewritten before it could be locked.

    The command that creates a slot cannot lock a table first: an ALTER TABLE that waited for us would make it wait for
    ever. So the table's filenodes before the command and under the lock afterwards must be the same; otherwise the slot
    is created again. The table stays locked in ACCESS SHARE mode while the body runs.

    Raises:
        StreamError: As `exported_slot`; or the table was rewritten at every attempt.
        TableBusyError: Another session is altering the table, or waits to do so.
    """
    for _ in range(plan.limits.attempts):
        drop_slot(legacy, slot)
        before = filenodes(legacy, plan.spec.table)
        with (
            exported_slot(
                plan.databases.legacy_url, legacy, slot, patience_seconds=plan.limits.stream_patience_seconds
            ) as made,
            plan.databases.session("legacy", "slot:hold", plan.limits.timeouts()) as holder,
            in_snapshot(holder, made.snapshot, [plan.spec.table]),
        ):
            if filenodes(holder, plan.spec.table) == before:
                yield made
                return
        log.warning("%s was rewritten while slot %s was made; the slot is made again", plan.spec.table, slot)
    drop_slot(legacy, slot)
    raise StreamError(
        f"the legacy's table was rewritten at each of {plan.limits.attempts} attempts to create a slot:"
        " the slot's snapshot would show it empty",
        where=plan.relation,
        state_left="no slot was left behind; nothing was changed",
        next_step="let the ALTER TABLE, VACUUM FULL or CLUSTER on the legacy's table end, then run this again",
    )


@contextmanager
def dropped_on_failure(legacy: Connected, slot: str) -> Generator[None]:
    """Drop the slot where the body fails: nothing would read it, perhaps until a person has decided something.

    Args:
        legacy: The session that claimed the slot, in no transaction. If a later run has ended this session, the slot
            is that run's and stays.
        slot: Its name.
    """
    try:
        yield
    except BaseException:
        try:
            drop_slot(legacy, slot)
        except psycopg.Error as error:
            log.warning("slot %s stays, and keeps WAL until the next try drops it (%s)", slot, told(error))
        raise


@contextmanager
def exported_slot(url: str, legacy: Connected, slot: str, *, patience_seconds: float) -> Generator[SlotSnapshot]:
    """Create the slot and keep its snapshot importable while the body runs. The slot stays afterwards.

    The server first waits for every open transaction that writes anywhere in the database; writers are not held.

    Raises:
        StreamError: The oldest of these transactions outlasted our patience; the message names it and no slot is left.
            Or the server refused.
        psycopg.OperationalError: The server cannot be reached, or the connection was lost.
    """
    # `patience_seconds` limits the wait, and the session is idle in a transaction by design.
    never = Timeouts(lock=0, statement=0, idle_in_transaction=0)
    with _closing(connect(url, "slot", never, replication=True, side=own_side(legacy))) as replication:
        replication.execute("SET wal_sender_timeout = 0")
        made = _create(replication, legacy, slot, patience_seconds)
        require_session(legacy, replication, slot, made)
        yield made


@contextmanager
def _closing(connection: Connected) -> Generator[Connected]:
    try:
        yield connection
    finally:
        connection.close()


def _create(replication: Connected, legacy: Connected, slot: str, patience_seconds: float) -> SlotSnapshot:
    options = sql.SQL("SNAPSHOT 'export', FAILOVER" if has_failover_slots(legacy) else "SNAPSHOT 'export'")
    created = sql.SQL("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput ({})").format(sql.Identifier(slot), options)
    # A walsender ignores statement_timeout.
    watchdog = threading.Timer(patience_seconds, replication.cancel_safe)
    watchdog.start()
    try:
        row = replication.execute(created).fetchone()
    except errors.QueryCanceled:
        raise StreamError(
            f"the slot could not begin within {patience_seconds:g} s: a transaction that writes is still open."
            f" The oldest: {_oldest_writer(legacy)}",
            where=slot,
            state_left="no slot was left behind; writers were never held",
            next_step="let that transaction end, or end it, then run this again",
        ) from None
    except psycopg.Error as error:
        if is_transient(error):
            raise
        raise StreamError(
            f"the legacy refused the slot: {told(error)}",
            where=slot,
            state_left="no slot was left behind; writers were never held",
            next_step="see `migration-assets preflight` and the legacy's server log, then run this again",
        ) from error
    finally:
        watchdog.cancel()
    _, lsn, snapshot, _ = require_row(row, "a new slot")
    return SlotSnapshot(str(snapshot), str(lsn))


def require_session(legacy: Connected, replication: Connected, slot: str, made: SlotSnapshot) -> None:
    """Remove the slot that the server makes after our session was ended: nobody knows of it then.

    A run that ends our session from here on finds the slot and drops it. Where somebody else has made one of that name,
    it begins later, and stays.

    Raises:
        psycopg.OperationalError: The claiming session is gone; the slot was dropped.
    """
    try:
        legacy.execute("SELECT 1")
    except psycopg.OperationalError:
        ours = sql.SQL(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            " WHERE slot_name = {} AND NOT active AND confirmed_flush_lsn = {}"
        ).format(sql.Literal(slot), sql.Literal(made.lsn))
        replication.execute(ours)
        raise


def _oldest_writer(legacy: Connected) -> str:
    row = legacy.execute(
        sql.SQL(
            "SELECT a.pid, a.usename::text, {application},"
            " extract(epoch FROM clock_timestamp() - a.xact_start)::float8, {command}"
            " FROM pg_stat_activity a WHERE a.backend_xid IS NOT NULL ORDER BY a.xact_start LIMIT 1"
        ).format(application=APPLICATION, command=COMMAND)
    ).fetchone()
    if row is None:
        prepared = legacy.execute("SELECT gid, prepared::text FROM pg_prepared_xacts ORDER BY prepared LIMIT 1")
        found = prepared.fetchone()
        return "prepared transaction {} of {}".format(*found) if found else "it has just ended"
    pid, user, application, age, command = row
    # A role outside pg_read_all_stats sees of other sessions only that they exist.
    old = "of unknown age" if age is None else f"{age:,.0f} s old"
    return f"backend {pid} ({user}, {application}), {old}: {command}"


def drop_slot(legacy: Connected, slot: str) -> None:
    """Drop the slot, if it is there; a walsender that still reads it is ended first.

    Raises:
        psycopg.errors.ObjectInUse: A reader took it again at once.
    """
    legacy.execute(
        "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots"
        " WHERE slot_name = %s AND active_pid IS NOT NULL",
        [slot],
    )
    # Only where it exists: a role without the right to slots has none to drop.
    with suppress(errors.UndefinedObject):
        legacy.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [slot]
        )


def remove_slot(legacy: Connected, slot: str) -> None:
    """End the slot's reader and drop the slot. The reader of a subscription that still exists comes back for a while.

    Raises:
        StreamError: A reader comes back at once, again and again: a subscription that still exists elsewhere.
    """

    def gone() -> bool:
        try:
            legacy.execute(sql.SQL(_TAKE_AWAY).format(slot=sql.Literal(slot)))
        except errors.ObjectInUse:
            return False
        return True

    if not wait_until(gone, seconds=_SLOT_FREE_SECONDS):
        raise StreamError(
            "a subscription that is still enabled reads the slot and reconnects whenever it is ended",
            where=slot,
            state_left="the slot still exists, and so does everything that would have been removed after it",
            next_step="drop that subscription on its own database, then run this again",
        )


OUR_SLOTS: LiteralString = "migration\\_assets\\_%"
"""A LIKE pattern for the names of our slots, publications and subscriptions, used where the exact name is unknown."""
_LEGACY = """
SELECT r.slot_name IS NOT NULL AS slot_exists, r.active AS slot_active, r.wal_status, r.safe_wal_size AS safe_wal_bytes,
       pg_wal_lsn_diff(pg_current_wal_lsn(), r.restart_lsn)::bigint AS retained_wal_bytes,
       pg_wal_lsn_diff(pg_current_wal_lsn(), r.confirmed_flush_lsn)::bigint AS unconfirmed_bytes,
       CASE WHEN pg_has_role('pg_read_all_stats', 'USAGE') THEN (
           SELECT count(*) FROM pg_stat_activity
           WHERE datname = current_database() AND state = 'active' AND backend_type = 'client backend'
             AND NOT starts_with(application_name, 'migration_assets:')) END AS legacy_active_sessions
FROM (SELECT) one
LEFT JOIN pg_replication_slots r ON r.slot_type = 'logical' AND r.database = current_database()
      AND (r.slot_name = %(slot)s OR (%(slot)s::text IS NULL AND r.slot_name LIKE %(ours)s))
ORDER BY retained_wal_bytes DESC NULLS LAST LIMIT 1
"""


def look_at_legacy(legacy: Connected, slot: str | None) -> dict[str, Any]:
    """Read the slot's state and the legacy's load. Without a slot name, read the one of ours that retains most WAL."""
    with legacy.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(_LEGACY, {"slot": slot, "ours": OUR_SLOTS}).fetchone()
    found = dict(row or {})
    if slot is None and not found.get("slot_exists"):
        found["slot_exists"] = None  # there may be none of ours, or it is gone
    return found


def measure_legacy(legacy: Connected, slot: str) -> StreamSample:
    """Measure retained WAL and load for the throttle: the cheap part of a look, one statement."""
    return StreamSample(relation="", taken_at=datetime.now(UTC), **look_at_legacy(legacy, slot))
