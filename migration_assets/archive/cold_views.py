"""Makes archived weeks one relation with the table's own columns, and writes `archive.duckdb`, a file of such views.

The relation has one branch a quarter that contains the quarter's bounds, and the weeks' folders as columns. A condition
on the control column prunes whole quarters before a file is opened, one on fiscal_quarter or fiscal_week prunes files
by their names, and the row groups' statistics do the rest. Only files that manifests list are read.
"""

import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb

from migration_assets.archive.columns import StoredColumn, numbered_name
from migration_assets.archive.manifest import Manifest, slice_folder
from migration_assets.archive.shown_values import as_shown, shown_type
from migration_assets.archive.sql_values import identifier, literal
from migration_assets.archive.store_base import ArchiveStore
from migration_assets.domain.errors import ArchiveError

QUARTER, WEEK = "fiscal_quarter", "fiscal_week"


def cold_relation(store: ArchiveStore, manifests: Sequence[Manifest], columns: Sequence[StoredColumn]) -> str:
    """Return a SELECT over the archived weeks' rows: the columns, then fiscal_quarter and fiscal_week as texts.

    Its types are those of `shown_type`, whatever a week has stored. A value that cannot be shown in its column's type,
    such as NaN in a numeric(10,2), is NULL, and so is every value of a column that a week did not have yet. Without
    manifests there are no rows, but the same types. A table that has a column of either name keeps its own.

    Args:
        store: Where the archives are; the DuckDB connection must be one of this store's.
        manifests: Of one table; trusted ones, see `verification.trusted_manifest`.
        columns: The table's columns as they are now.
    """
    names = _distinct([column.name for column in columns])
    extra = folder_columns(columns)
    if not manifests:
        kinds = [*(shown_type(column) for column in columns), *("VARCHAR" for _ in extra)]
        nothing = ", ".join(
            f"CAST(NULL AS {kind}) AS {identifier(name)}" for name, kind in zip([*names, *extra], kinds, strict=True)
        )
        return f"SELECT {nothing} WHERE false"
    # DuckDB prefers the folder's value to a column of the same name in the file, so folders are only read as columns
    # where the table has neither name.
    by_folder = len(extra) == len((QUARTER, WEEK))
    groups = (
        _alike(manifests) if by_folder else [[manifest] for manifest in sorted(manifests, key=lambda one: one.week)]
    )
    return " UNION ALL ".join(_branch(store, group, columns, names, extra, by_folder=by_folder) for group in groups)


@dataclass(frozen=True)
class BrokenWeek:
    """A week whose archived rows cannot be read: its key, its bounds as texts, and the reason."""

    quarter: str
    week: str
    lower_bound: str
    upper_bound: str
    why: str


def broken_relation(broken: BrokenWeek, columns: Sequence[StoredColumn], control_column: str) -> str:
    """Return a SELECT that stands for the week's rows and fails with `why` as soon as a question needs one of them.

    Conditions on the control column, fiscal_quarter and fiscal_week exclude it as they exclude a file. Conditions on
    other columns do not, because it is unknown what the rows hold there.
    """
    names = _distinct([column.name for column in columns])
    fails = f"error({literal(broken.why)})"
    values = [
        f"CAST({fails} AS {shown_type(column)}) AS {identifier(name)}"
        for column, name in zip(columns, names, strict=True)
    ]
    of_week = {QUARTER: broken.quarter, WEEK: broken.week}
    folders = [f"{literal(of_week[name])} AS {name}" for name in folder_columns(columns)]
    place = next(number for number, column in enumerate(columns) if column.name == control_column)
    control, kind = identifier(names[place]), shown_type(columns[place])
    return (
        f"SELECT * FROM (SELECT {', '.join([*values, *folders])} FROM range(1)) AS broken"
        f" WHERE {control} >= {kind} {literal(broken.lower_bound)} AND {control} < {kind} {literal(broken.upper_bound)}"
    )


def folder_columns(columns: Sequence[StoredColumn]) -> list[str]:
    """Return which of fiscal_quarter and fiscal_week are added, because the table has no column of that name."""
    taken = {column.name.lower() for column in columns}
    return [name for name in (QUARTER, WEEK) if name not in taken]


def _alike(manifests: Iterable[Manifest]) -> list[list[Manifest]]:
    """Group weeks of one quarter whose files have the same columns, oldest first."""
    groups: dict[tuple[object, ...], list[Manifest]] = {}
    for manifest in sorted(manifests, key=lambda one: one.week):
        groups.setdefault((manifest.week.quarter, manifest.columns, manifest.control_column), []).append(manifest)
    return list(groups.values())


def _branch(
    store: ArchiveStore,
    group: Sequence[Manifest],
    columns: Sequence[StoredColumn],
    names: Sequence[str],
    extra: Sequence[str],
    *,
    by_folder: bool,
) -> str:
    stored = {column.name: (numbered_name(place), column) for place, column in enumerate(group[0].columns)}
    shown = [
        f"{as_shown(column, *stored[column.name], of=group[0].week.key)} AS {identifier(name)}"
        if column.name in stored
        else f"CAST(NULL AS {shown_type(column)}) AS {identifier(name)}"
        for column, name in zip(columns, names, strict=True)
    ]
    aliases = [alias for alias, _ in stored.values()]
    if by_folder:
        folders, reading = [QUARTER, WEEK], f"true, hive_types = {{'{QUARTER}': VARCHAR, '{WEEK}': VARCHAR}}"
        aliases += folders
    else:
        of_group = {QUARTER: group[0].week.quarter.key, WEEK: group[0].week.name}
        folders, reading = [f"{literal(of_group[name])} AS {name}" for name in extra], "false"
    files = ", ".join(
        literal(store.duckdb_path(f"{slice_folder(manifest.relation, manifest.week)}/{file.name}"))
        for manifest in group
        for file in manifest.files
    )
    control, control_column = stored[group[0].control_column]
    kind = shown_type(control_column)
    lower, upper = literal(group[0].lower_bound), literal(group[-1].upper_bound)
    return (
        f"SELECT {', '.join([*shown, *folders])} FROM read_parquet([{files}], hive_partitioning = {reading})"
        f" AS stored({', '.join(aliases)})"
        f" WHERE {control} >= {kind} {lower} AND {control} < {kind} {upper}"
    )


def _distinct(names: Sequence[str]) -> list[str]:
    """Make names distinct for DuckDB, which ignores case: `"A"` after `"a"` becomes `A_1`, as DuckDB itself does."""
    taken = {name.lower() for name in names}
    seen: set[str] = set()
    distinct: list[str] = []
    for name in names:
        chosen, number = name, 0
        while chosen.lower() in seen or (number and chosen.lower() in taken):
            number += 1
            chosen = f"{name}_{number}"
        seen.add(chosen.lower())
        distinct.append(chosen)
    return distinct


def write_catalogue(path: Path, views: Mapping[str, str], store: ArchiveStore) -> None:
    """Replace `archive.duckdb` with a file that has these views; a reader that has the old file open keeps it.

    Args:
        path: The catalogue file; its folder is made.
        views: SELECTs from `cold_relation`, by the views' names. DuckDB opens the files when it creates a view.
        store: Where the archives are.

    Raises:
        ArchiveError: It cannot be written, or a file of an archive cannot be read; the old catalogue is unchanged.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with store.connect_duckdb(str(aside)) as connection:
            for name, select in views.items():
                connection.execute(f"CREATE VIEW {identifier(name)} AS {select}")
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    except (duckdb.Error, OSError) as error:
        raise ArchiveError(
            f"the catalogue cannot be written: {store.scrubbed(error)}",
            where=str(path),
            state_left="the previous catalogue, if any, is unchanged; no archive was touched",
            next_step="see the message; the catalogue can be written again at any time",
        ) from None
    finally:
        for left in (aside, aside.with_name(f"{aside.name}.wal")):
            with suppress(OSError):
                left.unlink(missing_ok=True)
