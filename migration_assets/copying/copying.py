"""Copies one slice: a new leaf is loaded, proven and put in place in one transaction of the base, or not at all."""

import logging
import time
from contextlib import ExitStack
from dataclasses import replace

import psycopg
from psycopg import sql

from migration_assets.copying.loading import Clock, load_slice, swap_leaf
from migration_assets.copying.throttle import SliceCopy, Throttle, throttle
from migration_assets.domain.errors import PartitionError, SliceMismatchError
from migration_assets.domain.states import SliceState, require_slice_transition
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.ledger.charge import keep_legacy_in_charge
from migration_assets.ledger.proofs import Proof, record_proof
from migration_assets.ledger.slices import (
    CopyEvidence,
    SliceRecord,
    begin_attempt,
    end_attempt,
    note_failure,
    read_slice,
    record_copy,
    slice_lock,
)
from migration_assets.ledger.stream import keep_at_rest, stream_lock
from migration_assets.postgres.copy_stream import Progress
from migration_assets.postgres.own_schema import own_schema
from migration_assets.postgres.retries import retry_transient
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected, Databases, announce, require_row
from migration_assets.postgres.sql_text import table_name
from migration_assets.stream.buckets import slice_rows
from migration_assets.stream.cut import paused_stream
from migration_assets.stream.plan import StreamPlan
from migration_assets.stream.running import require_not_barred, require_running
from migration_assets.stream.true_up import true_up

log = logging.getLogger(__name__)


def copy_slice(databases: Databases, copy: SliceCopy, on_progress: Progress | None = None) -> CopyEvidence:
    """Copy one slice and prove it; an existing leaf is replaced in one step, or stays as it was.

    After a lost connection, a server's restart or a lock of others the copy is tried again from a fresh snapshot; also
    after it was held back for too long in one snapshot.

    Args:
        databases: Both databases.
        copy: What to copy, with its limits.
        on_progress: Told rows and bytes while they flow.

    Returns:
        What the ledger keeps of the copy.

    Raises:
        PartitionError: The quarter is not open in the base, or the leaf holds rows that the ledger knows nothing of.
        SliceStateError: The slice's state does not allow a copy.
        SliceBusyError: Another process works on it.
        DeletionError: The leaf would lose more rows than a person has confirmed; it is as before.
        SliceMismatchError: The rows that arrived are not those that were read; the base is as before.
        TableSpecError: The two tables' columns differ.
        ThrottleError: It was held back for longer than its limits allow; HeldBackError: in every try.
        StreamError: The base is in charge (BaseInChargeError), or a cutover is under way; nothing was touched.
        psycopg.Error: A permanent error of a server; the base is as before. Transient ones become UnavailableError.
    """
    plan = StreamPlan(
        databases, copy.spec, copy.calendar, copy.stream, copy.run_id, confirmed_deletes=copy.confirmed_deletes
    )

    def once() -> CopyEvidence:
        timeouts = copy.limits.timeouts()
        with ExitStack() as stack:
            base = stack.enter_context(databases.session("base", copy.week.key, timeouts))
            # This holds for a week that was never under CDC, too: a base in charge has rows of its own. It is asked
            # before the legacy is asked for anything, which may be gone then.
            require_not_barred(base, copy.spec.relation)
            legacy = stack.enter_context(databases.session("legacy", copy.week.key, timeouts))
            record = stack.enter_context(slice_lock(base, _require_record(base, copy)))
            brake = stack.enter_context(throttle(databases, copy.spec.relation, copy.throttle))
            # A slice under CDC stays under CDC.
            live = record.under_cdc
            then = SliceState.STREAMING if live else SliceState.COPIED
            require_slice_transition(record.state, then, where=copy.week.key)
            if live:
                # Checked now, and not after hours of copying.
                with stream_lock(base, copy.spec.relation, shared=True):
                    require_running(base, copy.spec.relation)
            brake.wait()
            return _attempt(legacy, base, copy, plan, record, _held_back(brake, on_progress))

    return retry_transient(once, what=f"copy of {copy.week.key}", attempts=copy.limits.attempts, log=log)


def _held_back(brake: Throttle, on_progress: Progress | None) -> Progress:
    """Wait between two blocks as long as there is a reason: the servers' buffers fill, and both sides wait.

    During a pause both transactions stay open, and so does the legacy's snapshot. So a copy that has waited for
    `snapshot_seconds` in one snapshot is rolled back. Its next try waits before it begins, when no snapshot is open.
    """

    def report(rows: int, wire_bytes: int) -> None:
        if on_progress is not None:
            on_progress(rows, wire_bytes)
        brake.wait(in_snapshot=True)

    return report


def _require_record(base: Connected, copy: SliceCopy) -> SliceRecord:
    record = read_slice(base, copy.spec.relation, copy.week)
    if record is None:
        raise PartitionError(
            "the quarter is not open in the base",
            where=copy.week.key,
            state_left="nothing was touched",
            next_step=f"materialize quarter_partitions for {copy.week.quarter.key}, then run this slice again",
        )
    return record


def _attempt(
    legacy: Connected,
    base: Connected,
    copy: SliceCopy,
    plan: StreamPlan,
    record: SliceRecord,
    on_progress: Progress | None,
) -> CopyEvidence:
    attempt = begin_attempt(base, record, "copy", copy.run_id)
    try:
        evidence = _load(legacy, base, copy, plan, record, attempt, on_progress)
    except SliceMismatchError as error:
        end_attempt(base, attempt, "mismatch", error=error.what, legacy=error.legacy, base=error.base)
        raise
    except BaseException as error:
        note_failure(base, attempt, error)
        raise
    _analyze(base, copy, record, evidence.base.rows)
    return evidence


def _analyze(base: Connected, copy: SliceCopy, record: SliceRecord, rows: int) -> None:
    """Analyze the new leaf. A failure is no reason to copy it again, since autovacuum will analyze it, too.

    It runs after the commit, and after the session's counters are flushed. Otherwise the loaded rows count as changed
    since this ANALYZE, and autovacuum repeats it while the next slices are being copied (this was seen).

    The sample is 300 rows for each unit of the statistics target. For a small leaf the default target would read every
    row and cost more than the copy, so the target is chosen for about a tenth of the rows.
    """
    target = max(10, min(100, rows // 3000))
    leaf = copy.spec.table.sibling(record.leaf)
    try:
        announce(base, f"{copy.week.key}:analyze")
        base.execute(
            "SELECT pg_stat_force_next_flush(), set_config('default_statistics_target',"
            " least(%s, current_setting('default_statistics_target')::int)::text, false)",
            [target],
        )
        base.execute(sql.SQL("ANALYZE {}").format(table_name(leaf)))
    except psycopg.OperationalError as error:
        log.warning("%s is copied and proven; ANALYZE failed (%s): run it by hand", copy.week.key, told(error))


def _load(
    legacy: Connected,
    base: Connected,
    copy: SliceCopy,
    plan: StreamPlan,
    record: SliceRecord,
    attempt: int,
    on_progress: Progress | None,
) -> CopyEvidence:
    """Copy in one transaction of the base. Under CDC the stream is paused from the true-up until after the commit."""
    clock = Clock()
    started = time.perf_counter()
    # The same name in another schema: the leaf is moved with all its indexes, and nothing has to be renamed.
    staging = QualifiedName(own_schema(base), record.leaf)
    with ExitStack() as after_commit, base.transaction():
        loaded = load_slice(legacy, base, copy, staging, clock, on_progress)
        # The legacy's session is not needed any more: if it breaks from here on, it does not matter.
        live = record.under_cdc
        before = _rows_in_place(plan, copy, record)
        proof = Proof(loaded.legacy, loaded.base, loaded.lsn, None, loaded.definitions)
        snapshot_at = loaded.snapshot_at
        if live:
            announce(base, f"{copy.week.key}:true-up")
            pause = after_commit.enter_context(paused_stream(plan, f"{copy.week.key}:copy"))
            keep_at_rest(base, pause.stream)
            with clock.phase("true-up"):
                rows = slice_rows(plan, loaded.description, record, staging)
                rows = replace(rows, expected_rows=loaded.piped.rows)
                again = copy.stream.recopy_percent
                done = true_up(pause.legacy, base, rows, copy.week, None, recopy_percent=again)
            proof = Proof(done.legacy, done.base, pause.record.lsn, pause.record.marker, done.definitions)
            snapshot_at = pause.record.taken_at
        else:
            # For a week under CDC the lock on the stream's row does the same.
            keep_legacy_in_charge(base, copy.spec.relation)
        after = proof.base.rows
        plan.deletions.require(copy.week, max(0, before - after), legacy=proof.legacy.rows, base=before)
        announce(base, f"{copy.week.key}:swap")
        with clock.phase("swap"):
            swap_leaf(
                base,
                record,
                parent_of=copy.spec.table,
                staging=staging,
                bounds=loaded.bounds,
                indexes=loaded.indexes,
                lock_timeout_ms=copy.limits.lock_timeout_ms,
                patience_seconds=copy.limits.lock_patience_seconds,
            )
        table_bytes, index_bytes = _sizes(base, copy.spec.table.sibling(record.leaf))
        clock.seconds["total"] = time.perf_counter() - started
        evidence = CopyEvidence(
            proof.legacy, proof.base, proof.definitions, proof.lsn, snapshot_at, loaded.piped.wire_bytes, table_bytes,
            index_bytes, clock.seconds,
        )  # fmt: skip
        record_copy(base, record, evidence, copy.run_id, SliceState.STREAMING if live else SliceState.COPIED)
        if live:
            record_proof(base, record, proof, "copy", copy.run_id, changed=True)
        end_attempt(base, attempt, "succeeded", legacy=proof.legacy, base=proof.base)
    return evidence


def _rows_in_place(plan: StreamPlan, copy: SliceCopy, record: SliceRecord) -> int:
    """Count the rows of the leaf that is to be replaced, before the stream is paused.

    It uses a session of its own: with a lock on the leaf, the swap's transaction would wait for sessions that hold the
    quarter.
    """
    if record.state is SliceState.ABSENT:
        return 0  # then the swap itself refuses a leaf with rows
    leaf = table_name(copy.spec.table.sibling(record.leaf))
    with plan.databases.session("base", f"{copy.week.key}:count", copy.limits.timeouts()) as base:
        row = base.execute(sql.SQL("SELECT count(*) FROM {}").format(leaf)).fetchone()
    return int(require_row(row, "a count")[0])


def _sizes(base: Connected, leaf: QualifiedName) -> tuple[int, int]:
    row = base.execute(
        "SELECT pg_table_size(c.oid), pg_indexes_size(c.oid) FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
        [leaf.schema, leaf.name],
    ).fetchone()
    table_bytes, index_bytes = require_row(row, "the sizes of a leaf")
    return int(table_bytes), int(index_bytes)
