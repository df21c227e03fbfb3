"""Which rows differ: keys and hashes of the differing buckets are compared one by one."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

import polars as pl
from psycopg import ServerCursor, sql

from migration_assets.domain.fingerprint import Difference, Differences, Kind
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.postgres.fingerprints import hash_input
from migration_assets.postgres.sessions import Connected
from migration_assets.postgres.sql_text import raw_sql, table_name
from migration_assets.stream.buckets import Compared, SliceRows, at_once

# A key and a hash take about 300 bytes on each side.
_ROWS_AT_ONCE = 100_000
_FETCHED_AT_ONCE = 10_000
_CURSOR = "migration_assets_differing"
_SAMPLE = 20

Keys = list[tuple[str, ...]]


@dataclass(frozen=True)
class DifferingKeys:
    """The keys of one batch, by what is wrong in the base. A key is a tuple of its columns' texts."""

    missing: Keys
    extra: Keys
    changed: Keys

    def of(self, kind: Kind) -> Keys:
        """Return the keys of one kind."""
        return {Kind.MISSING: self.missing, Kind.EXTRA: self.extra, Kind.CHANGED: self.changed}[kind]

    def added_to(self, counts: Differences) -> Differences:
        """Return the counts with those of this batch added."""
        return Differences(
            counts.missing + len(self.missing), counts.extra + len(self.extra), counts.changed + len(self.changed)
        )


def differing_keys(legacy: Connected, base: Connected, rows: SliceRows, compared: Compared) -> Iterator[DifferingKeys]:
    """Yield the keys batch by batch, so that memory stays bounded; each side is read once for all batches.

    Args:
        legacy: In the transaction whose snapshot counts; both sessions may be used for other things between batches.
        base: Likewise. Changes made between batches are not seen.
        rows: The slice.
        compared: The buckets that are known to differ.
    """
    names = ["b", *(f"k{number}" for number in range(1, len(rows.key) + 1)), "h"]
    with legacy.cursor(name=_CURSOR) as of_legacy, base.cursor(name=_CURSOR) as of_base:
        legacy_side = _InOrder(of_legacy, _keys_and_hashes(rows, rows.spec.table, names, compared), names)
        base_side = _InOrder(of_base, _keys_and_hashes(rows, rows.target, names, compared), names)
        for last in _batches(compared.differing):
            found = at_once(legacy, partial(legacy_side.through, last), partial(base_side.through, last))
            yield _compare(*found, len(rows.key))


def _batches(differing: dict[int, int]) -> Iterator[int]:
    """Yield the last bucket of each batch."""
    last = size = 0
    for bucket, count in differing.items():
        if size and size + count > _ROWS_AT_ONCE:
            yield last
            size = 0
        last = bucket
        size += count
    if size:
        yield last


def _keys_and_hashes(rows: SliceRows, table: QualifiedName, names: Sequence[str], compared: Compared) -> sql.Composed:
    return sql.SQL("SELECT {names} FROM {hashed} WHERE b = ANY ({buckets}) ORDER BY b").format(
        names=sql.SQL(", ").join(sql.Identifier(name) for name in names),
        hashed=rows.hashed(table, compared.buckets),
        buckets=sql.Literal(list(compared.differing)),
    )


class _InOrder:
    """The rows of one side in the order of their buckets, read in one pass for all batches."""

    def __init__(self, cursor: ServerCursor[tuple[Any, ...]], statement: sql.Composed, names: Sequence[str]) -> None:
        self._cursor = cursor.execute(statement)
        self._names = list(names[1:])
        self._fetched: list[tuple[Any, ...]] | None = None

    def through(self, last: int) -> pl.DataFrame:
        """Take all rows that were not taken yet, up to and including bucket `last`."""
        taken: list[tuple[Any, ...]] = []
        while self._fetched is None or self._fetched:
            waiting = self._fetched or []
            end = bisect_right(waiting, last, key=itemgetter(0))
            taken += [row[1:] for row in waiting[:end]]
            if end < len(waiting):
                self._fetched = waiting[end:]
                break
            self._fetched = self._cursor.fetchmany(_FETCHED_AT_ONCE)
        return pl.DataFrame(taken, schema=dict.fromkeys(self._names, pl.String), orient="row")


def _compare(legacy: pl.DataFrame, base: pl.DataFrame, key_columns: int) -> DifferingKeys:
    names = [f"k{number}" for number in range(1, key_columns + 1)]

    def keys(frame: pl.DataFrame) -> Keys:
        return frame.select(names).rows()  # pyright: ignore[reportUnknownMemberType]  polars leaves types of other libraries open

    both = legacy.join(base, on=names, how="inner", suffix="_base")
    return DifferingKeys(
        missing=keys(legacy.join(base, on=names, how="anti")),
        extra=keys(base.join(legacy, on=names, how="anti")),
        changed=keys(both.filter(pl.col("h") != pl.col("h_base"))),  # pyright: ignore[reportUnknownMemberType]  as above
    )


def unnested(rows: SliceRows, keys: Sequence[tuple[str, ...]]) -> sql.Composed:
    """Return the keys as a table `k` of typed columns `__key_1`, `__key_2`…, for a FROM clause."""
    columns = rows.key
    arrays = sql.SQL(", ").join(
        sql.SQL("{}::text[]").format(sql.Literal([key[number] for key in keys])) for number in range(len(columns))
    )
    texts = sql.SQL(", ").join(sql.Identifier(f"t{number}") for number in range(1, len(columns) + 1))
    typed = sql.SQL(", ").join(
        sql.SQL("{}::{} AS {}").format(
            sql.Identifier(f"t{number}"), raw_sql(column.type_name), sql.Identifier(f"__key_{number}")
        )
        for number, column in enumerate(columns, start=1)
    )
    return sql.SQL("(SELECT {typed} FROM unnest({arrays}) AS texts({texts})) AS k").format(
        typed=typed, arrays=arrays, texts=texts
    )


def key_matches(rows: SliceRows, of: Sequence[str] = ("t",)) -> sql.Composed:
    """Return `t.id = k.__key_1 AND …`, where the table is called `t` unless `of` gives another name."""
    return sql.SQL(" AND ").join(
        sql.SQL("{} {} k.{}").format(
            sql.Identifier(*of, column.name),
            raw_sql(rows.description.equality(column.name)),
            sql.Identifier(f"__key_{number}"),
        )
        for number, column in enumerate(rows.key, start=1)
    )


def having_keys(rows: SliceRows, keys: Keys) -> sql.Composed:
    """Return a condition for the slice's rows with these keys, in a query on the copied table without an alias."""
    of = (rows.description.table.schema, rows.description.table.name)
    return sql.SQL("EXISTS (SELECT FROM {} WHERE {}) AND {}").format(
        unnested(rows, keys), key_matches(rows, of), rows.where
    )


def look(legacy: Connected, base: Connected, rows: SliceRows, compared: Compared) -> Differences:
    """Count differing rows by kind and collect a sample with the columns that differ; changes nothing."""
    counts = dict.fromkeys(Kind, 0)
    sample: list[Difference] = []
    for batch in differing_keys(legacy, base, rows, compared):
        for kind in Kind:
            keys = batch.of(kind)
            counts[kind] += len(keys)
            wanted = keys[: max(0, _SAMPLE - len(sample))]
            columns = differing_columns(legacy, base, rows, wanted) if kind is Kind.CHANGED and wanted else {}
            sample += [Difference(kind, named(rows, key), columns.get(key, ())) for key in wanted]
    return Differences(counts[Kind.MISSING], counts[Kind.EXTRA], counts[Kind.CHANGED], tuple(sample))


def named(rows: SliceRows, key: tuple[str, ...]) -> dict[str, str]:
    """Return a key's texts by the names of its columns."""
    return {column.name: text for column, text in zip(rows.key, key, strict=True)}


def differing_columns(
    legacy: Connected, base: Connected, rows: SliceRows, keys: Keys
) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Return, for rows that are on both sides, the names of the columns whose bytes differ."""
    of_legacy = _column_hashes(legacy, rows, rows.spec.table, keys)
    of_base = _column_hashes(base, rows, rows.target, keys)
    return {
        key: tuple(
            column.name
            for column, one, other in zip(rows.columns, of_legacy[key], of_base[key], strict=True)
            if one != other
        )
        for key in keys
        if key in of_legacy and key in of_base
    }


def _column_hashes(
    connection: Connected, rows: SliceRows, table: QualifiedName, keys: Keys
) -> dict[tuple[str, ...], list[Any]]:
    hashes = sql.SQL(", ").join(
        sql.SQL("(SELECT hash_record_extended(row({}), 0) FROM (SELECT t.{}) AS one)").format(
            hash_input(column), sql.Identifier(column.name)
        )
        for column in rows.columns
    )
    texts = sql.SQL(", ").join(sql.SQL("format('%s', t.{})").format(sql.Identifier(c.name)) for c in rows.key)
    found = connection.execute(
        sql.SQL(
            "SELECT ARRAY[{texts}], ARRAY[{hashes}] FROM {table} AS t JOIN {keys} ON {matches} WHERE {where}"
        ).format(
            texts=texts,
            hashes=hashes,
            table=table_name(table),
            keys=unnested(rows, keys),
            matches=key_matches(rows),
            where=rows.where_of_t,
        )
    )
    return {tuple(key): values for key, values in found}
