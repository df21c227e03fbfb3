"""An archived slice as CSV that PostgreSQL's COPY reads, piece by piece."""

import io
from collections.abc import Iterator, Sequence

import duckdb
import pyarrow.csv as pa_csv

from migration_assets.archive.sql_values import numbered, text_expression
from migration_assets.domain.errors import ArchiveError
from migration_assets.domain.stored_columns import StoredColumn

# A value may have megabytes, so that few rows are in memory at a time.
_ROWS = 128


def csv_chunks(
    connection: duckdb.DuckDBPyConnection, relation_sql: str, columns: Sequence[StoredColumn]
) -> Iterator[bytes]:
    """For `COPY … (the columns that are not generated) FROM STDIN (FORMAT csv)`: NULL is nothing, '' is "".

    Args:
        connection: Able to read the relation; busy until the last chunk was taken.
        relation_sql: What can stand behind FROM; gives exactly the columns, generated ones too.
        columns: Of the relation.

    Raises:
        ArchiveError: The relation cannot be read, perhaps half-way.
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
    # DuckDB reads ahead until so much is buffered, and does not count the bytes of texts: gigabytes of them (seen).
    connection.execute("SET streaming_buffer_size = '1KiB'")
    reader = connection.execute(f"SELECT {', '.join(values)} FROM {relation}").to_arrow_reader(_ROWS)
    # Quoting whatever is not NULL: PostgreSQL takes an empty field without quotes for NULL.
    options = pa_csv.WriteOptions(include_header=False, quoting_style="all_valid")
    buffer = io.BytesIO()
    with pa_csv.CSVWriter(buffer, reader.schema, write_options=options) as writer:
        for batch in reader:
            writer.write_batch(batch)  # pyright: ignore[reportUnknownMemberType]
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
