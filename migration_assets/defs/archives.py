"""Assets of stage 5: a week archived as Parquet, retired from the base, and restored.

An archive is proven equal to the leaf by a second engine (DuckDB), and a restored week is proven equal to its archive.
"""

from collections.abc import Iterator
from enum import Enum
from functools import partial
from typing import Any

import dagster as dg
from pydantic import Field

from migration_assets.archive.archiving import Archived, archive_week, reread_archive
from migration_assets.archive.columns import Storage
from migration_assets.archive.querying import refresh_catalogue
from migration_assets.defs.failures import readable_failures
from migration_assets.defs.partitions import (
    ARCHIVE,
    ARCHIVE_POOL,
    KINDS,
    OWNERS,
    fiscal_weeks,
    partition_key,
    quarter_of_its_weeks,
    week_of,
)
from migration_assets.defs.proofs import sign_off, validated_slice
from migration_assets.defs.resources import CODES
from migration_assets.defs.shown import Metadata
from migration_assets.domain.errors import ArchiveError
from migration_assets.domain.plain_text import for_chat
from migration_assets.retirement.leaving import Retired
from migration_assets.retirement.restoring import drill_week
from migration_assets.retirement.retiring import Back, bring_back, retire_week, told
from migration_assets.runtime import Migration

_MB = 1e6
_CHECK = "archive_matches"
_PARQUET_ARCHIVE = "parquet_archive"

# What the three assets have in common.
_archive_asset = partial(dg.asset, group_name=ARCHIVE, owners=OWNERS, pool=ARCHIVE_POOL, partitions_def=fiscal_weeks)


class ArchiveAction(Enum):
    """What a materialization of parquet_archive does."""

    ARCHIVE = "archive"
    REREAD = "reread"


class ParquetArchiveConfig(dg.Config):
    """Whether to archive the week, or only to read its files again."""

    action: ArchiveAction = Field(
        default=ArchiveAction.ARCHIVE, description="ARCHIVE writes the files; REREAD only reads and compares them."
    )


@_archive_asset(
    name=_PARQUET_ARCHIVE,
    kinds={"parquet", "duckdb"},
    deps=[validated_slice, dg.AssetDep(sign_off, partition_mapping=quarter_of_its_weeks)],
    check_specs=[
        dg.AssetCheckSpec(
            _CHECK,
            asset=_PARQUET_ARCHIVE,
            partitions_def=fiscal_weeks,
            description=(
                "DuckDB read the files again, and its fingerprint over all columns equals PostgreSQL's over the leaf."
                " Every file has the SHA-256 that the manifest states, and the manifest is the one that the ledger"
                " recorded. Runs with every archive and with the job verify_archives, never alone."
            ),
        )
    ],
    description=(
        "The signed-off week was read in one snapshot of its leaf and written as Parquet with a manifest. The files"
        " were written aside, fsynced, read again by DuckDB and proven equal, and only then replaced an older archive."
        " A late booking makes the archive stale: materialize it again. While the base is in charge, a week that is"
        " over needs no sign-off. With action REREAD (job verify_archives) the files are only read again;"
        " a byte that changed fails the partition."
    ),
)
def parquet_archive(
    context: dg.AssetExecutionContext, config: ParquetArchiveConfig, migration: dg.ResourceParam[Migration]
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """Archive the week or read its files again; a difference fails the check and the partition."""
    with readable_failures():
        try:
            done = _archive(context, config, migration)
        except ArchiveError as error:
            # Before the Failure: a check that fails after a materialization would leave the partition green.
            yield failed_archive_result(_PARQUET_ARCHIVE, error)
            raise
    yield dg.MaterializeResult(metadata=archive_metadata(done), check_results=[archive_result(_PARQUET_ARCHIVE, done)])


def _archive(context: dg.AssetExecutionContext, config: ParquetArchiveConfig, migration: Migration) -> Archived:
    week, run_id = week_of(context), context.run.run_id
    if config.action is ArchiveAction.REREAD:
        return reread_archive(migration, week, run_id=run_id)
    done = archive_week(migration, week, run_id=run_id)
    refresh_catalogue(migration)
    return done


def archive_metadata(done: Archived) -> Metadata:
    """Rows, sizes, location and checksums of an archive, its files, and how each column is stored."""
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
                        "as text, since a value fits no exact type": column.name in _stored_as_text(done),
                    }
                )
                for column in manifest.columns
            ]
        ),
    }


def archive_result(asset: str, done: Archived) -> dg.AssetCheckResult:
    """The check passed: rows and checksum, which are the same for both engines."""
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
    """The check failed; the description says what is wrong with the archive."""
    return dg.AssetCheckResult(passed=False, asset_key=asset, check_name=_CHECK, description=str(error))


def _stored_as_text(done: Archived) -> set[str]:
    """Columns that are not text in PostgreSQL, but have a value that no exact Parquet type can hold."""
    return {
        column.name
        for column in done.manifest.columns
        if column.storage is Storage.TEXT and not column.is_text_type and not column.labels
    }


class RetiredSliceConfig(dg.Config):
    """Whether the week really leaves the base."""

    dry_run: bool = Field(default=True, description="Only show what would be done and what stands in the way.")
    confirm: str = Field(default="", description=CODES + " Not needed with MIGRATION_AUTO_RETIRE=true.")


@_archive_asset(
    kinds=KINDS,
    deps=[parquet_archive],
    output_required=False,
    description=(
        "The week's leaf has left the base. Before that the sign-off was valid, the archive was read again, and no"
        " change had arrived since it was written. The change stream was narrowed at a cut; while the base is in"
        " charge, the legacy was seen to hold the same rows of the week as the archive instead, for the sake of a"
        " rollback. The leaf was detached without blocking anybody and is kept in the quarantine schema for"
        " MIGRATION_QUARANTINE_DAYS; materialized again after that, it is dropped. A dry run is the default: it leaves"
        " an observation with everything that stands in the way, or with the code that the retirement, and later the"
        " drop, asks for (not with MIGRATION_AUTO_RETIRE=true). The asset restored_slice brings the week back."
    ),
)
def retired_slice(
    context: dg.AssetExecutionContext, config: RetiredSliceConfig, migration: dg.ResourceParam[Migration]
) -> Iterator[dg.MaterializeResult[Any]]:
    """Take the next step of the retirement that is due, or show what stands in the way."""
    week = week_of(context)
    with readable_failures():
        done = retire_week(migration, week, dry_run=config.dry_run, confirm=config.confirm, run_id=context.run.run_id)
    metadata = _retired_metadata(done)
    if config.dry_run:
        # No materialization: a week that is still there must not look as if it had left.
        _observe(context, context.asset_key, "; ".join(done.obstacles) or "nothing stands in the way", metadata)
        return
    refresh_catalogue(migration)
    yield dg.MaterializeResult(metadata=metadata)


def _retired_metadata(done: Retired) -> Metadata:
    metadata: Metadata = {
        "result": dg.MetadataValue.text(told(done)),
        "step": dg.MetadataValue.text(done.step.value if done.step else "in the root"),
        "leaf": dg.MetadataValue.text(str(done.leaf) if done.leaf else "dropped"),
        "bytes": dg.MetadataValue.int(done.bytes),
        "obstacles": dg.MetadataValue.md("\n".join(f"- {for_chat(one)}" for one in done.obstacles) or "none"),
    }
    if done.archive is not None:
        metadata["archive"] = dg.MetadataValue.text(done.archive.location)
        metadata["dagster/row_count"] = dg.MetadataValue.int(done.archive.native.rows)
    if done.confirmation is not None:
        metadata["confirm"] = dg.MetadataValue.text(str(done.confirmation))
    if done.drop_after is not None:
        metadata["drop_after"] = dg.MetadataValue.timestamp(done.drop_after)
    if done.cut is not None:
        metadata["released_at_marker"] = dg.MetadataValue.int(done.cut.marker)
        metadata["writers_held_ms"] = dg.MetadataValue.float(round(done.cut.writers_held_ms, 3))
    return metadata


class RestoreAction(Enum):
    """What a run of restored_slice does."""

    RESTORE = "restore"
    DRILL = "drill"


class RestoredSliceConfig(dg.Config):
    """Whether the week comes back, or is only shown to be restorable."""

    action: RestoreAction = Field(
        default=RestoreAction.RESTORE,
        description="RESTORE brings the week back; DRILL loads it into a scratch table, compares it and drops it.",
    )


@_archive_asset(
    kinds=KINDS,
    deps=[parquet_archive, retired_slice],
    output_required=False,
    description=(
        "A retired week is an attached leaf again: taken out of quarantine or loaded from its Parquet files, and equal"
        " to what was archived by fingerprint. The change stream does not cover it: materialize change_stream for its"
        " quarter if the legacy may still change it. With action DRILL (job restore_drill) the files are loaded into"
        " a scratch table, compared and dropped: the run leaves an observation and does not change the base."
    ),
)
def restored_slice(
    context: dg.AssetExecutionContext, config: RestoredSliceConfig, migration: dg.ResourceParam[Migration]
) -> Iterator[dg.MaterializeResult[Any]]:
    """Restore the week, or drill its restore."""
    week, run_id = week_of(context), context.run.run_id
    with readable_failures():
        if config.action is RestoreAction.DRILL:
            done = drill_week(migration, week, run_id=run_id)
            metadata = _restored_metadata(Back(week, "drill", done.fingerprint, done.seconds))
            _observe(context, parquet_archive.key, "restored into a scratch table, compared, dropped", metadata)
            return
        metadata = _restored_metadata(bring_back(migration, week, run_id=run_id))
    yield dg.MaterializeResult(metadata=metadata)


def _restored_metadata(back: Back) -> Metadata:
    return {
        "result": dg.MetadataValue.text(f"{back.fingerprint}, from {back.source}, in {back.seconds:,.1f} s"),
        "dagster/row_count": dg.MetadataValue.int(back.fingerprint.rows),
        "checksum": dg.MetadataValue.text(back.fingerprint.checksum),
        "from": dg.MetadataValue.text(back.source),
        "seconds": dg.MetadataValue.float(round(back.seconds, 3)),
    }


def _observe(context: dg.AssetExecutionContext, asset: dg.AssetKey, text: str, metadata: Metadata) -> None:
    """Log an observation of the run's week, for a run that materializes nothing."""
    week = partition_key(week_of(context))
    context.log_event(dg.AssetObservation(asset_key=asset, partition=week, description=text, metadata=metadata))
