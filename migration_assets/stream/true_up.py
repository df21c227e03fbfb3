"""Row-level differences between the legacy's snapshot and a leaf, and their application to the leaf.

Rows are put into buckets by a hash of their key, and a fingerprint is taken of every bucket, in one pass over each
side. Where all agree, that was all. Only the rows of differing buckets are then compared one by one, as key and hash,
in one more pass over each side and batches of bounded size. Whole rows travel where they differ, by their keys; where
a large share does, all rows of the slice travel again by one COPY, which costs less.

This module brings a leaf to what the legacy's snapshot holds, and proves it, inside the caller's transaction.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import sql

from migration_assets.domain.definitions import Definitions
from migration_assets.domain.deletions import Deletions
from migration_assets.domain.differences import Differences, Kind
from migration_assets.domain.errors import SliceMismatchError
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.definitions import seen_definitions
from migration_assets.postgres.copy_stream import pipe_rows
from migration_assets.postgres.fingerprints import take_fingerprint
from migration_assets.postgres.sessions import Connected
from migration_assets.postgres.sql_text import table_name
from migration_assets.quarters.own_writes import own_writes, what_fires
from migration_assets.stream.buckets import Compared, SliceRows, compare
from migration_assets.stream.differences import (
    DifferingKeys,
    Keys,
    differing_keys,
    having_keys,
    key_matches,
    unnested,
)

_KEYS_AT_ONCE = 5_000


@dataclass(frozen=True)
class TruedUp:
    """A slice that is equal now; `differences` is what was wrong before."""

    week: FiscalWeek
    legacy: Fingerprint
    base: Fingerprint
    differences: Differences
    definitions: Definitions


def true_up(
    legacy: Connected,
    base: Connected,
    rows: SliceRows,
    week: FiscalWeek,
    deletions: Deletions | None,
    *,
    recopy_percent: float,
    repair_id: int | None = None,
) -> TruedUp:
    """Make the base's rows of the slice those of the legacy's snapshot.

    Args:
        legacy: In the snapshot's transaction.
        base: In a transaction; nobody else may write to the slice until it ends.
        rows: Which rows, and where they are in the base.
        week: For errors.
        deletions: How many rows may be deleted; None for a table that nobody has seen yet.
        recopy_percent: The share of the slice's rows that differ above which all of them are copied again: one COPY
            of a range costs less than many rows that are fetched by their keys.
        repair_id: Where set, keeps every changed row's image from before under this repair.

    Raises:
        DeletionError: Too many rows would be deleted; nothing was done.
        TriggersFireError: Rows of other tables would follow, or triggers act.
        SliceMismatchError: Even then they differ: something in the base changes rows on their way in. Roll back.
    """
    definitions = seen_definitions(legacy, base, rows.spec.table, [rows.leaf])[rows.leaf]
    compared = compare(legacy, base, rows)
    if compared.equal:
        return TruedUp(week, compared.legacy, compared.base, Differences(), definitions)
    few = int(max(compared.legacy.rows, compared.base.rows) * recopy_percent / 100)
    counted = None
    if compared.differing_rows > few or (deletions is not None and _may_be_too_many(compared, deletions)):
        counted = _counted(legacy, base, rows, compared)
    if counted is not None and deletions is not None:
        deletions.require(week, counted.extra, legacy=compared.legacy.rows, base=compared.base.rows)
    if counted is not None and counted.rows > few and _may_replace(base, rows, compared, counted):
        differences = counted
        if repair_id is not None:
            for batch in differing_keys(legacy, base, rows, compared):
                _keep_images(base, rows, batch, repair_id)
        _copy_again(legacy, base, rows, compared)
    else:
        differences = _key_by_key(legacy, base, rows, compared, repair_id)
    now = take_fingerprint(base, rows.target, rows.columns, rows.where)
    if now != compared.legacy:
        raise SliceMismatchError(
            compared.legacy,
            now,
            where=week.key,
            state_left="the true-up is rolled back; the base is as before",
            next_step="look for triggers, rules or generated columns on the base that change rows, then run this again",
            differences=differences,
        )
    return TruedUp(week, compared.legacy, now, differences, definitions)


def _may_be_too_many(compared: Compared, deletions: Deletions) -> bool:
    """Whether a person might have to confirm what is deleted: only then the rows need be counted before."""
    return deletions.limit.asks(compared.base_rows, legacy=compared.legacy.rows, base=compared.base.rows)


def _counted(legacy: Connected, base: Connected, rows: SliceRows, compared: Compared) -> Differences:
    """How many rows differ, before anything is done; no row is looked at where one side has none."""
    if not compared.legacy.rows or not compared.base.rows:
        return Differences(missing=compared.legacy.rows, extra=compared.base.rows)
    counted = Differences()
    for batch in differing_keys(legacy, base, rows, compared):
        counted = batch.added_to(counted)
    return counted


def _may_replace(base: Connected, rows: SliceRows, compared: Compared, counted: Differences) -> bool:
    """Whether deleting rows that only go to come back sets off nothing that the rows that differ would not."""
    if not compared.base.rows or counted.extra or counted.changed:
        return True
    return not what_fires(base, [rows.target, rows.leaf])


def _copy_again(legacy: Connected, base: Connected, rows: SliceRows, compared: Compared) -> None:
    deleting = compared.base.rows > 0
    with own_writes(base, [rows.target, rows.leaf], side="base", deleting=deleting):
        if deleting:
            base.execute(sql.SQL("DELETE FROM {} WHERE {}").format(table_name(rows.target), rows.where))
        pipe_rows(legacy, base, rows.description, rows.target, rows.where, freeze=False)


def _key_by_key(
    legacy: Connected, base: Connected, rows: SliceRows, compared: Compared, repair_id: int | None
) -> Differences:
    """First out, then in, over all batches: what comes may be equal, in a unique key, to what goes in another one.

    Keys that are equal as values may differ as texts as well (1.0 and 1.00). What is to come is not kept until then,
    since memory is bounded, unless one batch was all: it is what is missing once the others are out.
    """
    differences = Differences()
    coming: Keys | None = None
    for batch in differing_keys(legacy, base, rows, compared):
        if repair_id is not None:
            _keep_images(base, rows, batch, repair_id)
        _take_out(base, rows, batch.extra + batch.changed)
        coming = None if differences.rows else batch.missing + batch.changed
        differences = batch.added_to(differences)
    if coming is not None:
        _put_in(legacy, base, rows, coming)
    else:
        for batch in differing_keys(legacy, base, rows, compared):
            _put_in(legacy, base, rows, batch.missing)
    return differences


def _take_out(base: Connected, rows: SliceRows, keys: Keys) -> None:
    if keys:
        with own_writes(base, [rows.target, rows.leaf], side="base"):
            for some in chunks(keys):
                delete_rows(base, rows, some)


def _put_in(legacy: Connected, base: Connected, rows: SliceRows, keys: Keys) -> None:
    with own_writes(base, [rows.target, rows.leaf], side="base", deleting=False):
        for some in chunks(keys):
            pipe_rows(legacy, base, rows.description, rows.target, having_keys(rows, some), freeze=False)


def delete_rows(base: Connected, rows: SliceRows, keys: Keys) -> None:
    """Delete the rows of these keys, within the slice's range."""
    base.execute(
        sql.SQL("DELETE FROM {} AS t USING {} WHERE {} AND {}").format(
            table_name(rows.target), unnested(rows, keys), key_matches(rows), rows.where_of_t
        )
    )


def _keep_images(base: Connected, rows: SliceRows, batch: DifferingKeys, repair_id: int) -> None:
    key = sql.SQL("ARRAY[{}]").format(
        sql.SQL(", ").join(sql.SQL("format('%s', t.{})").format(sql.Identifier(column.name)) for column in rows.key)
    )
    for kind in (Kind.EXTRA, Kind.CHANGED):
        for keys in chunks(batch.of(kind)):
            base.execute(
                sql.SQL(
                    "INSERT INTO migration.repaired_rows (repair_id, kind, key, before)"
                    " SELECT {id}, {kind}, {key}, (t.*)::text FROM {table} AS t JOIN {keys} ON {matches} WHERE {where}"
                ).format(
                    id=repair_id,
                    kind=str(kind),
                    key=key,
                    table=table_name(rows.target),
                    keys=unnested(rows, keys),
                    matches=key_matches(rows),
                    where=rows.where_of_t,
                )
            )
    with base.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO migration.repaired_rows (repair_id, kind, key) VALUES (%s, 'missing', %s)",
            [(repair_id, list(key)) for key in batch.missing],
        )


def chunks(keys: Keys) -> Iterator[Keys]:
    """The keys in pieces that one statement can take."""
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        yield keys[start : start + _KEYS_AT_ONCE]
