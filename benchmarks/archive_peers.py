"""The peers of the archive: what a careful person would otherwise do, in the same order and with the same codec."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# The stubs of pyarrow leave much open.

import time
from pathlib import Path

import duckdb
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from migration_assets.archive.hot_rows import load_reader
from migration_assets.domain.table_spec import QualifiedName

_FETCH = 50_000


def by_duckdb(url: str, table: QualifiedName, folder: Path) -> dict[str, float]:
    """DuckDB's own reader of PostgreSQL, straight into one Parquet file; proves nothing."""
    parts = {name: str(value) for name, value in conninfo_to_dict(url).items() if value}
    conninfo = " ".join(f"{name}='{value}'" for name, value in parts.items())
    started = time.perf_counter()
    with duckdb.connect() as duck:
        load_reader(duck)
        duck.execute("SET threads = 2")
        duck.execute("ATTACH $conninfo AS pg (TYPE postgres, READ_ONLY)".replace("$conninfo", _quoted(conninfo)))
        duck.execute(
            f"COPY (SELECT * FROM pg.{table.schema}.{table.name} ORDER BY booked_at, id)"  # noqa: S608 - our own name
            f" TO {_quoted(str(folder / 'peer.parquet'))} (FORMAT parquet, COMPRESSION zstd)"
        )
    return {"written": time.perf_counter() - started}


def by_python(url: str, table: QualifiedName, folder: Path) -> dict[str, float]:
    """The recipe of a hundred blogs: rows through Python, in chunks, into a Parquet file. Values as Python has them."""
    started = time.perf_counter()
    statement = sql.SQL("SELECT * FROM {} ORDER BY booked_at, id").format(sql.Identifier(table.schema, table.name))
    with psycopg.connect(url) as connection, connection.cursor(name="recipe") as cursor:
        cursor.itersize = _FETCH
        cursor.execute(statement)
        writer: pq.ParquetWriter | None = None
        while rows := cursor.fetchmany(_FETCH):
            names = [column.name for column in cursor.description or ()]
            # Numbers without a scale, and documents: as text, since Arrow would guess.
            columns = {name: [_plain(row[at]) for row in rows] for at, name in enumerate(names)}
            schema = writer.schema if writer else None
            batch = pa.Table.from_pydict(columns, schema=schema)
            if writer is None:
                batch = batch.cast(pa.schema([(field.name, _nullable(field.type)) for field in batch.schema]))
                writer = pq.ParquetWriter(folder / "peer.parquet", batch.schema, compression="zstd")
            writer.write_table(batch)
        if writer is not None:
            writer.close()
    return {"written": time.perf_counter() - started}


def _nullable(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_null(kind) else kind


def _plain(value: object) -> object:
    known = value is None or isinstance(value, (bool, int, str, bytes)) or hasattr(value, "isoformat")
    return value if known else str(value)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
