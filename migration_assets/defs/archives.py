"""Archives, retirements and restores as Dagster shows them."""

import dagster as dg

from migration_assets.archive.archiving import Archived
from migration_assets.defs.metadata import Metadata
from migration_assets.domain.errors import ArchiveError
from migration_assets.domain.stored_columns import Storage

_CHECK = "archive_matches"
_MB = 1e6


def archive_metadata(done: Archived) -> Metadata:
    """Rows, sizes (10^6 bytes), rates, where it lies, its files and how each column is kept."""
    archive, manifest = done.record, done.manifest
    rows = manifest.rows
    return {
        "result": dg.MetadataValue.text(
            f"{rows:,} rows in {archive.bytes / _MB:,.2f} MB of Parquet, {done.seconds:,.1f} s, read back equal"
        ),
        "dagster/row_count": dg.MetadataValue.int(rows),
        "archive_bytes": dg.MetadataValue.int(archive.bytes),
        "bytes_per_row": dg.MetadataValue.float(round(archive.bytes / rows, 2) if rows else 0.0),
        "seconds": dg.MetadataValue.float(round(done.seconds, 3)),
        "location": dg.MetadataValue.text(archive.location),
        "manifest_sha256": dg.MetadataValue.text(archive.manifest_sha256),
        "native_checksum": dg.MetadataValue.text(archive.native.checksum),
        "portable_checksum": dg.MetadataValue.text(archive.portable.checksum),
        "lsn": dg.MetadataValue.text(archive.lsn),
        "snapshot_at": dg.MetadataValue.timestamp(archive.snapshot_at),
        "files": dg.MetadataValue.table(
            [
                dg.TableRecord({"file": file.name, "rows": file.rows, "bytes": file.bytes, "sha256": file.sha256})
                for file in manifest.files
            ]
        ),
        "columns": dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {
                        "column": column.name,
                        "PostgreSQL": column.type_name,
                        "Parquet": column.storage.value,
                        "as text, since a value fits no exact type": column.name in _ways_out(done),
                    }
                )
                for column in manifest.columns
            ]
        ),
    }


def archive_result(asset: str, done: Archived) -> dg.AssetCheckResult:
    """Both engines' figure; it is one."""
    portable = done.record.portable
    return dg.AssetCheckResult(
        passed=True,
        asset_key=asset,
        check_name=_CHECK,
        description=f"PostgreSQL and DuckDB agree: {portable}",
        metadata={
            "rows": dg.MetadataValue.int(portable.rows),
            "checksum": dg.MetadataValue.text(portable.checksum),
            "method": dg.MetadataValue.text(done.record.portable_method),
        },
    )


def failed_archive_result(asset: str, error: ArchiveError) -> dg.AssetCheckResult:
    """What is wrong with the archive."""
    return dg.AssetCheckResult(passed=False, asset_key=asset, check_name=_CHECK, description=str(error))


def _ways_out(done: Archived) -> set[str]:
    return {
        column.name
        for column in done.manifest.columns
        if column.storage is Storage.TEXT and not column.is_text_type and not column.labels
    }
