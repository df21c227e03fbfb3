"""Puts a loaded table in the place of a leaf, inside the transaction that loaded it."""

from collections.abc import Sequence
from typing import Any

from psycopg import errors, sql

from migration_assets.domain.errors import PartitionError
from migration_assets.domain.slice_state import SliceState
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.ledger.slices import SliceRecord
from migration_assets.postgres.retries import retry_locked
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import table_name
from migration_assets.quarters.partitions import attach, attached_to


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
    """Drop the old leaf, move `staging` into its place and attach it; readers see the one or the other.

    The quarter is locked against readers for the milliseconds until the caller commits. The lock is asked for with
    short tries, each in a savepoint, so that a long reader neither blocks us for good nor a queue behind us.

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
        PartitionError: The old leaf holds rows that no copy put there, or is not where it should be; or others depend
            on it.
        psycopg.errors.LockNotAvailable: Patience ended.
    """
    leaf = parent_of.sibling(record.leaf)

    def swap() -> None:
        with base.transaction():  # a savepoint
            base.execute("SELECT set_config('lock_timeout', %s, true)", [f"{lock_timeout_ms}ms"])
            parent = attached_to(base, leaf)
            if parent is None:
                raise PartitionError(
                    "the leaf is missing",
                    where=str(leaf),
                    state_left="the copy was rolled back; the base is as before",
                    next_step=f"materialize quarter_partitions for {record.week.quarter.key}",
                )
            # Parent before child, as every reader locks them: no deadlock.
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
    """Move a loaded table into the leaf's place and attach it without a scan; in a transaction.

    Args:
        base: With a short `lock_timeout`.
        staging: Of the leaf's name in another schema, with a CHECK `slice_bounds` equal to the bounds.
        leaf: Its place, where nothing is.
        parent: The quarter's partition.
        bounds: Lower and upper.
        indexes: How many `staging` has; after ATTACH there must be no more, else one was built under the lock.

    Raises:
        PartitionError: The root's indexes are others.
        psycopg.errors.LockNotAvailable: Somebody holds the parent.
    """
    base.execute(sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(table_name(staging), sql.Identifier(leaf.schema)))
    attach(base, parent, leaf, bounds)
    # It spared ATTACH the scan; from now on the partition's own bounds say the same.
    base.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT slice_bounds").format(table_name(leaf)))
    _require_adopted_indexes(base, leaf, indexes)


def _drop(base: Connected, record: SliceRecord, leaf: QualifiedName) -> None:
    try:
        base.execute(sql.SQL("DROP TABLE {}").format(table_name(leaf)))
    except errors.DependentObjectsStillExist as error:
        others = "; ".join((error.diag.message_detail or "").splitlines())
        mend = f"`migration-assets repair {record.week.quarter.key} {record.week.name} --apply`"
        raise PartitionError(
            f"it cannot be replaced as long as others depend on it: {others}",
            where=str(leaf),
            state_left="the copy was rolled back; the base is as before",
            next_step=(f"{mend} makes its rows right where they are; or take away" if record.under_cdc else "take away")
            + " what depends on it (a key that points at the table is one of each partition), run the slice again, and"
            " make it anew. Never DROP … CASCADE, which takes the key from the whole table",
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
            f"the leaf has {count} indexes instead of {expected}, {loose} of them no partition of the root's:"
            " the root has others than the legacy",
            where=str(leaf),
            state_left="it was rolled back; the base is as before",
            next_step="compare the root's indexes with the legacy's: one was added or changed on one side",
        )
