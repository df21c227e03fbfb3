"""Questions over hot and cold rows as one table: the base's own, and those that only the archive still has."""

import secrets
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock
from psycopg.conninfo import conninfo_to_dict

from migration_assets.archive.archiving import archive_store, require_here, trusted
from migration_assets.archive.cold_views import BrokenWeek, broken_relation, cold_relation, write_catalogue
from migration_assets.archive.hot_side import HotSide
from migration_assets.archive.hot_view import WeekPlace, ensure_hot_view, week_places
from migration_assets.archive.manifest import Manifest
from migration_assets.archive.manifest_shelf import ManifestShelf
from migration_assets.archive.query_engine import Answer, Engine, query_engine
from migration_assets.archive.store_base import ArchiveStore
from migration_assets.archive.verification import unreadable
from migration_assets.copying.copy_plan import CopyLimits
from migration_assets.domain.errors import ArchiveError, MigrationError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.stored_columns import StoredColumn, stored_columns
from migration_assets.ledger.archives import ArchiveRecord, read_archives
from migration_assets.ledger.schema import require_ledger
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import Connected, canonical_options
from migration_assets.runtime import Migration

_TRIES = 5
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Asked:
    """An answer, and where its rows could come from."""

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
    """Answer one SELECT over all rows of the table, wherever they are; the table has its own name.

    Besides its columns it has `fiscal_quarter` and `fiscal_week`.

    Args:
        migration: Which migration.
        statement: DuckDB's SQL, one SELECT.
        limit: Rows of the answer, at most.
        explain: Run it, and answer with what was read where instead.

    Raises:
        ArchiveError: An archive that is needed is not the one that the ledger knows; or the statement is wrong.
        MigrationError: Weeks kept moving between the base and the archive while it was asked.
    """
    started = time.monotonic()
    answer, places = _steady(
        migration, lambda engine: engine.explain(statement) if explain else engine.answer(statement, limit)
    )
    return Asked(answer, *_counted(places), time.monotonic() - started)


def export(migration: Migration, statement: str, target: Path) -> Exported:
    """The whole answer as one Parquet or CSV file, by the target's ending; written aside and then moved into place.

    Raises:
        ArchiveError: As `ask`, or the file cannot be written.
    """
    started = time.monotonic()
    # A name that nobody knows before: in a folder of several people it would be a link to another file of ours.
    aside = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        rows, _ = _steady(migration, lambda engine: engine.export(statement, aside, like=target))
        size = aside.stat().st_size
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    return Exported(target, rows, size, time.monotonic() - started)


def refresh_catalogue(migration: Migration) -> Path:
    """Write `archive.duckdb` anew: views over all archived weeks, for anybody with DuckDB and the files.

    Only manifests that were not read before are fetched from the archive: with each week of many that is one.

    Raises:
        ArchiveError: An archive is not the one that the ledger knows.
    """
    store = archive_store(migration)
    path = migration.settings.var / "archive.duckdb"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two runs that archive at once: whoever writes last has read last.
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
    """Ask while no week moves: else its rows would be counted twice, or not at all."""
    for _ in range(_TRIES):
        with engine_of(migration) as (engine, before):
            result = ask_it(engine)
        with _base(migration) as base:
            if week_places(base, migration.spec) == before:
                return result, before
    raise MigrationError(
        f"weeks moved between the base and the archive during each of {_TRIES} tries",
        where=migration.spec.relation,
        state_left="nothing was changed",
        next_step="ask again when no retiring or restoring runs",
    )


@contextmanager
def engine_of(migration: Migration) -> Generator[tuple[Engine, list[WeekPlace]]]:
    """The session that answers questions, and where each week's rows are."""
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
    """Manifests whose files may be read, and the weeks of which something is missing, cut, or another one."""
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
            what = f"{week.key} is in its archive alone, and cannot be read: {why}. `migration-assets archive"
            what += f" {week.quarter.key} {week.name} --reread` says more; bring the files back from a copy of them."
            what += " Questions that need none of its rows are answered: say so by fiscal_quarter, fiscal_week or the"
            what += " control column"
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
    description.control_kind(migration.spec.control_column)  # it is there: the weeks' bounds are values of it
    return stored_columns(description)


def _counted(places: Sequence[WeekPlace]) -> tuple[int, int]:
    return sum(place.attached for place in places), sum(place.is_cold for place in places)
