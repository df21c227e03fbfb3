"""Loads the rows of a slice into a new table of the base, proves that they arrived, and puts it in a leaf's place.

Both happen in one transaction of the base, which the caller opens and commits.
"""

import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg import IsolationLevel, errors, sql

from migration_assets.copying.throttle import CopyLimits, SliceCopy
from migration_assets.domain.definitions import Definitions
from migration_assets.domain.errors import PartitionError, SliceMismatchError, TableSpecError
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.states import SliceState
from migration_assets.domain.table_description import TableDescription, column_differences
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.ledger.definitions import require_all_rows, seen_definitions
from migration_assets.ledger.slices import SliceRecord
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.copy_stream import Piped, Progress, pipe_rows
from migration_assets.postgres.fingerprints import hashed_columns, in_range, take_fingerprint
from migration_assets.postgres.retries import retry_locked
from migration_assets.postgres.sessions import Connected, announce, require_row, set_limits
from migration_assets.postgres.snapshots import hold_tables
from migration_assets.postgres.sql_text import table_name
from migration_assets.quarters.base_table import add_keys_and_indexes, like_root
from migration_assets.quarters.partitions import attach, attached_to


@dataclass
class Clock:
    """Measures the seconds of each phase of a copy."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Add the body's run time to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class Loaded:
    """A table with the slice's rows and all indexes, equal to the legacy in its snapshot; not committed yet."""

    description: TableDescription
    staging: QualifiedName
    bounds: tuple[Any, Any]
    indexes: int
    piped: Piped
    legacy: Fingerprint
    base: Fingerprint
    definitions: Definitions
    lsn: str
    snapshot_at: datetime


def load_slice(
    legacy: Connected,
    base: Connected,
    copy: SliceCopy,
    staging: QualifiedName,
    clock: Clock,
    on_progress: Progress | None,
) -> Loaded:
    """Copy the slice from one snapshot of the legacy into a new table, index it, and compare both sides.

    Args:
        legacy: In no transaction; the one that is opened here ends with the call.
        base: In the transaction that will put the table in place.
        copy: The slice and the limits.
        staging: The name of the new table.
        clock: Gets the seconds of each phase.
        on_progress: Told rows and bytes while they flow.

    Raises:
        SliceMismatchError: The rows that arrived are not those that were read.
        TableSpecError: The two tables' columns differ.
    """
    spec, week = copy.spec, copy.week
    legacy.isolation_level = IsolationLevel.REPEATABLE_READ
    legacy.read_only = True
    with legacy.transaction():
        hold_tables(legacy, [spec.table])
        require_all_rows(legacy, spec.table, "legacy")
        description = require_table(legacy, spec.table, "legacy")
        _require_same_columns(description, require_table(base, spec.table, "base"))
        lsn, snapshot_at = _snapshot_position(legacy)
        bounds = copy.calendar.bound_values(week, description.control_kind(spec.control_column))
        where = in_range(spec.control_column, bounds)
        columns = hashed_columns(description)

        _bound_resources(legacy, base, copy.limits)
        if copy.waits_for_long:
            # A copy that is held back after its last row leaves both sessions idle.
            allow_waiting(base, copy.limits)
            allow_waiting(legacy, copy.limits)
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

        allow_waiting(base, copy.limits)
        allow_waiting(legacy, copy.limits)
        announce(base, f"{week.key}:index")
        announce(legacy, f"{week.key}:fingerprint")
        # The legacy reads its rows a second time, in the same snapshot, while the base builds indexes.
        with _meanwhile(
            legacy, lambda: take_fingerprint(legacy, spec.table, columns, where), clock, "legacy fingerprint"
        ) as legacy_fingerprint:
            with clock.phase("indexes"):
                # Read only now, because the root may have been altered in the hours since the copy began.
                root = require_table(base, spec.table, "base")
                indexes = add_keys_and_indexes(base, staging, root, spec)
            announce(base, f"{week.key}:fingerprint")
            with clock.phase("base fingerprint"):
                of_base = take_fingerprint(base, staging, columns)
            of_legacy = legacy_fingerprint()
        _require_equal(of_legacy, of_base, piped, week)
        definitions = seen_definitions(legacy, base, spec.table, [staging])[staging]
        return Loaded(
            description, staging, bounds, indexes, piped, of_legacy, of_base, definitions, lsn, snapshot_at
        )  # fmt: skip


def _bound_resources(legacy: Connected, base: Connected, limits: CopyLimits) -> None:
    """Use one backend a slice on the legacy, so that the number of slices is the load; by default also for indexes."""
    legacy.execute("SELECT set_config('max_parallel_workers_per_gather', '0', true)")
    base.execute(
        "SELECT set_config('max_parallel_workers_per_gather', '0', true),"
        " set_config('max_parallel_maintenance_workers', %s, true), set_config('maintenance_work_mem', %s, true)",
        [str(limits.index_workers), f"{limits.maintenance_work_mem_mb}MB"],
    )


def allow_waiting(connection: Connected, limits: CopyLimits) -> None:
    """Let the transaction idle for long: one side waits for the other's index build, or both wait for the throttle."""
    connection.execute(
        "SELECT set_config('idle_in_transaction_session_timeout', %s, true)", [f"{limits.copy_timeout_seconds}s"]
    )


@contextmanager
def _meanwhile(
    connection: Connected, call: Callable[[], Fingerprint], clock: Clock, phase: str
) -> Generator[Callable[[], Fingerprint]]:
    """Run `call` in a thread beside the body; an error in the body cancels the query of `connection`."""

    def timed() -> Fingerprint:
        with clock.phase(phase):
            return call()

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="legacy") as pool:
        future = pool.submit(timed)
        try:
            yield future.result
        except BaseException:
            # A server that is gone cannot be told to stop; the first error is the one to raise.
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


def swap_leaf(
    base: Connected,
    record: SliceRecord,
    *,
    parent_of: QualifiedName,
    staging: QualifiedName,
    bounds: Sequence[Any],
    indexes: int,
    lock_timeout_ms: int,
    patience_seconds: float,
) -> None:
    """Drop the old leaf, move `staging` into its place and attach it. Readers see either the old or the new leaf.

    The quarter is locked against readers for the milliseconds until the caller commits. The lock is tried
    for briefly and again, each time in a savepoint, so that no queue forms behind us while a reader holds the quarter.

    Args:
        base: In the transaction that loaded `staging`.
        record: The slice.
        parent_of: The root; the leaf lies in its schema.
        staging: The loaded table, with a CHECK `slice_bounds` equal to the bounds.
        bounds: Lower and upper.
        indexes: How many indexes `staging` has; after ATTACH there must be no more, else one was built under the lock.
        lock_timeout_ms: Of one try.
        patience_seconds: Of all tries.

    Raises:
        PartitionError: The old leaf holds rows that no copy put there, is missing, or other objects depend on it.
        psycopg.errors.LockNotAvailable: The lock was not free within `patience_seconds`.
    """
    leaf = parent_of.sibling(record.leaf)

    def swap() -> None:
        with base.transaction():  # a savepoint
            set_limits(base, lock=lock_timeout_ms)
            parent = attached_to(base, leaf)
            if parent is None:
                raise PartitionError(
                    "the leaf is missing",
                    where=str(leaf),
                    state_left="the copy was rolled back; the base is as before",
                    next_step=f"materialize quarter_partitions for {record.week.quarter.key}",
                )
            # The parent is locked before the child, as every reader does, so that there is no deadlock.
            base.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(table_name(parent)))
            _require_ours(base, record, leaf)
            _drop(base, record, leaf)
            place_leaf(base, staging, leaf, parent=parent, bounds=bounds, indexes=indexes)

    retry_locked(swap, patience_seconds=patience_seconds)


def place_leaf(
    base: Connected,
    staging: QualifiedName,
    leaf: QualifiedName,
    *,
    parent: QualifiedName,
    bounds: Sequence[Any],
    indexes: int,
) -> None:
    """Move a loaded table into the leaf's place and attach it without a scan, in the caller's transaction.

    Args:
        base: With a short `lock_timeout`.
        staging: A table of the leaf's name in another schema, with a CHECK `slice_bounds` equal to the bounds.
        leaf: The leaf's name, which must be free.
        parent: The quarter's partition.
        bounds: Lower and upper.
        indexes: How many `staging` has; after ATTACH there must be no more, else one was built under the lock.

    Raises:
        PartitionError: The leaf's indexes do not match the root's.
        psycopg.errors.LockNotAvailable: Others hold the parent.
    """
    base.execute(sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(table_name(staging), sql.Identifier(leaf.schema)))
    attach(base, parent, leaf, bounds)
    # It spared ATTACH the scan. From now on the partition's own bounds say the same.
    base.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT slice_bounds").format(table_name(leaf)))
    _require_adopted_indexes(base, leaf, indexes)


def _drop(base: Connected, record: SliceRecord, leaf: QualifiedName) -> None:
    try:
        base.execute(sql.SQL("DROP TABLE {}").format(table_name(leaf)))
    except errors.DependentObjectsStillExist as error:
        others = "; ".join((error.diag.message_detail or "").splitlines())
        mend = f"`migration-assets repair {record.week.quarter.key} {record.week.name} --apply`"
        raise PartitionError(
            f"the leaf cannot be replaced as long as other objects depend on it: {others}",
            where=str(leaf),
            state_left="the copy was rolled back; the base is as before",
            next_step=(f"{mend} repairs its rows in place; or drop" if record.under_cdc else "drop")
            + " what depends on it (a foreign key to the table depends on each partition), run the slice again, and"
            " create it again. Never DROP … CASCADE, which drops the key from the whole table",
        ) from None


def _require_ours(base: Connected, record: SliceRecord, leaf: QualifiedName) -> None:
    if record.state is not SliceState.ABSENT:
        return
    row = base.execute(sql.SQL("SELECT EXISTS (SELECT 1 FROM {})").format(table_name(leaf))).fetchone()
    if require_row(row, "EXISTS")[0]:
        raise PartitionError(
            "the leaf holds rows, and the ledger knows of no copy that put them there",
            where=str(leaf),
            state_left="the copy was rolled back; the rows are untouched",
            next_step="find out who wrote them; move or delete them, then run the slice again",
        )


def _require_adopted_indexes(base: Connected, leaf: QualifiedName, expected: int) -> None:
    row = base.execute(
        "SELECT count(*), count(*) FILTER (WHERE NOT ic.relispartition) FROM pg_index i"
        " JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " JOIN pg_class ic ON ic.oid = i.indexrelid WHERE n.nspname = %s AND c.relname = %s",
        [leaf.schema, leaf.name],
    ).fetchone()
    count, loose = require_row(row, "the indexes of a leaf")
    if count != expected or loose:
        raise PartitionError(
            f"the leaf has {count} indexes instead of {expected}, {loose} of them not attached to an index of the root:"
            " the root has other indexes than the legacy",
            where=str(leaf),
            state_left="the step was rolled back; the base is as before",
            next_step="compare the root's indexes with the legacy's: one was added or changed on one side",
        )
