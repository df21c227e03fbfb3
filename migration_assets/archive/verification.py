"""Checks that an archive is, byte for byte and row for row, what its manifest and the ledger say.

Nothing is believed: every file is hashed again, its metadata is compared, and its rows are read by DuckDB, which did
not write them. What is wrong is named with its file. An archived week is found here as well: its manifest, and its
files as something that DuckDB can select from.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import duckdb
import pyarrow as pa
from pyarrow import parquet

from migration_assets.archive.columns import Storage
from migration_assets.archive.manifest import (
    HEAD_KEY,
    MANIFEST,
    PART_SUFFIX,
    ArchivedFile,
    Manifest,
    differences,
    slice_folder,
)
from migration_assets.archive.parts import control_text, footer_sha256, parquet_schema
from migration_assets.archive.sql_values import literal, numbered, portable_fingerprint
from migration_assets.archive.store_base import ArchiveStore
from migration_assets.domain.errors import ArchiveError
from migration_assets.domain.fingerprint import PORTABLE_METHOD, Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalWeek


def read_manifest(store: ArchiveStore, relation: str, week: FiscalWeek) -> tuple[Manifest, str]:
    """Return the manifest of a week's archive and the SHA-256 of its bytes, to be compared with the ledger's.

    Raises:
        ArchiveError: There is none, it cannot be read, or it is another week's.
    """
    path = f"{slice_folder(relation, week)}/{MANIFEST}"
    if not store.exists(path):
        raise ArchiveError(
            "there is no manifest",
            where=store.url_of(path),
            state_left="nothing was touched",
            next_step=f"archive {week} again while it is in the base; else bring the file back from a backup",
        )
    data = store.read(path)
    manifest = Manifest.from_bytes(data, where=store.url_of(path))
    if (manifest.relation, manifest.week) != (relation, week):
        raise ArchiveError(
            f"the manifest is that of {manifest.relation} {manifest.week}",
            where=store.url_of(path),
            state_left="nothing was touched",
            next_step=f"files were moved: bring those of {relation} {week} back, or archive the week again",
        )
    return manifest, hashlib.sha256(data).hexdigest()


def slice_relation(store: ArchiveStore, manifest: Manifest, *, folder: str | None = None) -> str:
    """Return `read_parquet([…])` over the manifest's files alone, with exactly the stored columns.

    Args:
        store: Where the files are; the DuckDB connection must be one of this store's.
        manifest: With its files.
        folder: Where the files lie now, when not in the week's folder.
    """
    home = slice_folder(manifest.relation, manifest.week) if folder is None else folder
    return parquet_relation(store, (f"{home}/{file.name}" for file in manifest.files))


def parquet_relation(store: ArchiveStore, paths: Iterable[str]) -> str:
    """Return `read_parquet([…])` over files of the same schema; the folders' names add no columns."""
    names = ", ".join(literal(store.duckdb_path(path)) for path in paths)
    return f"read_parquet([{names}], hive_partitioning = false)"


_SQL_TYPES = {Storage.DATE: "DATE", Storage.TIMESTAMP: "TIMESTAMP", Storage.TIMESTAMPTZ: "TIMESTAMPTZ"}


class DamagedArchiveError(ArchiveError):
    """An archive is not what was proven. Any other ArchiveError means that this could not be determined."""


def verify_archive(store: ArchiveStore, manifest: Manifest, *, folder: str | None = None) -> Fingerprint:
    """Read everything again and compare; memory use stays flat, every byte is read twice.

    Args:
        store: Where the files are.
        manifest: What the files must be; see `trusted_manifest`.
        folder: Where the files lie, when not in the week's folder.

    Returns:
        The portable fingerprint that DuckDB computed from the files.

    Raises:
        DamagedArchiveError: Something is not as the manifest says.
        ArchiveError: The files cannot be read, or this program does not know the fingerprint's method.
    """
    home = slice_folder(manifest.relation, manifest.week) if folder is None else folder
    if manifest.portable_method != PORTABLE_METHOD:
        raise ArchiveError(
            f"its fingerprint was taken by {manifest.portable_method}, this program knows {PORTABLE_METHOD}",
            where=store.url_of(home),
            state_left="nothing was touched",
            next_step="verify it with the version of this program that wrote it, or archive the week again",
        )
    _require_listing(store, manifest, home)
    nulls: Counter[str] = Counter()
    for file in manifest.files:
        _require_bytes(store, home, file)
        nulls.update(_require_metadata(store, manifest, home, file))
    _require_nulls(store, manifest, home, nulls)
    return _require_rows(store, manifest, home)


def trusted_manifest(
    store: ArchiveStore, relation: str, week: FiscalWeek, sha256: str, portable: Fingerprint, native: Fingerprint
) -> Manifest:
    """Return the week's manifest, if it is the one that the ledger knows.

    Raises:
        DamagedArchiveError: It is another one; says how it differs from its own files and from the ledger.
        ArchiveError: There is none, or it cannot be read.
    """
    manifest, found = read_manifest(store, relation, week)
    wrong: list[str] = []
    if found != sha256:
        wrong.append("it is not the manifest that the ledger knows (another SHA-256)")
        wrong.extend(_contradictions(store, manifest))
    if manifest.portable != portable:
        wrong.append(f"its portable fingerprint is {manifest.portable}; the ledger's is {portable}")
    if manifest.native != native:
        wrong.append(f"its native fingerprint is {manifest.native}; the ledger's is {native}")
    if wrong:
        raise _damaged(store, slice_folder(relation, week), "manifest.json: " + "; ".join(wrong))
    return manifest


def _contradictions(store: ArchiveStore, manifest: Manifest) -> list[str]:
    """Return how an untrusted manifest contradicts its files; nothing where the files cannot be read."""
    home = slice_folder(manifest.relation, manifest.week)
    for file in manifest.files:
        try:
            with store.open_input(f"{home}/{file.name}") as source:
                differing = differences(
                    manifest, Manifest.from_head(_head(parquet.ParquetFile(source).metadata) or b"")
                )
        except (ArchiveError, pa.ArrowException, OSError):
            continue
        return [f"it contradicts {file.name} in: {', '.join(differing)}"] if differing else []
    return []


def _require_listing(store: ArchiveStore, manifest: Manifest, home: str) -> None:
    listed = {file.name for file in manifest.files}
    found = {name for name in store.list(home) if name.endswith(PART_SUFFIX)}
    if not listed:
        raise _damaged(store, home, "the manifest lists no file")
    if listed - found:
        raise _damaged(store, home, f"missing: {', '.join(sorted(listed - found))}")
    if found - listed:
        # A reader of the folder without the manifest would count those rows, too.
        raise _damaged(
            store, home, f"files that the manifest does not know: {', '.join(sorted(found - listed))}", surplus=True
        )


def _require_bytes(store: ArchiveStore, home: str, file: ArchivedFile) -> None:
    path = f"{home}/{file.name}"
    size = store.size(path)
    if size != file.bytes:
        kind = "cut short" if size < file.bytes else "too long"
        raise _damaged(store, home, f"{file.name} is {kind}: {size:,} bytes, not {file.bytes:,}")
    if store.sha256(path) != file.sha256:
        raise _damaged(store, home, f"{file.name} has changed: its SHA-256 is not the one in the manifest")


def _require_metadata(store: ArchiveStore, manifest: Manifest, home: str, file: ArchivedFile) -> dict[str, int]:
    """Compare the file's own metadata with the manifest; return the NULLs of each column that is not a list."""
    try:
        with store.open_input(f"{home}/{file.name}") as source:
            reader = parquet.ParquetFile(source)
            schema, metadata = reader.schema_arrow, reader.metadata
    except (pa.ArrowException, OSError) as error:
        raise _damaged(store, home, f"{file.name} is not a readable Parquet file: {store.scrubbed(error)}") from None
    stored = _head(metadata)
    if stored is None:
        raise _damaged(store, home, f"{file.name} does not say what archive it belongs to")
    head = Manifest.from_head(stored, where=store.url_of(f"{home}/{file.name}"))
    differing = differences(head, manifest)
    if differing:
        raise _damaged(
            store, home, f"{file.name} belongs to {head.relation} {head.week}, generation {head.generation},"
            f" and contradicts the manifest in: {', '.join(differing)}",
        )  # fmt: skip
    if not schema.equals(parquet_schema(manifest.columns), check_metadata=False):
        raise _damaged(store, home, f"{file.name} has other columns or types than the manifest says")
    if metadata.num_rows != file.rows:
        raise _damaged(store, home, f"{file.name} has {metadata.num_rows:,} rows, not {file.rows:,}")
    _require_range(store, manifest, home, file, metadata)
    return _nulls(manifest, metadata)


def _require_range(
    store: ArchiveStore, manifest: Manifest, home: str, file: ArchivedFile, metadata: parquet.FileMetaData
) -> None:
    statistics = [s for name, s in _chunk_statistics(metadata) if name == manifest.control_column]
    found = (
        (control_text(min(s.min for s in statistics)), control_text(max(s.max for s in statistics)))
        if statistics
        else (None, None)
    )
    if found != (file.lower, file.upper):
        raise _damaged(
            store, home, f"{file.name} has rows from {found[0]} to {found[1]}, not {file.lower} to {file.upper}"
        )


def _nulls(manifest: Manifest, metadata: parquet.FileMetaData) -> dict[str, int]:
    """Count NULLs by column. Lists are left out: for them Parquet counts the elements."""
    flat = {column.name for column in manifest.columns if column.storage is not Storage.LIST}
    nulls = dict.fromkeys(flat, 0)
    for name, statistics in _chunk_statistics(metadata):
        if name in flat:
            nulls[name] += statistics.null_count
    return nulls


def _chunk_statistics(metadata: parquet.FileMetaData) -> Iterator[tuple[str, Any]]:
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for place in range(group.num_columns):
            chunk = group.column(place)
            yield chunk.path_in_schema, chunk.statistics


def _head(metadata: parquet.FileMetaData) -> bytes | None:
    values: Mapping[bytes, bytes] | None = metadata.metadata
    return (values or {}).get(HEAD_KEY)


def _require_nulls(store: ArchiveStore, manifest: Manifest, home: str, nulls: Mapping[str, int]) -> None:
    for name, statistics in manifest.statistics.items():
        if name in nulls and statistics.nulls != nulls[name]:
            raise _damaged(store, home, f"column {name} has {nulls[name]:,} NULLs, not {statistics.nulls:,}")


def _require_rows(store: ArchiveStore, manifest: Manifest, home: str) -> Fingerprint:
    relation = slice_relation(store, manifest, folder=home)
    numbered_relation, names = numbered(relation, manifest.columns)
    control, kind = names[manifest.columns.index(manifest.control)], _SQL_TYPES[manifest.control.storage]
    connection = store.connect_duckdb()
    try:
        outside = connection.execute(
            f"SELECT count(*) FROM {numbered_relation}"
            f" WHERE ({control} >= CAST(? AS {kind}) AND {control} < CAST(? AS {kind})) IS NOT TRUE",
            [manifest.lower_bound, manifest.upper_bound],
        ).fetchone()
        found = portable_fingerprint(connection, relation, manifest.columns)
    except duckdb.Error as error:
        raise ArchiveError(
            f"DuckDB cannot read the files: {store.scrubbed(error)}",
            where=store.url_of(home),
            state_left="nothing was touched",
            next_step="see the message; the files' bytes are as they were written",
        ) from None
    finally:
        connection.close()
    if outside is None or outside[0]:
        raise _damaged(store, home, f"{outside and outside[0]:,} rows lie outside of the week's bounds")
    if found != manifest.portable:
        raise _damaged(store, home, f"DuckDB reads {found}; PostgreSQL had {manifest.portable}")
    return found


def unreadable(store: ArchiveStore, manifest: Manifest) -> str | None:
    """Return why the files cannot be the manifest's, judging by sizes and footers; None where they may be.

    For questions, which cannot read every byte first. It finds a file that is missing, cut short, replaced or
    rewritten. Bytes that changed inside a file are found by `verify_archive`.
    """
    folder = slice_folder(manifest.relation, manifest.week)
    for file in manifest.files:
        try:
            if not store.exists(f"{folder}/{file.name}"):
                return f"file {file.name} is missing"
            size = store.size(f"{folder}/{file.name}")
            if size != file.bytes:
                return f"file {file.name} has {size:,} bytes, not {file.bytes:,}"
            if file.footer_sha256 is None:
                _require_metadata(store, manifest, folder, file)
            elif _footer(store, f"{folder}/{file.name}", size) != file.footer_sha256:
                return f"file {file.name} is another one: its footer is not the manifest's"
        except DamagedArchiveError as error:
            return f"file {error.what}"
        except (pa.ArrowException, OSError, ValueError, ArchiveError) as error:
            return f"file {file.name} cannot be read: {store.scrubbed(error)}"
    return None


def _footer(store: ArchiveStore, path: str, size: int) -> str:
    with store.open_input(path) as opened, store.failures(path, "read"):
        return footer_sha256(opened, size)


def _damaged(store: ArchiveStore, home: str, what: str, *, surplus: bool = False) -> DamagedArchiveError:
    repair = "archive the week again" + (", which clears parts of its own away; move others away" if surplus else "")
    return DamagedArchiveError(
        what,
        where=store.url_of(home),
        state_left="nothing was touched; the week must not leave the base",
        next_step=f"while the week is in the base, {repair}; else bring the files back from a backup",
    )
