"""Fingerprints of a slice, bucket by bucket: one pass over each side tells what is equal.

The rows that are compared come from the slice's row in the ledger; both tables must still be the same.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from migration_assets.domain.errors import StreamError
from migration_assets.domain.fingerprint import EMPTY, Fingerprint
from migration_assets.domain.table_description import Column, TableDescription
from migration_assets.domain.table_spec import QualifiedName, TableSpec
from migration_assets.ledger.slices import SliceRecord
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.fingerprints import SEEDS, hash_input, hashed_columns, in_range, row_hash
from migration_assets.postgres.sessions import Connected
from migration_assets.postgres.sql_text import table_name
from migration_assets.quarters.base_table import require_root
from migration_assets.stream.plan import StreamPlan

_Result = TypeVar("_Result")
_ROWS_A_BUCKET = 1000
_FEWEST, _MOST = 16, 65_536
# At most so many rows are compared one by one in this process's memory; a bucket is never divided.
_FULLEST = 100_000


@dataclass(frozen=True)
class SliceRows:
    """Which rows are compared, and how: the legacy's table description applies to both sides.

    `target` is where the base has the rows: the root, or a table that is still being built. `leaf` is the leaf's own
    table.
    """

    description: TableDescription
    spec: TableSpec
    bounds: tuple[Any, Any]
    target: QualifiedName
    leaf: QualifiedName
    expected_rows: int

    @property
    def where(self) -> sql.Composed:
        """The slice's range as a condition."""
        return in_range(self.spec.control_column, self.bounds)

    @property
    def where_of_t(self) -> sql.Composed:
        """The slice's range in a query that calls the table `t`, where other names may be those of columns, too."""
        return in_range(self.spec.control_column, self.bounds, of="t")

    @property
    def key(self) -> tuple[Column, ...]:
        """The columns of the base's primary key."""
        names = self.description.base_primary_key(self.spec.control_column)
        return tuple(self.description.column(name) for name in names)

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns that are part of the fingerprint."""
        return hashed_columns(self.description)

    def hashed(self, table: QualifiedName, buckets: int) -> sql.Composed:
        """Return a sub-query: every row's hash `h`, bucket `b`, and its key columns as text, `k1`, `k2`…."""
        keys = sql.SQL(", ").join(
            sql.SQL("format('%s', {}) AS {}").format(sql.Identifier(column.name), sql.Identifier(f"k{number}"))
            for number, column in enumerate(self.key, start=1)
        )
        return sql.SQL(
            # OFFSET 0 keeps the planner from computing the hash again for every use of it.
            "(SELECT {hash} AS h, (hash_record_extended(row({key}), 0) & {mask})::integer AS b, {keys}"
            " FROM {table} WHERE {where} OFFSET 0) AS hashed"
        ).format(
            hash=row_hash(self.columns),
            key=sql.SQL(", ").join(hash_input(column) for column in self.key),
            mask=sql.Literal(buckets - 1),
            keys=keys,
            table=table_name(table),
            where=self.where,
        )


@dataclass(frozen=True)
class Compared:
    """Both sides' fingerprints and the buckets that differ.

    `differing` maps each differing bucket to the larger of both sides' row counts. `base_rows` is how many rows the
    base has in these buckets: at most so many can be deleted. `buckets` is the number of all buckets, a power of two.
    """

    legacy: Fingerprint
    base: Fingerprint
    differing: dict[int, int]
    base_rows: int
    buckets: int

    @property
    def differing_rows(self) -> int:
        """How many rows can differ at most: those of the differing buckets, on the fuller side of each."""
        return sum(self.differing.values())

    @property
    def equal(self) -> bool:
        """Whether every bucket agrees, which says more than that the sums of all do."""
        return not self.differing


def compare(legacy: Connected, base: Connected, rows: SliceRows) -> Compared:
    """Compare in one pass over each side, in parallel, each in its session's snapshot or transaction.

    A second pass with more buckets follows if they differ and the slice has grown so much since the ledger counted it
    that a bucket is too full.
    """
    found = _compare(legacy, base, rows, _buckets_for(rows.expected_rows))
    if max(found.differing.values(), default=0) > _FULLEST:
        needed = _buckets_for(max(found.legacy.rows, found.base.rows))
        if needed > found.buckets:
            return _compare(legacy, base, rows, needed)
    return found


def _buckets_for(expected_rows: int) -> int:
    """Return a power of two such that a bucket of a typical week holds about a thousand rows."""
    wanted = max(_FEWEST, min(_MOST, expected_rows // _ROWS_A_BUCKET))
    return 1 << (wanted - 1).bit_length()


def _compare(legacy: Connected, base: Connected, rows: SliceRows, buckets: int) -> Compared:
    of_legacy, of_base = at_once(
        legacy,
        lambda: _fingerprints(legacy, rows.hashed(rows.spec.table, buckets)),
        lambda: _fingerprints(base, rows.hashed(rows.target, buckets)),
    )
    differing = {
        bucket: max(of_legacy.get(bucket, EMPTY).rows, of_base.get(bucket, EMPTY).rows)
        for bucket in sorted(of_legacy.keys() | of_base.keys())
        if of_legacy.get(bucket, EMPTY) != of_base.get(bucket, EMPTY)
    }
    base_rows = sum(of_base.get(bucket, EMPTY).rows for bucket in differing)
    return Compared(sum(of_legacy.values(), EMPTY), sum(of_base.values(), EMPTY), differing, base_rows, buckets)


def at_once(
    legacy: Connected, of_legacy: Callable[[], _Result], of_base: Callable[[], _Result]
) -> tuple[_Result, _Result]:
    """Ask both sides at the same time; an error of the base, or Ctrl-C, cancels the legacy's statement."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="legacy") as pool:
        future = pool.submit(of_legacy)
        try:
            found = of_base()
            return future.result(), found
        except BaseException:
            # A lost server cannot be told to stop; the first error is the one to raise.
            with suppress(psycopg.Error):
                legacy.cancel_safe()
            raise


def _fingerprints(connection: Connected, hashed: sql.Composed) -> dict[int, Fingerprint]:
    found = connection.execute(
        sql.SQL(
            "SELECT b, count(*), sum(hashtextextended(h, {a})), sum(hashtextextended(h, {b})) FROM {hashed} GROUP BY b"
        ).format(a=SEEDS[0], b=SEEDS[1], hashed=hashed)
    )
    return {int(bucket): Fingerprint.from_row(*sums) for bucket, *sums in found}


def slice_rows(
    plan: StreamPlan, description: TableDescription, record: SliceRecord, target: QualifiedName | None = None
) -> SliceRows:
    """Return the slice's rows through the base's root, which applications read, unless `target` names a table."""
    bounds = plan.calendar.bound_values(record.week, description.control_kind(plan.spec.control_column))
    expected = max(side.rows for side in (record.legacy, record.base) if side) if record.legacy and record.base else 0
    leaf = target or plan.spec.table.sibling(record.leaf)
    return SliceRows(description, plan.spec, bounds, target or plan.spec.table, leaf, expected)


def same_table(plan: StreamPlan, legacy: Connected, base: Connected) -> TableDescription:
    """Return the description of the legacy's table, which the base's root must match.

    Raises:
        TableSpecError: One of the tables does not exist.
        PartitionError: They differ: a column was added or changed on one side.
    """
    description = require_table(legacy, plan.spec.table, "legacy")
    require_root(base, require_table(base, plan.spec.table, "base"), description, plan.spec)
    return description


def table_before_cut(plan: StreamPlan, base: Connected, purpose: str) -> TableDescription:
    """As `same_table`, but before anybody is held: no step waits for a stream that stands because of a new column.

    Raises:
        TableSpecError: One of the tables does not exist.
        PartitionError: They differ.
    """
    with plan.databases.session("legacy", purpose) as legacy:
        return same_table(plan, legacy, base)


def require_unaltered(
    plan: StreamPlan, legacy: Connected, base: Connected, description: TableDescription, where: str
) -> None:
    """Check, where a difference was found, that the table itself was not altered since it was described.

    Raises:
        StreamError: It was altered on both sides.
        PartitionError: It was altered on one side.
    """
    if same_table(plan, legacy, base) != description:
        raise StreamError(
            "the table was altered while it was being compared",
            where=where,
            state_left="nothing was changed; nothing was recorded",
            next_step="run this again",
        )
