"""Writes the archive of a week to staging, verifies it there, moves it into place and publishes its manifest last.

Whenever this is killed, either the previous manifest is in place with all its files, or the new one with all of its
own. What a dead attempt left in staging or in the week's folder is removed by the next attempt.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

import pyarrow as pa

from migration_assets.archive.manifest import (
    MANIFEST,
    ArchivedFile,
    Manifest,
    is_part,
    part_name,
    slice_folder,
    staging_folder,
    staging_of_week,
)
from migration_assets.archive.ownership import ArchiveWriter, ForeignArchiveError, require_own
from migration_assets.archive.parts import Progress, WriteLimits, parquet_schema, write_parts
from migration_assets.archive.store_base import ArchiveStore
from migration_assets.archive.verification import read_manifest, verify_archive
from migration_assets.domain.errors import ArchiveError, ConnectionLostError

__all__ = ["Progress", "WriteLimits", "read_manifest", "write_slice"]

_AS_BEFORE = "the previous archive, if any, is unchanged; nothing of the new one is left"


def write_slice(
    store: ArchiveStore,
    manifest: Manifest,
    batches: Iterable[pa.RecordBatch],
    limits: WriteLimits,
    on_progress: Progress | None = None,
    *,
    writer: ArchiveWriter,
) -> Manifest:
    """Replace the week's archive with these rows, once they are verified.

    The caller holds the slice's lock: two writers at once would remove each other's staging.

    Args:
        store: Where the archive is written.
        manifest: Describes the rows, from the snapshot that they are read in; without files, with a new generation.
        batches: The rows, in the order of the control column and the key, in `parquet_schema(manifest.columns)`.
        limits: Limits for the sizes of files and row groups.
        on_progress: Called after every row group with the rows and the bytes written so far.
        writer: The ledger on whose behalf it is written; the manifest names it.

    Returns:
        The manifest with its files, which is in force now.

    Raises:
        ForeignArchiveError: What lies there belongs to another ledger; nothing of it was changed.
        ArchiveError: No space, no permission, or rows that the manifest does not describe; its `state_left` says
            what is left, which is the previous archive unless the new one was already published.
        Exception: Whatever the source of the batches raises; the previous archive is unchanged.
    """
    home = slice_folder(manifest.relation, manifest.week)
    staging = staging_folder(manifest.relation, manifest.week, manifest.generation)
    _require_new(store, manifest, home, writer)
    moved: list[str] = []
    try:
        require_own(store, manifest.relation, manifest.week, writer)
        store.delete_folder(staging_of_week(manifest.relation, manifest.week))
        schema = parquet_schema(manifest.columns)
        files = write_parts(store, staging, manifest, batches, schema, limits, on_progress)
        _require_all(manifest, files)
        written = replace(manifest, files=files)
        verify_archive(store, written, folder=staging)
        # Checked again: while the rows were written, another base may have claimed the place.
        require_own(store, manifest.relation, manifest.week, writer)
        for file in files:
            moved.append(file.name)
            _move(store, file, staging, home)
        _commit(store, written, home)
    except ForeignArchiveError:
        with suppress(ArchiveError):
            store.delete_folder(staging)  # this attempt's alone: everything else may belong to the other ledger
        raise
    except BaseException as error:
        left = _undo(store, manifest, home, moved)
        if isinstance(error, ArchiveError):
            # The kind is kept, so that a lost connection is still retried.
            kind = ConnectionLostError if isinstance(error, ConnectionLostError) else ArchiveError
            raise kind(
                error.what, where=error.where or f"{manifest.week}", state_left=left,
                next_step=error.next_step or "archive the week again",
            ) from error  # fmt: skip
        raise
    _clear(store, written, home)
    return written


def _require_new(store: ArchiveStore, manifest: Manifest, home: str, writer: ArchiveWriter) -> None:
    if manifest.files:
        raise ValueError("a manifest with files cannot be written again")
    if manifest.ledger != str(writer.identity):
        raise ValueError("a manifest names the ledger that writes it")
    first = part_name(manifest.generation, 0)
    if first in store.list(home):
        raise ArchiveError(
            f"there are files of generation {manifest.generation} already",
            where=store.url_of(home),
            state_left="nothing was touched",
            next_step="archive the week again: every attempt has a generation of its own",
        )


def _require_all(manifest: Manifest, files: Sequence[ArchivedFile]) -> None:
    rows = sum(file.rows for file in files)
    if rows != manifest.rows:
        raise ArchiveError(f"{rows:,} rows were read; the fingerprint of the same snapshot has {manifest.rows:,}")


def _move(store: ArchiveStore, file: ArchivedFile, staging: str, home: str) -> None:
    path = f"{home}/{file.name}"
    store.move(f"{staging}/{file.name}", path)
    if store.size(path) != file.bytes:
        raise ArchiveError(f"{file.name} did not arrive whole", where=store.url_of(home))


def _commit(store: ArchiveStore, written: Manifest, home: str) -> None:
    try:
        store.publish(f"{home}/{MANIFEST}", written.to_bytes())
    except ArchiveError:
        # The request may have succeeded although no answer came back: what is in place now decides.
        if not _is_in_force(store, written):
            raise


def _is_in_force(store: ArchiveStore, manifest: Manifest) -> bool:
    """Return whether the manifest in place is the one of this generation."""
    home = slice_folder(manifest.relation, manifest.week)
    if not store.exists(f"{home}/{MANIFEST}"):
        return False
    found, _ = read_manifest(store, manifest.relation, manifest.week)
    return found.generation == manifest.generation


def _undo(store: ArchiveStore, manifest: Manifest, home: str, moved: Iterable[str]) -> str:
    """Remove what this attempt wrote and return what is left. Never hides the error that led here."""
    try:
        if _is_in_force(store, manifest):
            return "the new archive is in place and proven; the ledger does not know it yet"
        for name in moved:
            store.delete(f"{home}/{name}")
        store.delete_folder(staging_of_week(manifest.relation, manifest.week))
    except ArchiveError:
        with suppress(ArchiveError):
            store.delete_folder(staging_of_week(manifest.relation, manifest.week))
        return (
            "the previous archive, if any, is unchanged; files of the new one are left, the next attempt removes them"
        )
    return _AS_BEFORE


def _clear(store: ArchiveStore, written: Manifest, home: str) -> None:
    """Remove older generations and what dead attempts left; files with other names are kept."""
    try:
        kept = {file.name for file in written.files}
        for name in _parts(store, home):
            if name not in kept:
                store.delete(f"{home}/{name}")
        store.delete_folder(staging_of_week(written.relation, written.week))
    except ArchiveError as error:
        raise ArchiveError(
            f"the files of the previous archive cannot be removed: {error.what}",
            where=error.where,
            state_left="the new archive is in place and proven, beside files of an older one",
            next_step="let this program delete there, then archive the week again",
        ) from error


def _parts(store: ArchiveStore, home: str) -> list[str]:
    return [name for name in store.list(home) if is_part(name)]
