"""One DuckDB session in which a table's hot and cold rows are one view; answers one SELECT at a time, read-only."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from migration_assets.archive.cold_views import cold_relation
from migration_assets.archive.hot_side import HotSide, hot_relation, without_parameters
from migration_assets.archive.manifest import Manifest
from migration_assets.archive.questions import require_question
from migration_assets.archive.quoting import literal
from migration_assets.archive.shown_values import answered
from migration_assets.archive.store_base import ArchiveStore
from migration_assets.domain.errors import ArchiveError
from migration_assets.domain.stored_columns import StoredColumn

_FORMATS = {".parquet": "FORMAT parquet, COMPRESSION zstd", ".csv": "FORMAT csv, HEADER"}


@dataclass(frozen=True)
class Answer:
    """Column names, rows as Python values, and whether there were more than asked for."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    truncated: bool = False


@dataclass(frozen=True)
class Engine:
    """The session; made by `query_engine`."""

    duck: duckdb.DuckDBPyConnection
    schema: str
    table: str

    def answer(self, statement: str, limit: int | None = None) -> Answer:
        """The rows of one SELECT, at most `limit`; days, times and intervals as texts, which hold all of them.

        Raises:
            ArchiveError: It is no question (`questions`), or DuckDB cannot answer it; says where and why.
        """
        question = self._question(statement)
        with _failures():
            found = self.duck.sql(question)  # what it would give: nothing is run yet
            names, kinds = tuple(found.columns), [str(kind) for kind in found.types]
            values = [answered(f"#{place}", kind) for place, kind in enumerate(kinds, start=1)]
            most = "" if limit is None else f" LIMIT {limit + 1}"
            rows = self.duck.execute(f"SELECT {', '.join(values)} FROM (\n{question}\n){most}").fetchall()
        truncated = limit is not None and len(rows) > limit
        return Answer(names, rows[:limit] if truncated else rows, truncated)

    def explain(self, statement: str) -> Answer:
        """Run it, and tell what was read where: files, rows, and the queries that went to the base."""
        question = self._question(statement)
        with _failures():
            return Answer(("plan",), [(row[1],) for row in self.duck.execute(f"EXPLAIN ANALYZE {question}").fetchall()])

    def export(self, statement: str, path: Path, *, like: Path) -> int:
        """The whole result as one file, in the format of the ending of `like`; how many rows.

        Raises:
            ArchiveError: No such format, no question, or it cannot be written.
        """
        options = _FORMATS.get(like.suffix.lower())
        if options is None:
            raise ArchiveError(
                f"{like.name} is neither .parquet nor .csv",
                state_left="nothing was written",
                next_step="end the file's name with one of these",
            )
        question = self._question(statement)
        with _failures():
            row = self.duck.execute(f"COPY (\n{question}\n) TO {literal(str(path))} ({options})").fetchone()
        return int(row[0]) if row else 0

    def _question(self, statement: str) -> str:
        return require_question(self.duck, statement, self.schema, self.table)


@contextmanager
def _failures() -> Generator[None]:
    """Whatever DuckDB says of a statement, also while its rows are taken."""
    try:
        yield
    except duckdb.Error as error:
        raise ArchiveError(
            without_parameters(error),
            where="query",
            state_left="nothing was changed",
            next_step="correct the statement; it is DuckDB's SQL",
        ) from None


@contextmanager
def query_engine(
    store: ArchiveStore,
    schema: str,
    table: str,
    hot: HotSide | None,
    manifests: Sequence[Manifest],
    columns: Sequence[StoredColumn],
    *,
    broken: Sequence[str] = (),
    memory_mb: int,
) -> Generator[Engine]:
    """Put both sides together under the table's own name, with and without its schema.

    Args:
        store: Where the archives are.
        schema: Of the table.
        table: Its name.
        hot: The base; None asks the archive alone.
        manifests: Of the weeks that only the archive has.
        columns: The table's, as they are now.
        broken: SELECTs that stand for weeks that cannot be read, as `broken_relation` makes them.
        memory_mb: What DuckDB may use; nothing is ever spilled to disk.

    Raises:
        ArchiveError: The base or the archive cannot be read.
    """
    with store.connect_duckdb(memory_mb=memory_mb) as duck:
        # The archive first: it is what names the columns and says their types.
        parts = [cold_relation(store, manifests, columns), *(hot_relation(duck, hot, columns) if hot else []), *broken]
        name, home = (text.replace('"', '""') for text in (table, schema))
        union = " UNION ALL ".join(f"({part})" for part in parts)
        try:
            duck.execute(f'CREATE SCHEMA IF NOT EXISTS "{home}"')
            duck.execute(f'CREATE VIEW "{home}"."{name}" AS {union}')
            if home != "main":
                duck.execute(f'CREATE VIEW main."{name}" AS SELECT * FROM "{home}"."{name}"')
        except duckdb.Error as error:  # a file that was there a moment ago
            said = store.scrubbed(duckdb.Error(without_parameters(error)))
            raise ArchiveError(
                f"the table's two sides cannot be read together: {said}",
                where="query",
                state_left="nothing was touched",
                next_step="`migration-assets archive QUARTER --reread` says which file it is; bring it back",
            ) from None
        # A name that is no table is no variable of this program either.
        duck.execute("SET python_enable_replacements = false; SET lock_configuration = true")
        yield Engine(duck, schema, table)
