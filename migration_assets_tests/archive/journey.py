"""The whole way of a slice: PostgreSQL, Arrow, Parquet, DuckDB, CSV, PostgreSQL again; and what each station saw."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from psycopg import IsolationLevel, sql
from pyarrow import parquet

from migration_assets.archive import export, sql_values
from migration_assets.archive.export import SliceProfile, export_query, profile_slice
from migration_assets.archive.parts import parquet_schema, to_stored
from migration_assets.archive.sql_values import csv_chunks
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.postgres.arrow_stream import arrow_stream
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.fingerprints import hashed_columns, take_fingerprint
from migration_assets.postgres.sessions import Connected

THINGS = QualifiedName("public", "things")
BACK = QualifiedName("public", "back")


@dataclass(frozen=True)
class Archived:
    """A table in one Parquet file."""

    profile: SliceProfile
    file: Path

    @property
    def relation(self) -> str:
        return f"read_parquet(['{self.file}'])"

    def portable(self) -> Fingerprint:
        with duck() as connection:
            return sql_values.portable_fingerprint(connection, self.relation, self.profile.columns)


@contextmanager
def duck() -> Generator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(
        config={"autoinstall_known_extensions": False, "autoload_known_extensions": False, "threads": 1}
    )
    try:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection
    finally:
        connection.close()


def archive(
    connection: Connected, url: str, file: Path, table: QualifiedName = THINGS, order_by: Sequence[str] = ("id",)
) -> Archived:
    """Profile and rows of one snapshot."""
    description = require_table(connection, table, "base")
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    with connection.transaction():
        profile = profile_slice(connection, table, description)
        row = connection.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        query = export_query(table, profile.columns, order_by).as_string(connection)
        with arrow_stream(url, str(row[0]), query) as reader:
            schema = parquet_schema(profile.columns)
            with parquet.ParquetWriter(file, schema, compression="zstd", write_page_index=True) as writer:
                for batch in reader:
                    writer.write_batch(to_stored(batch, profile.columns))
    connection.read_only = False
    return Archived(profile, file)


def put_back(
    connection: Connected, archived: Archived, table: QualifiedName = BACK, like: QualifiedName = THINGS
) -> None:
    """Into a new, equal table."""
    name = sql.Identifier(table.schema, table.name)
    connection.execute(
        sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(name, sql.Identifier(like.schema, like.name))
    )
    columns = sql.SQL(", ").join(sql.Identifier(c.name) for c in archived.profile.columns if not c.generated)
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(name, columns)
    with duck() as duckling, connection.cursor().copy(statement) as copy:
        for chunk in csv_chunks(duckling, archived.relation, archived.profile.columns):
            copy.write(chunk)


def contents(connection: Connected, table: QualifiedName) -> list[str]:
    """Every row as COPY writes it: owes nothing to fingerprints."""
    statement = sql.SQL("COPY (SELECT * FROM {} ORDER BY id) TO STDOUT").format(
        sql.Identifier(table.schema, table.name)
    )
    with connection.cursor().copy(statement) as copy:
        return b"".join(bytes(block) for block in copy).decode().split("\n")


def native(connection: Connected, table: QualifiedName) -> Fingerprint:
    return take_fingerprint(connection, table, hashed_columns(require_table(connection, table, "test")))


def require_exact(connection: Connected, url: str, file: Path) -> Archived:
    """Archive table things, put it back as table back, and compare in every way there is."""
    archived = archive(connection, url, file)
    assert archived.profile.native == native(connection, THINGS)
    assert archived.profile.portable == export.portable_fingerprint(connection, THINGS, archived.profile.columns)
    assert archived.portable() == archived.profile.portable
    put_back(connection, archived)
    before, after = contents(connection, THINGS), contents(connection, BACK)
    different = [(a[:500], b[:500]) for a, b in zip(before, after, strict=False) if a != b]
    assert different[:3] == []
    assert len(before) == len(after)
    assert native(connection, BACK) == archived.profile.native
    assert export.portable_fingerprint(connection, BACK, archived.profile.columns) == archived.profile.portable
    return archived


def raw(connection: Connected, statement: str) -> list[tuple[Any, ...]]:
    cursor = connection.execute(statement.encode())
    return cursor.fetchall() if cursor.description else []
