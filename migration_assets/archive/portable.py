"""The portable fingerprint as DuckDB takes it: `domain/portable_method.py` says of what."""

from collections.abc import Sequence

import duckdb

from migration_assets.archive.sql_values import numbered, text_expression
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.stored_columns import Storage, StoredColumn

# PostgreSQL counts from 2000.
_EPOCH_MICROS = 946_684_800_000_000
# As PostgreSQL sends it, whatever bits a computed one has.
_NAN = {4: "7fc00000", 8: "7ff8000000000000"}
_MIDDLE = {
    Storage.DATE: "DATE '2000-01-01'",
    Storage.TIMESTAMP: "TIMESTAMP '2000-01-01 00:00:00'",
    Storage.TIMESTAMPTZ: "TIMESTAMPTZ '2000-01-01 00:00:00+00'",
}


def portable_fingerprint(
    connection: duckdb.DuckDBPyConnection, relation_sql: str, columns: Sequence[StoredColumn]
) -> Fingerprint:
    """The fingerprint of the relation's rows.

    Args:
        connection: Able to read the relation.
        relation_sql: What can stand behind FROM, `read_parquet([…])`; gives exactly the stored columns, in order.
        columns: As the archive keeps them.

    Raises:
        duckdb.Error: The relation cannot be read.
    """
    relation, names = numbered(relation_sql, columns)
    parts = ", ".join(_framed(column, name) for column, name in zip(columns, names, strict=True))
    row = connection.execute(
        "SELECT count(*), sum(('0x' || m[1:15])::BIGINT), sum(('0x' || m[18:32])::BIGINT)"
        f" FROM (SELECT md5(concat({parts})) AS m FROM {relation})"
    ).fetchone()
    assert row is not None  # noqa: S101
    return Fingerprint.from_row(*row)


def _framed(column: StoredColumn, name: str) -> str:
    match column.storage:
        case Storage.TEXT | Storage.JSON:
            return f"strlen({name}::VARCHAR), ':', {name}::VARCHAR"
        case Storage.LIST:
            text = text_expression(column, name)
            return f"strlen({text}), ':', {text}"
        case Storage.BYTES:
            return f"octet_length({name}), ':', md5({name})"
        case _:
            return f"{_plain(column, name)}, ','"


def _plain(column: StoredColumn, name: str) -> str:
    match column.storage:
        case Storage.BOOLEAN:
            return f"CASE WHEN {name} THEN 't' WHEN NOT {name} THEN 'f' END"
        case Storage.FLOAT:
            return f"CASE WHEN isnan({name}) THEN '{_NAN[column.width]}' ELSE {_hex(name)} END"
        case Storage.DATE:
            days = f"({name} - DATE '2000-01-01')::INTEGER"
            return _or_infinite(name, _MIDDLE[column.storage], _hex(days), digits=8)
        case Storage.TIMESTAMP | Storage.TIMESTAMPTZ:
            middle = (
                f"'2000-01-01 00:00:00+00'::{'TIMESTAMPTZ' if column.storage is Storage.TIMESTAMPTZ else 'TIMESTAMP'}"
            )
            return _or_infinite(name, middle, _hex(f"(epoch_us({name}) - {_EPOCH_MICROS})"), digits=16)
        case _:
            return text_expression(column, name)


def _hex(value: str) -> str:
    """The bits, as PostgreSQL sends them."""
    return f"lower(hex({value}::BIT::BLOB))"


def _or_infinite(name: str, middle: str, finite: str, *, digits: int) -> str:
    latest, earliest = "7" + "f" * (digits - 1), "8" + "0" * (digits - 1)
    return (
        f"CASE WHEN isinf({name}) THEN CASE WHEN {name} > {middle} THEN '{latest}' ELSE '{earliest}' END"
        f" ELSE {finite} END"
    )
