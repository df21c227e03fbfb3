"""Finding an archived week: its manifest, and its files as something that DuckDB can select from."""

import hashlib
from collections.abc import Iterable

from migration_assets.archive.layout import MANIFEST, slice_folder
from migration_assets.archive.manifest import Manifest
from migration_assets.archive.quoting import literal
from migration_assets.archive.store_base import ArchiveStore
from migration_assets.domain.errors import ArchiveError
from migration_assets.domain.fiscal_periods import FiscalWeek


def read_manifest(store: ArchiveStore, relation: str, week: FiscalWeek) -> tuple[Manifest, str]:
    """The manifest of a week's archive, and the SHA-256 of its bytes, to be compared with what the ledger knows.

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
            next_step=f"somebody moved files: bring those of {relation} {week} back, or archive the week again",
        )
    return manifest, hashlib.sha256(data).hexdigest()


def slice_relation(store: ArchiveStore, manifest: Manifest, *, folder: str | None = None) -> str:
    """`read_parquet([…])` over the manifest's files, whatever else lies there, with exactly the stored columns.

    Args:
        store: Where the files are; the connection is to be one of its own.
        manifest: With its files.
        folder: Where they lie now, when not in the week's folder.
    """
    home = slice_folder(manifest.relation, manifest.week) if folder is None else folder
    return parquet_relation(store, (f"{home}/{file.name}" for file in manifest.files))


def parquet_relation(store: ArchiveStore, paths: Iterable[str]) -> str:
    """Of one file or several of the same schema; the folders' names add no columns."""
    names = ", ".join(literal(store.duckdb_path(path)) for path in paths)
    return f"read_parquet([{names}], hive_partitioning = false)"
