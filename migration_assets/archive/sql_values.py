"""Stored values as text in DuckDB's SQL: for the portable fingerprint, and as CSV that PostgreSQL's COPY reads.

The text of a value is what COPY parses to exactly the same value. Names and literals are quoted here as well.
"""

import io
from collections.abc import Callable, Iterator, Sequence

import duckdb
import pyarrow.csv as pa_csv

from migration_assets.archive.columns import Storage, StoredColumn, numbered_name
from migration_assets.domain.errors import ArchiveError
from migration_assets.domain.fingerprint import Fingerprint


def identifier(name: str) -> str:
    """Quote a name for DuckDB's SQL: `"name"`."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote a text for DuckDB's SQL: `'text'`."""
    return "'" + text.replace("'", "''") + "'"


# Characters for which PostgreSQL quotes an element in an array's text; RE2's \s does not include \v.
_AWKWARD = r'[{}",\\\s\v]'


def text_expressions(columns: Sequence[StoredColumn], names: Sequence[str] | None = None) -> list[str]:
    """Return one expression a column that gives PostgreSQL's text, NULL for NULL, whatever the session's time zone.

    Args:
        columns: The relation's columns.
        names: How the columns are called in SQL, quoted. By default their own names, which DuckDB only tells apart
            where they differ in more than case: see `numbered`.
    """
    called = names or [identifier(column.name) for column in columns]
    return [text_expression(column, name) for column, name in zip(columns, called, strict=True)]


def numbered(relation_sql: str, columns: Sequence[StoredColumn]) -> tuple[str, list[str]]:
    """Rename the relation's columns by position, because DuckDB takes `"a"` and `"A"` for the same name.

    Args:
        relation_sql: What can stand behind FROM; gives exactly the columns.
        columns: The relation's columns.

    Returns:
        The relation as SQL, and the new names.
    """
    names = [numbered_name(number) for number in range(len(columns))]
    return f"{relation_sql} AS stored({', '.join(names)})", names


def text_expression(column: StoredColumn, name: str) -> str:
    """Return the expression for one column; see `text_expressions`."""
    return _TEXTS.get(column.storage, _as_it_is)(column, name)


def _as_it_is(_: StoredColumn, name: str) -> str:
    return f"{name}::VARCHAR"


def _float_text(_: StoredColumn, name: str) -> str:
    return (
        f"CASE WHEN isnan({name}) THEN 'NaN' WHEN isinf({name}) THEN"
        f" CASE WHEN {name} > 0 THEN 'Infinity' ELSE '-Infinity' END ELSE {name}::VARCHAR END"
    )


def _decimal_text(column: StoredColumn, name: str) -> str:
    text = f"{name}::VARCHAR"
    if column.precision > column.scale:
        return text
    # DuckDB omits the zero before the point where the type has no digit before it.
    return f"CASE WHEN {name} < 0 THEN '-0' || substr({text}, 2) ELSE '0' || {text} END"


def _bytes_text(_: StoredColumn, name: str) -> str:
    return rf"'\x' || lower(hex({name}))"


def day_text(name: str) -> str:
    """Return the text of a date, or of a timestamp without a time zone."""
    return _era_last(f"{name}::VARCHAR")


def moment_text(name: str) -> str:
    """Return the text of a timestamp with time zone, in UTC, computed without DuckDB's time zone calendar."""
    finite = _era_last(f"make_timestamp(epoch_us({name}))::VARCHAR", zone="+00")
    return f"CASE WHEN isfinite({name}) THEN {finite} ELSE {name}::VARCHAR END"


def _era_last(text: str, zone: str = "") -> str:
    """Put the era last: `0044-03-15 (BC) 12:00:00` is `0044-03-15 12:00:00 BC` in PostgreSQL."""
    return (
        f"CASE WHEN contains({text}, '(BC)') THEN replace({text}, ' (BC)', '') || '{zone} BC'"
        f" ELSE {text} || '{zone}' END"
    )


def _list_text(column: StoredColumn, name: str) -> str:
    """Match PostgreSQL's text to the byte, since the portable fingerprint is computed from it."""
    if column.element is Storage.TEXT:
        element = (
            f"CASE WHEN e IS NULL THEN 'NULL' WHEN e = '' OR lower(e) = 'null' OR regexp_matches(e, '{_AWKWARD}')"
            r""" THEN '"' || replace(replace(e, '\', '\\'), '"', '\"') || '"' ELSE e END"""
        )
    elif column.element is Storage.BOOLEAN:
        element = "CASE WHEN e IS NULL THEN 'NULL' WHEN e THEN 't' ELSE 'f' END"
    else:
        element = "coalesce(e::VARCHAR, 'NULL')"
    joined = f"array_to_string(list_transform({name}, lambda e: {element}), ',')"
    return f"CASE WHEN len({name}) = 0 THEN '{{}}' ELSE '{{' || {joined} || '}}' END"


_TEXTS: dict[Storage, Callable[[StoredColumn, str], str]] = {
    Storage.FLOAT: _float_text,
    Storage.DECIMAL: _decimal_text,
    Storage.BYTES: _bytes_text,
    Storage.DATE: lambda _, name: day_text(name),
    Storage.TIMESTAMP: lambda _, name: day_text(name),
    Storage.TIMESTAMPTZ: lambda _, name: moment_text(name),
    Storage.LIST: _list_text,
}


# PostgreSQL counts from 2000-01-01; these are the microseconds from 1970 to then.
_EPOCH_MICROS = 946_684_800_000_000
# NaN as PostgreSQL sends it, whatever bits a computed NaN has.
_NAN = {4: "7fc00000", 8: "7ff8000000000000"}
_MIDDLE = {
    Storage.DATE: "DATE '2000-01-01'",
    Storage.TIMESTAMP: "TIMESTAMP '2000-01-01 00:00:00'",
    Storage.TIMESTAMPTZ: "TIMESTAMPTZ '2000-01-01 00:00:00+00'",
}


def portable_fingerprint(
    connection: duckdb.DuckDBPyConnection, relation_sql: str, columns: Sequence[StoredColumn]
) -> Fingerprint:
    """Return the portable fingerprint of the relation's rows.

    Args:
        connection: A connection that can read the relation.
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
    """Return the value's bytes in hexadecimal, as PostgreSQL's binary output has them."""
    return f"lower(hex({value}::BIT::BLOB))"


def _or_infinite(name: str, middle: str, finite: str, *, digits: int) -> str:
    latest, earliest = "7" + "f" * (digits - 1), "8" + "0" * (digits - 1)
    return (
        f"CASE WHEN isinf({name}) THEN CASE WHEN {name} > {middle} THEN '{latest}' ELSE '{earliest}' END"
        f" ELSE {finite} END"
    )


# Few rows a batch, because one value may have megabytes.
_ROWS = 128


def csv_chunks(
    connection: duckdb.DuckDBPyConnection, relation_sql: str, columns: Sequence[StoredColumn]
) -> Iterator[bytes]:
    """Yield CSV for `COPY … (the columns that are not generated) FROM STDIN (FORMAT csv)`.

    NULL is an empty field, the empty string is "".

    Args:
        connection: A connection that can read the relation; it is busy until the last chunk was taken.
        relation_sql: What can stand behind FROM; gives exactly the columns, generated ones included.
        columns: The relation's columns.

    Raises:
        ArchiveError: The relation cannot be read, perhaps after some chunks were delivered.
    """
    try:
        yield from _chunks(connection, relation_sql, columns)
    except duckdb.Error as error:
        raise ArchiveError(
            f"DuckDB cannot read the files: {str(error).strip().partition(chr(10))[0]}",
            state_left="everything was rolled back; the base and the archive are as before",
            next_step="`migration-assets archive QUARTER --reread` says which file it is; bring it back",
        ) from None


def _chunks(
    connection: duckdb.DuckDBPyConnection, relation_sql: str, columns: Sequence[StoredColumn]
) -> Iterator[bytes]:
    relation, names = numbered(relation_sql, columns)
    values = [
        f"{text_expression(column, name)} AS {name}"
        for column, name in zip(columns, names, strict=True)
        if not column.generated
    ]
    # DuckDB reads ahead until this buffer is full, but does not count the bytes of texts: gigabytes were buffered.
    connection.execute("SET streaming_buffer_size = '1KiB'")
    reader = connection.execute(f"SELECT {', '.join(values)} FROM {relation}").to_arrow_reader(_ROWS)
    # Quote whatever is not NULL: PostgreSQL reads an empty field without quotes as NULL.
    options = pa_csv.WriteOptions(include_header=False, quoting_style="all_valid")
    buffer = io.BytesIO()
    with pa_csv.CSVWriter(buffer, reader.schema, write_options=options) as writer:
        for batch in reader:
            writer.write_batch(batch)  # pyright: ignore[reportUnknownMemberType]
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
