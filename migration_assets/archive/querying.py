"""Answers questions over hot and cold rows as one table: the base's rows, and those that only the archive has.

One DuckDB session shows both as one view and answers one SELECT at a time, read-only.
"""

import secrets
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import duckdb
from filelock import FileLock
from psycopg.conninfo import conninfo_to_dict

from migration_assets.archive.archiving import archive_store, require_here, trusted
from migration_assets.archive.cold_views import BrokenWeek, broken_relation, cold_relation, write_catalogue
from migration_assets.archive.columns import StoredColumn, stored_columns
from migration_assets.archive.hot_rows import (
    HotSide,
    WeekPlace,
    ensure_hot_view,
    hot_relation,
    week_places,
    without_parameters,
)
from migration_assets.archive.manifest import Manifest, ManifestShelf
from migration_assets.archive.questions import require_question
from migration_assets.archive.shown_values import answered
from migration_assets.archive.sql_values import literal
from migration_assets.archive.store_base import ArchiveStore
from migration_assets.archive.verification import unreadable
from migration_assets.copying.throttle import CopyLimits
from migration_assets.domain.errors import ArchiveError, MigrationError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.archives import ArchiveRecord, read_archives
from migration_assets.ledger.schema import require_ledger
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import Connected, canonical_options
from migration_assets.runtime import Migration

_FORMATS = {".parquet": "FORMAT parquet, COMPRESSION zstd", ".csv": "FORMAT csv, HEADER"}


@dataclass(frozen=True)
class Answer:
    """Column names, rows as Python values, and whether rows were left out because of the limit."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    truncated: bool = False


@dataclass(frozen=True)
class Engine:
    """A DuckDB session that answers questions; made by `query_engine`."""

    duck: duckdb.DuckDBPyConnection
    schema: str
    table: str

    def answer(self, statement: str, limit: int | None = None) -> Answer:
        """Return the rows of one SELECT, at most `limit`.

        Dates, times and intervals are texts, because Python's types cannot hold all their values.

        Raises:
            ArchiveError: It is not a question (see `questions`), or DuckDB cannot answer it; says why.
        """
        question = self._question(statement)
        with _failures():
            found = self.duck.sql(question)  # only describes the result; nothing is run yet
            names, kinds = tuple(found.columns), [str(kind) for kind in found.types]
            values = [answered(f"#{place}", kind) for place, kind in enumerate(kinds, start=1)]
            most = "" if limit is None else f" LIMIT {limit + 1}"
            rows = self.duck.execute(f"SELECT {', '.join(values)} FROM (\n{question}\n){most}").fetchall()
        truncated = limit is not None and len(rows) > limit
        return Answer(names, rows[:limit] if truncated else rows, truncated)

    def explain(self, statement: str) -> Answer:
        """Run the statement and return DuckDB's plan: files and rows read, and the queries that went to the base."""
        question = self._question(statement)
        with _failures():
            return Answer(("plan",), [(row[1],) for row in self.duck.execute(f"EXPLAIN ANALYZE {question}").fetchall()])

    def export(self, statement: str, path: Path, *, like: Path) -> int:
        """Write the whole result to `path`, in the format that the ending of `like` names; return the number of rows.

        Raises:
            ArchiveError: The ending is not known, it is not a question, or the file cannot be written.
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
    """Turn DuckDB's errors about a statement, also while its rows are fetched, into ArchiveErrors."""
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
    """Open a session that shows both sides as one view under the table's own name, with and without its schema.

    Args:
        store: Where the archives are.
        schema: Schema of the table.
        table: Name of the table.
        hot: How the base is read; None reads the archive alone.
        manifests: Of the weeks that only the archive has.
        columns: The table's columns as they are now.
        broken: SELECTs from `broken_relation` that stand for weeks whose archive cannot be read.
        memory_mb: Memory that DuckDB may use, in MB; nothing is spilled to disk.

    Raises:
        ArchiveError: The base or the archive cannot be read.
    """
    with store.connect_duckdb(memory_mb=memory_mb) as duck:
        # The archive comes first, because its branch names the columns and sets their types.
        parts = [cold_relation(store, manifests, columns), *(hot_relation(duck, hot, columns) if hot else []), *broken]
        name, home = (text.replace('"', '""') for text in (table, schema))
        union = " UNION ALL ".join(f"({part})" for part in parts)
        try:
            duck.execute(f'CREATE SCHEMA IF NOT EXISTS "{home}"')
            duck.execute(f'CREATE VIEW "{home}"."{name}" AS {union}')
            if home != "main":
                duck.execute(f'CREATE VIEW main."{name}" AS SELECT * FROM "{home}"."{name}"')
        except duckdb.Error as error:  # a file may have vanished since it was checked
            said = store.scrubbed(duckdb.Error(without_parameters(error)))
            raise ArchiveError(
                f"the table's two sides cannot be read together: {said}",
                where="query",
                state_left="nothing was touched",
                next_step="`migration-assets archive QUARTER --reread` says which file it is; bring it back",
            ) from None
        # Without this, DuckDB would look up an unknown table name among this program's Python variables.
        duck.execute("SET python_enable_replacements = false; SET lock_configuration = true")
        yield Engine(duck, schema, table)


_TRIES = 5
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Asked:
    """An answer, the number of hot and cold weeks that were asked, and the seconds that it took."""

    answer: Answer
    hot_weeks: int
    cold_weeks: int
    seconds: float


@dataclass(frozen=True)
class Exported:
    """One file with a query's whole result."""

    path: Path
    rows: int
    bytes: int
    seconds: float


def ask(migration: Migration, statement: str, *, limit: int | None = None, explain: bool = False) -> Asked:
    """Answer one SELECT over all rows of the table, wherever they are.

    The table is addressed by its own name. Besides its columns it has `fiscal_quarter` and `fiscal_week`.

    Args:
        migration: The migration whose table is asked.
        statement: One SELECT in DuckDB's SQL.
        limit: Most rows in the answer.
        explain: Run the statement, but answer with its plan and what was read where.

    Raises:
        ArchiveError: An archive that is needed is not the one that the ledger knows, or the statement is wrong.
        MigrationError: Weeks kept moving between the base and the archive while the question was answered.
    """
    started = time.monotonic()
    answer, places = _steady(
        migration, lambda engine: engine.explain(statement) if explain else engine.answer(statement, limit)
    )
    return Asked(answer, *_counted(places), time.monotonic() - started)


def export(migration: Migration, statement: str, target: Path) -> Exported:
    """Write the whole answer to a Parquet or CSV file, by the target's ending; an older file is replaced at the end.

    Raises:
        ArchiveError: As `ask`, or the file cannot be written.
    """
    started = time.monotonic()
    # A random name: in a shared folder, a predictable one could be a link that another user put there.
    aside = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        rows, _ = _steady(migration, lambda engine: engine.export(statement, aside, like=target))
        size = aside.stat().st_size
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    return Exported(target, rows, size, time.monotonic() - started)


def refresh_catalogue(migration: Migration) -> Path:
    """Rewrite `archive.duckdb`, which has views over all archived weeks for anybody with DuckDB and the files.

    Only manifests that are not in the local cache are fetched: one for each week that is archived.

    Raises:
        ArchiveError: An archive is not the one that the ledger knows.
    """
    store = archive_store(migration)
    path = migration.settings.var / "archive.duckdb"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of two runs that archive at once, the one that writes last has read last.
    with FileLock(path.with_suffix(".lock")), _base(migration) as base:
        columns = _columns(base, migration)
        archives = read_archives(base, migration.spec.relation)
        shelf = ManifestShelf(migration.settings.var / "archive-manifests")
        manifests = [_shelved(store, archive, shelf) for archive in archives]
        shelf.keep_only([archive.manifest_sha256 for archive in archives])
        write_catalogue(path, {migration.spec.table.name: cold_relation(store, manifests, columns)}, store)
    return path


def _shelved(store: ArchiveStore, archive: ArchiveRecord, shelf: ManifestShelf) -> Manifest:
    require_here(store, archive)
    manifest = shelf.get(archive.manifest_sha256)
    if manifest is None:
        manifest = trusted(store, archive)
        shelf.put(manifest)
    return manifest


def _steady(migration: Migration, ask_it: Callable[[Engine], _Result]) -> tuple[_Result, Sequence[WeekPlace]]:
    """Ask again until no week moved meanwhile; otherwise its rows could be counted twice or not at all."""
    for _ in range(_TRIES):
        with engine_of(migration) as (engine, before):
            result = ask_it(engine)
        with _base(migration) as base:
            if week_places(base, migration.spec) == before:
                return result, before
    raise MigrationError(
        f"weeks moved between the base and the archive during each of {_TRIES} attempts",
        where=migration.spec.relation,
        state_left="nothing was changed",
        next_step="ask again when no retirement or restore runs",
    )


@contextmanager
def engine_of(migration: Migration) -> Generator[tuple[Engine, list[WeekPlace]]]:
    """Open the session that answers questions; yields it and the place of each week's rows."""
    store, spec = archive_store(migration), migration.spec
    with _base(migration) as base:
        columns = _columns(base, migration)
        view = ensure_hot_view(base, spec, columns)
        places = week_places(base, spec)
        cold = {place.week for place in places if place.is_cold}
        archives = [archive for archive in read_archives(base, spec.relation) if archive.week in cold]
    manifests, broken = _readable(store, archives, {place.week: place for place in places})
    weaker = migration.settings.query_url
    url = migration.databases.base_url if weaker is None else weaker.get_secret_value()
    parts = {name: str(value) for name, value in conninfo_to_dict(url).items() if value}
    hot = HotSide(
        connection={name: value for name, value in parts.items() if name != "password"},
        password=parts.get("password"),
        schema=view.schema,
        view=view.name,
        control_column=spec.control_column,
        weeks=[
            (place.week.quarter.key, place.week.name, place.lower_bound, place.upper_bound)
            for place in places
            if place.attached
        ],
        options=canonical_options(),
    )
    memory = migration.settings.query_memory_mb
    with query_engine(
        store, spec.table.schema, spec.table.name, hot, manifests, columns, memory_mb=memory,
        broken=[broken_relation(one, columns, spec.control_column) for one in broken],
    ) as engine:  # fmt: skip
        yield engine, places


def _readable(
    store: ArchiveStore, archives: Sequence[ArchiveRecord], places: Mapping[FiscalWeek, WeekPlace]
) -> tuple[list[Manifest], list[BrokenWeek]]:
    """Split archives into manifests whose files can be read, and weeks with missing, cut or replaced files."""
    manifests: list[Manifest] = []
    broken: list[BrokenWeek] = []
    for archive in archives:
        week = archive.week
        try:
            manifest = trusted(store, archive)
            why = unreadable(store, manifest)
        except ArchiveError as error:
            manifest, why = None, error.what
        if manifest is not None and why is None:
            manifests.append(manifest)
        else:
            what = f"{week.key} is in its archive alone, which cannot be read: {why}. `migration-assets archive"
            what += f" {week.quarter.key} {week.name} --reread` says more; bring the files back from a copy of them."
            what += " Questions that need none of its rows are answered: exclude it by fiscal_quarter, fiscal_week or"
            what += " the control column"
            place = places[week]
            broken.append(BrokenWeek(week.quarter.key, week.name, place.lower_bound, place.upper_bound, what))
    return manifests, broken


@contextmanager
def _base(migration: Migration) -> Generator[Connected]:
    with migration.databases.session("base", "query", CopyLimits.of(migration.settings).timeouts()) as base:
        require_ledger(base)
        yield base


def _columns(base: Connected, migration: Migration) -> tuple[StoredColumn, ...]:
    description = require_table(base, migration.spec.table, "base")
    description.control_kind(migration.spec.control_column)  # raises unless the control column is there and fits
    return stored_columns(description)


def _counted(places: Sequence[WeekPlace]) -> tuple[int, int]:
    return sum(place.attached for place in places), sum(place.is_cold for place in places)
