"""Computes fingerprints of rows inside PostgreSQL; equal fingerprints mean equal bytes.

The row hash, term by term:

- `hash_record_extended(row(c1, …, cn), 0)` folds the 64-bit hashes of all columns as `31 * h + hash(c)`. Two things
  follow. First, each column must enter in a form whose hash depends on every byte, because a type's own hash follows
  the type's own equality: 1.0 and 1.00, '1 day' and '24:00', 1 and 2**32 hash alike. `Hashing` gives each form.
- Second, the fold is linear, so that *sums* of it fall apart into sums per column: two rows that swapped a value would
  leave the sum unchanged (measured: 44 % of such swaps unnoticed, even with two seeds). So the row hash is hashed once
  more, as text (`hashtextextended`; the hash of a bigint would fold it to 32 bits), with two seeds.
- The hashes of rows are summed, not combined by XOR: with XOR a row that is there twice would cancel itself out.
"""

import re
from typing import Any

from psycopg import sql

from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.table_description import Column, Hashing, TableDescription
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import raw_sql, table_name

SEEDS = (0, 7)
EVERYTHING = sql.SQL("true")
_SENDS_ARRAYS = "array_send"
_SENDS_FLOATS = {"float4send": "real", "float8send": "double precision"}
# PostgreSQL's own types that hold floats: arrays of floats, geometric types and their arrays.
_HOLDS_FLOATS = re.compile(r"(?P<float>real|double precision)\[\]|(point|line|lseg|box|path|polygon|circle)(\[\])?")


def in_range(control_column: str, bounds: tuple[Any, Any], *, of: str | None = None) -> sql.Composed:
    """`control >= lower AND control < upper`; the bounds are literals, since COPY and DDL take no parameters.

    Args:
        control_column: The column that decides a row's week.
        bounds: Lower (inclusive) and upper (exclusive).
        of: Alias of the table, needed where a joined table may have a column of the same name.
    """
    lower, upper = bounds
    return sql.SQL("{c} >= {lower} AND {c} < {upper}").format(
        c=sql.Identifier(*([of] if of else []), control_column), lower=sql.Literal(lower), upper=sql.Literal(upper)
    )


def row_hash(columns: tuple[Column, ...]) -> sql.Composed:
    """SQL that computes a row's 64-bit hash, as text."""
    return sql.SQL("hash_record_extended(row({}), 0)::text").format(
        sql.SQL(", ").join(hash_input(column) for column in columns)
    )


def hash_input(column: Column) -> sql.Composable:
    """SQL of the form in which a column enters the row hash; see `Hashing`."""
    name = sql.Identifier(column.name)
    if column.hashing is Hashing.NATIVE:
        return sql.Composed([name])
    if column.hashing is Hashing.SEND and column.send_function:
        sent = _sent(column, name)
        if column.send_function == _SENDS_ARRAYS:
            # The second word says whether there *may* be NULLs. It stays set after the last NULL is gone, and a
            # receiver does not take it over. So it is zeroed; each element says by itself whether it is NULL.
            return sql.SQL("overlay({} PLACING '\\x00000000'::bytea FROM 5)").format(sent)
        return sent
    # The type's own output, in a form that keeps NULL and 'NULL' apart. A cast to text would use a user's CREATE CAST,
    # which may drop differences, or exist on one side only.
    return sql.SQL("format('%L', {})").format(name)


def _sent(column: Column, name: sql.Identifier) -> sql.Composable:
    """SQL of the bytes that a binary COPY sends, with every NaN as PostgreSQL itself writes it.

    The NaN of a computation has the sign bit set on most machines, and a copy in text form loses it. Without this, such
    a copy would differ for ever in values that no query can tell apart.
    """
    # The output of a regproc is quoted already and, with our search_path, qualified where that is necessary.
    send = raw_sql(column.send_function or "")
    base_type = column.base_type or column.type_name
    if column.send_function in _SENDS_FLOATS:
        plain = raw_sql(_SENDS_FLOATS[column.send_function])
        return sql.SQL("{send}(CASE WHEN {c} = {nan} THEN {nan} ELSE {c} END)").format(
            send=send, c=name, nan=sql.SQL("'NaN'::{}").format(plain)
        )
    found = _HOLDS_FLOATS.fullmatch(base_type)
    if found is None:
        return sql.SQL("{}({})").format(send, name)
    if found["float"]:
        has_nan = sql.SQL("'NaN'::{} = ANY ({})").format(raw_sql(found["float"]), name)
    else:
        has_nan = sql.SQL("strpos(format('%s', {}), 'NaN') > 0").format(name)
    # By text only for a value with a NaN: parsing every value would take longer than everything else.
    return sql.SQL("{send}(CASE WHEN {has_nan} THEN format('%s', {c})::{type} ELSE {c} END)").format(
        send=send, has_nan=has_nan, c=name, type=raw_sql(base_type)
    )


def fingerprint_query(
    table: QualifiedName, columns: tuple[Column, ...], where: sql.Composable = EVERYTHING
) -> sql.Composed:
    """The query whose one row is the fingerprint: count, first sum, second sum."""
    return sql.SQL(
        # OFFSET 0 keeps the planner from pulling the inner query up, which would hash every row twice;
        # parallel plans stay possible. Never ONLY: the base's table is partitioned.
        "SELECT count(*), sum(hashtextextended(h, {a})), sum(hashtextextended(h, {b}))"
        " FROM (SELECT {hash} AS h FROM {table} WHERE {where} OFFSET 0) AS rows"
    ).format(
        a=SEEDS[0],
        b=SEEDS[1],
        hash=row_hash(columns),
        table=table_name(table),
        where=where,
    )


def take_fingerprint(
    connection: Connected, table: QualifiedName, columns: tuple[Column, ...], where: sql.Composable = EVERYTHING
) -> Fingerprint:
    """The fingerprint of the rows of `table` for which `where` holds, in the session's snapshot.

    Args:
        connection: From `sessions.connect`, whose settings make text output the same everywhere.
        table: The legacy's table, a leaf, or the base's root.
        columns: The *legacy's* columns, on both sides: they decide how a row is hashed.
        where: A condition, most often `in_range`.
    """
    row = require_row(connection.execute(fingerprint_query(table, columns, where)).fetchone(), "a fingerprint")
    return Fingerprint.from_row(*row)


def hashed_columns(description: TableDescription) -> tuple[Column, ...]:
    """The columns of a fingerprint: all, with the generated ones, as the base must compute what the legacy did."""
    return description.columns
