"""The forward stream after a rollback: its slot begins where both sides stand still and are equal.

So the base follows again at once, and no row need be looked at. Where the slot could not begin in time, or its process
died before the weeks were compared, the stream is rebuilt, which trues up every week. Around a rollback the rows of the
legacy are counted that break its foreign keys, since apply workers check none.
"""

import logging

import psycopg

from migration_assets.cutover.work import Work, stream_to_ourselves
from migration_assets.domain.errors import MigrationError
from migration_assets.ledger.cutovers import bar_stream, durably, note_forward_start, read_forward_start
from migration_assets.ledger.proofs import record_proof
from migration_assets.ledger.stream import StreamStatus, newest_marker, nobody_at_work, read_stream, set_status
from migration_assets.ledger.stream_parts import note_publication
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.foreign_keys import count_orphans, note_orphans, read_foreign_keys
from migration_assets.postgres.retries import wait_until
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import require_row, set_limits
from migration_assets.stream.heartbeats import has_arrived, send_heartbeat
from migration_assets.stream.joining_ahead import in_root
from migration_assets.stream.legacy_side import (
    continue_markers,
    create_publication,
    drop_publication,
    prepare_legacy,
    published_filter,
    row_filter,
)
from migration_assets.stream.servers import count_markers_anew
from migration_assets.stream.slots import create_slot, drop_slot, has_failover_slots
from migration_assets.stream.subscription import apply_worker, create_subscription, drop_subscription, legacy_conninfo

# A rollback is the way out of trouble: it does not wait long for what only makes it more comfortable.
SLOT_SECONDS = 10.0
log = logging.getLogger(__name__)


def prepare_forward(work: Work) -> None:
    """Make publication and slot on the legacy, before any hold.

    Where that fails, the rollback goes on and rebuilds the stream later.
    """
    stream = work.plan.stream
    drop_forward(work)
    try:
        prepare_legacy(
            work.legacy, stream.spec, work.forward.publication, patience_seconds=stream.limits.cut_patience_seconds
        )
        continue_markers(work.legacy, newest_marker(work.base))
        description = require_table(work.legacy, stream.spec.table, "legacy")
        weeks = [record.week for record in in_root(work.base, stream)]
        where = row_filter(weeks, description, stream.spec, stream.calendar)
        create_publication(work.legacy, work.forward.publication, stream.spec, where)
        with work.legacy.transaction():
            set_limits(work.legacy, statement=SLOT_SECONDS * 1000)
            create_slot(work.legacy, work.forward.slot)
    except (psycopg.Error, MigrationError) as error:
        if work.legacy.broken or work.base.broken:
            raise
        log.warning("the change stream will be rebuilt after the rollback: its slot cannot begin now (%s)", told(error))
        drop_forward(work)


def drop_forward(work: Work) -> None:
    """Drop all three parts of the forward stream, where they are left."""
    drop_subscription(work.base, work.forward.subscription)
    drop_slot(work.legacy, work.forward.slot)
    drop_publication(work.legacy, work.forward.publication)


def has_forward_slot(work: Work) -> bool:
    """Whether the legacy has the slot, and all WAL that the slot needs."""
    row = work.legacy.execute(
        "SELECT wal_status IS DISTINCT FROM 'lost' FROM pg_replication_slots WHERE slot_name = %s", [work.forward.slot]
    ).fetchone()
    return bool(row and row[0])


def begin_here(work: Work) -> None:
    """Let the slot begin at this very moment, when nobody writes on either side and both were found equal.

    What the slot has seen so far came from the base, and none of it may go back there. An advance is on disk only after
    the legacy's next checkpoint. So the position is noted in the ledger: a crash that takes the advance back is seen.
    """
    if not has_forward_slot(work):
        return
    with work.legacy.transaction():
        # The apply worker's commits may not be on disk yet. They are once a later commit is.
        work.legacy.execute("SET LOCAL synchronous_commit = local")
        work.legacy.execute("SELECT pg_current_xact_id()")
    row = work.legacy.execute(
        "SELECT end_lsn::text FROM pg_replication_slot_advance(%s, pg_current_wal_flush_lsn())", [work.forward.slot]
    ).fetchone()
    note_forward_start(work.base, work.id, require_row(row, "the slot")[0])


def _would_send_again(work: Work) -> bool:
    """Whether the slot is behind the position where both sides were equal: the legacy crashed after the advance."""
    start = read_forward_start(work.base, work.id)
    row = work.legacy.execute(
        "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s",
        [start, work.forward.slot],
    ).fetchone()
    return start is None or not (row and row[0])


def follow_again(work: Work) -> bool:
    """Let the stream run from there; returns whether that was possible. It may be repeated."""
    base, plan = work.base, work.plan
    stream = read_stream(base, plan.relation)
    if stream is not None and stream.status is StreamStatus.LIVE and apply_worker(base, stream.subscription):
        return not _would_send_again(work)  # a run that died after this point did it
    if not has_forward_slot(work) or _would_send_again(work):
        return False
    with stream_to_ourselves(base, plan):
        joining = {record.lock_key for record in in_root(base, plan.stream) if not record.under_cdc}
        proofs = {record.lock_key: (record, proof) for record, proof in work.unfollowed}
        if not joining <= proofs.keys():
            return False
        description = require_table(work.legacy, plan.stream.spec.table, "legacy")
        url = plan.stream.legacy_url_for_base or plan.stream.databases.legacy_url
        conninfo = legacy_conninfo(work.legacy, url, work.forward.subscription)
        at = work.legacy.execute(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", [work.forward.slot]
        ).fetchone()
        with durably(base), nobody_at_work(base, plan.relation):
            bar_stream(base, work.id, barred=False)
            for key in joining:
                record_proof(base, *proofs[key], "join", plan.stream.run_id)
            base.execute(
                "UPDATE migration.streams SET row_filter = %s, exact_since_marker = NULL, exact_since_lsn = %s,"
                " exact_since = clock_timestamp() WHERE relation = %s",
                [
                    published_filter(work.legacy, work.forward.publication, plan.stream.spec),
                    require_row(at, "the slot")[0],
                    plan.relation,
                ],
            )
            note_publication(base, work.legacy, plan.relation, work.forward.publication)
            count_markers_anew(base, work.legacy, plan.relation, "legacy")
            set_status(base, plan.relation, StreamStatus.LIVE)
            create_subscription(
                base,
                work.forward,
                conninfo,
                binary=description.binary_copy,
                failover=has_failover_slots(work.legacy),
            )
    # The start is moved for good once the base has applied something. Until then a crash of the legacy brings back the
    # old one.
    marker = send_heartbeat(work.legacy, plan.relation)
    wait_until(lambda: has_arrived(base, plan.relation, marker), seconds=plan.lag_seconds)
    return not _would_send_again(work)


# Counting one key may take so long; nobody is held meanwhile.
SECONDS = 30.0


def note_broken_keys(work: Work, *, after: bool) -> None:
    """Count the rows into the ledger, key by key. What cannot be counted does not stop a rollback."""
    try:
        keys = read_foreign_keys(work.legacy, work.plan.stream.spec.table)
        found = count_orphans(work.legacy, keys, seconds=SECONDS)
        note_orphans(work.base, work.id, found, after=after)
    except psycopg.Error as error:
        if work.legacy.broken or work.base.broken:
            raise
        log.warning("the legacy's foreign keys could not be looked at: %s", told(error))
        return
    for one in found:
        if one.rows:
            log.warning("the legacy has rows without a referenced row, and its foreign key does not notice: %s", one)
