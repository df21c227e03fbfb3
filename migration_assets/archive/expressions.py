"""How a column leaves PostgreSQL: as ADBC reads it, and as text for the portable fingerprint (`portable_method`)."""

import re
from collections.abc import Sequence

from psycopg import sql

from migration_assets.domain.stored_columns import Storage, StoredColumn
from migration_assets.postgres.sql_text import raw_sql

# Types whose value already is its own text, to the byte; a cast of the others to text may be a user's own.
_PLAIN_TEXT = re.compile(r"text|character varying(\(\d+\))?")
_SEND = {
    Storage.DATE: "date_send",
    Storage.TIMESTAMP: "timestamp_send",
    Storage.TIMESTAMPTZ: "timestamptz_send",
}
_FLOAT_SEND = {4: ("float4send", "real"), 8: ("float8send", "double precision")}
# The range of timestamps that DuckDB shares. Its infinities are the limits of 64 bits; ours leave as the last moment
# that fits, and as PostgreSQL's first one (ADBC would add its epoch to an infinity, and wrap). Finite values near
# either of them make the column unfit, so that they cannot be taken for infinities.
LATEST = "294247-01-10 04:00:54.775807"
EARLIEST = "4714-11-24 00:00:00 BC"
_SAFE_UNTIL, _SAFE_FROM = "294247-01-01", "4713-01-01 BC"
# `concat` takes 100 arguments; a column needs up to three.
_CONCAT_COLUMNS = 30


def output_text(column: StoredColumn) -> sql.Composed:
    """The type's own output, NULL for NULL.

    Never a cast, which would take a user's `CREATE CAST (… AS text)`. And not `IS NULL`, which also holds for a
    composite whose fields are all NULL.
    """
    return sql.SQL("CASE WHEN {c} IS DISTINCT FROM NULL THEN format('%s', {c}) END").format(
        c=sql.Identifier(column.name)
    )


def exported(column: StoredColumn) -> sql.Composable:
    """What ADBC reads of a column: `archive/arrow_schema.py` makes the stored value of it."""
    name = sql.Identifier(column.name)
    match column.storage:
        case Storage.DATE:
            # Days since 1970 with DuckDB's infinities: ADBC makes a wrong day of an infinite one.
            return sql.SQL(
                "CASE WHEN isfinite({c}) THEN {c} - date '1970-01-01'"
                " WHEN {c} > date '1970-01-01' THEN 2147483647 WHEN {c} < date '1970-01-01' THEN -2147483647 END"
            ).format(c=name)
        case Storage.TIMESTAMP | Storage.TIMESTAMPTZ:
            return sql.SQL(
                "CASE WHEN isfinite({c}) THEN {c} WHEN {c} > {middle} THEN {latest}"
                " WHEN {c} < {middle} THEN {earliest} END"
            ).format(c=name, middle=_moment(column, "1970-01-01"), latest=_moment(column, LATEST),
                     earliest=_moment(column, EARLIEST))  # fmt: skip
        case Storage.TEXT:
            return name if _PLAIN_TEXT.fullmatch(column.type_name) else output_text(column)
        case _:
            return name


def _moment(column: StoredColumn, text: str) -> sql.SQL:
    return raw_sql(f"{'timestamptz' if column.storage is Storage.TIMESTAMPTZ else 'timestamp'} '{text}'")


def unfit_condition(column: StoredColumn) -> sql.Composed | None:
    """Whether a value cannot be carried by the column's exact type; None where every value can."""
    name = sql.Identifier(column.name)
    match column.storage:
        case Storage.DECIMAL:
            return sql.SQL("{c} IN (numeric 'NaN', numeric 'Infinity', numeric '-Infinity')").format(c=name)
        case Storage.TIMESTAMP | Storage.TIMESTAMPTZ:
            return sql.SQL("isfinite({c}) AND ({c} >= {until} OR {c} < {since})").format(
                c=name, until=_moment(column, _SAFE_UNTIL), since=_moment(column, _SAFE_FROM)
            )
        case Storage.LIST:
            return sql.SQL("array_ndims({c}) > 1 OR array_lower({c}, 1) <> 1").format(c=name)
        case _:
            return None


def canonical(column: StoredColumn) -> sql.Composable:
    """The column's text, or what `concat` makes it of; NULL for NULL. Length and marks come later: `row_digest`."""
    name = sql.Identifier(column.name)
    match column.storage:
        case Storage.FLOAT:
            # Every NaN as PostgreSQL itself writes it: see `fingerprints`.
            send, plain = _FLOAT_SEND[column.width]
            return sql.SQL("encode({}(CASE WHEN {c} = {nan} THEN {nan} ELSE {c} END), 'hex')").format(
                raw_sql(send), c=name, nan=sql.SQL("'NaN'::{}").format(raw_sql(plain))
            )
        case Storage.DATE | Storage.TIMESTAMP | Storage.TIMESTAMPTZ:
            return sql.SQL("encode({}({}), 'hex')").format(raw_sql(_SEND[column.storage]), name)
        case Storage.JSON | Storage.LIST:
            return output_text(column)
        case _:
            return exported(column)


def row_digest(columns: Sequence[StoredColumn], names: Sequence[sql.Identifier], *, utf8: bool) -> sql.Composed:
    """The MD5 of a row's text.

    Args:
        columns: In the archive's order.
        names: Of the values that `canonical` made, one for each column.
        utf8: Whether the server's own encoding is UTF-8, so that nothing needs to be converted.
    """
    as_utf8 = raw_sql("{}" if utf8 else "convert_to({}, 'UTF8')")
    parts = [_framed(column, name, as_utf8) for column, name in zip(columns, names, strict=True)]
    texts = [
        sql.SQL("concat({})").format(sql.SQL(", ").join(parts[start : start + _CONCAT_COLUMNS]))
        for start in range(0, len(parts), _CONCAT_COLUMNS)
    ]
    return sql.SQL("md5({})").format(as_utf8.format(sql.SQL(" || ").join(texts)))


def _framed(column: StoredColumn, name: sql.Identifier, as_utf8: sql.SQL) -> sql.Composed:
    match column.storage:
        case Storage.BYTES:
            return sql.SQL("octet_length({c}), ':', md5({c})").format(c=name)
        case Storage.TEXT | Storage.JSON | Storage.LIST:
            return sql.SQL("octet_length({}), ':', {}").format(as_utf8.format(name), name)
        case _:
            return sql.SQL("{}, ','").format(name)
