"""Copies one slice: a new leaf, loaded, proven and put in place in one transaction of the base, or not at all."""

import logging
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime

import psycopg
from psycopg import IsolationLevel, sql

from migration_assets.domain.errors import PartitionError, SliceMismatchError, TableSpecError
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.slice_state import SliceState, require_transition
from migration_assets.domain.table_description import TableDescription, column_differences
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.postgres.base_table import add_keys_and_indexes, like_root
from migration_assets.postgres.copy_plan import CopyLimits, SliceCopy
from migration_assets.postgres.copy_stream import Piped, Progress, pipe_rows
from migration_assets.postgres.fingerprints import hashed_columns, in_range, take_fingerprint
from migration_assets.postgres.introspection import require_table
from migration_assets.postgres.leaf_swap import swap_leaf
from migration_assets.postgres.ledger import (
    CopyEvidence,
    SliceRecord,
    begin_attempt,
    end_attempt,
    note_failure,
    read_slice,
    record_copy,
)
from migration_assets.postgres.retries import retry_transient
from migration_assets.postgres.sessions import Connected, Databases, announce, require_row
from migration_assets.postgres.slice_locks import slice_lock
from migration_assets.postgres.sql_text import table_name

LEDGER_SCHEMA = "migration"
log = logging.getLogger(__name__)


@dataclass
class _Clock:
    """Seconds of each phase, in order."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def copy_slice(databases: Databases, copy: SliceCopy, on_progress: Progress | None = None) -> CopyEvidence:
    """Copy one slice and prove it; a leaf that is there already is replaced at once, never half.

    A lost connection, a restarting server or a lock that others hold is tried again, from a fresh snapshot.

    Raises:
        PartitionError: The quarter is not open in the base, or the leaf holds rows that the ledger knows nothing of.
        SliceStateError: The slice's state does not allow a copy.
        SliceBusyError: Somebody else works on it.
        SliceMismatchError: The rows that arrived are not those that were read; the base is as before.
        TableSpecError: The two tables' columns differ.
        psycopg.Error: A permanent error of a server, or a transient one too often; the base is as before.
    """

    def once() -> CopyEvidence:
        timeouts = copy.limits.timeouts()
        with (
            databases.session("base", copy.week.key, timeouts) as base,
            databases.session("legacy", copy.week.key, timeouts) as legacy,
            slice_lock(base, _require_record(base, copy)) as record,
        ):
            require_transition(record.state, SliceState.COPIED, where=copy.week.key)
            return _attempt(legacy, base, copy, record, on_progress)

    return retry_transient(once, what=f"copy of {copy.week.key}", attempts=copy.limits.attempts, log=log)


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
    legacy: Connected, base: Connected, copy: SliceCopy, record: SliceRecord, on_progress: Progress | None
) -> CopyEvidence:
    attempt = begin_attempt(base, record, "copy", copy.run_id)
    try:
        evidence = _load(legacy, base, copy, record, attempt, on_progress)
    except SliceMismatchError as error:
        end_attempt(base, attempt, "mismatch", error=error.what, legacy=error.legacy, base=error.base)
        raise
    except BaseException as error:
        note_failure(base, attempt, error)
        raise
    _analyze(base, copy, record, evidence.base.rows)
    return evidence


def _analyze(base: Connected, copy: SliceCopy, record: SliceRecord, rows: int) -> None:
    """Statistics of the new leaf; never the reason to copy it again, since autovacuum would come by anyway.

    After the commit, and after the session's counters are flushed: else the loaded rows count as changed since this
    ANALYZE, and autovacuum does it all again, deeper, while the next slices are being copied (seen).

    The sample is 300 rows for each unit of the target. For a small leaf the default would read every row of every
    column, and cost more than the copy; a tenth of the rows tells as much.
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
        log.warning("%s is copied and proven; ANALYZE failed (%s): run it by hand", copy.week.key, error)


def _load(
    legacy: Connected,
    base: Connected,
    copy: SliceCopy,
    record: SliceRecord,
    attempt: int,
    on_progress: Progress | None,
) -> CopyEvidence:
    spec, week, clock = copy.spec, copy.week, _Clock()
    started = time.perf_counter()
    # One name in two schemas: the leaf moves into its place with all its indexes, and no rename is ever needed.
    staging = QualifiedName(LEDGER_SCHEMA, record.leaf)
    legacy.isolation_level = IsolationLevel.REPEATABLE_READ
    legacy.read_only = True
    with base.transaction():
        with legacy.transaction():
            description = require_table(legacy, spec.table, "legacy")
            _require_same_columns(description, require_table(base, spec.table, "base"))
            lsn, snapshot_at = _snapshot_position(legacy)
            bounds = copy.calendar.bound_values(week, description.control_kind(spec.control_column))
            where = in_range(spec.control_column, bounds)
            columns = hashed_columns(description)

            _bound_resources(legacy, base, copy.limits)
            base.execute(
                sql.SQL("CREATE TABLE {} ({}, CONSTRAINT slice_bounds CHECK ({} AND {} IS NOT NULL))").format(
                    table_name(staging),
                    like_root(spec),
                    where,
                    sql.Identifier(spec.control_column),
                )
            )
            announce(base, f"{week.key}:copy")
            announce(legacy, f"{week.key}:copy")
            with clock.phase("copy"):
                piped = pipe_rows(legacy, base, description, staging, where, on_progress)

            _allow_waiting(base, copy.limits)
            _allow_waiting(legacy, copy.limits)
            announce(base, f"{week.key}:index")
            announce(legacy, f"{week.key}:fingerprint")
            # The legacy reads its rows a second time, in the same snapshot, while the base builds indexes.
            with _meanwhile(
                legacy, lambda: take_fingerprint(legacy, spec.table, columns, where), clock, "legacy fingerprint"
            ) as legacy_fingerprint:
                with clock.phase("indexes"):
                    indexes = add_keys_and_indexes(base, staging, description, spec)
                announce(base, f"{week.key}:fingerprint")
                with clock.phase("base fingerprint"):
                    of_base = take_fingerprint(base, staging, columns)
                of_legacy = legacy_fingerprint()
            _require_equal(of_legacy, of_base, piped, week)

        # The legacy is done with: a connection that breaks from here on cannot spoil a copy that is in place.
        announce(base, f"{week.key}:swap")
        with clock.phase("swap"):
            swap_leaf(
                base,
                record,
                parent_of=spec.table,
                staging=staging,
                bounds=bounds,
                indexes=indexes,
                lock_timeout_ms=copy.limits.lock_timeout_ms,
                patience_seconds=copy.limits.lock_patience_seconds,
            )
        table_bytes, index_bytes = _sizes(base, spec.table.sibling(record.leaf))
        clock.seconds["total"] = time.perf_counter() - started
        evidence = CopyEvidence(
            of_legacy, of_base, lsn, snapshot_at, piped.wire_bytes, table_bytes, index_bytes, clock.seconds
        )
        record_copy(base, record, evidence, copy.run_id)
        end_attempt(base, attempt, "succeeded", legacy=of_legacy, base=of_base)
    return evidence


def _bound_resources(legacy: Connected, base: Connected, limits: CopyLimits) -> None:
    """One backend a slice on the legacy, so that the number of slices is the load; the same for indexes by default."""
    legacy.execute("SELECT set_config('max_parallel_workers_per_gather', '0', true)")
    base.execute(
        "SELECT set_config('max_parallel_workers_per_gather', '0', true),"
        " set_config('max_parallel_maintenance_workers', %s, true), set_config('maintenance_work_mem', %s, true)",
        [str(limits.index_workers), f"{limits.maintenance_work_mem_mb}MB"],
    )


def _allow_waiting(connection: Connected, limits: CopyLimits) -> None:
    """For the rest of the transaction: one side may wait, idle, for the other's index build or fingerprint."""
    connection.execute(
        "SELECT set_config('idle_in_transaction_session_timeout', %s, true)", [f"{limits.copy_timeout_seconds}s"]
    )


@contextmanager
def _meanwhile(
    connection: Connected, call: Callable[[], Fingerprint], clock: _Clock, phase: str
) -> Generator[Callable[[], Fingerprint]]:
    """Run `call` on its own connection beside the body; an error in the body cancels it on the server."""

    def timed() -> Fingerprint:
        with clock.phase(phase):
            return call()

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="legacy") as pool:
        future = pool.submit(timed)
        try:
            yield future.result
        except BaseException:
            # A server that is gone cannot be told to stop; the error that came first is the one to raise.
            with suppress(psycopg.Error):
                connection.cancel_safe()
            raise


def _snapshot_position(legacy: Connected) -> tuple[str, datetime]:
    row = legacy.execute(
        "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()"
        " ELSE pg_current_wal_insert_lsn() END)::text, clock_timestamp()"
    ).fetchone()
    lsn, at = require_row(row, "the snapshot's position")
    return str(lsn), at


def _require_same_columns(legacy: TableDescription, base: TableDescription) -> None:
    differences = column_differences(legacy, base)
    if differences:
        raise TableSpecError(
            "the tables differ, and a binary copy between different types would change values: "
            + "; ".join(differences),
            where=str(legacy.table),
            state_left="nothing was changed",
            next_step="alter the base's table so that it matches, then run the slice again",
        )


def _require_equal(legacy: Fingerprint, base: Fingerprint, piped: Piped, week: FiscalWeek) -> None:
    if legacy != base or piped.rows != base.rows:
        raise SliceMismatchError(
            legacy,
            base,
            where=week.key,
            state_left="the copy was rolled back; the base is as before",
            next_step="look for triggers on the base that change rows, then run the slice again",
        )


def _sizes(base: Connected, leaf: QualifiedName) -> tuple[int, int]:
    row = base.execute(
        "SELECT pg_table_size(c.oid), pg_indexes_size(c.oid) FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
        [leaf.schema, leaf.name],
    ).fetchone()
    table_bytes, index_bytes = require_row(row, "the sizes of a leaf")
    return int(table_bytes), int(index_bytes)
