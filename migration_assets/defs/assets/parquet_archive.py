"""One week in Parquet, proven equal by another engine."""

from collections.abc import Iterator
from enum import Enum
from typing import Any

import dagster as dg

from migration_assets.archive.archiving import Archived, archive_week, reread_archive
from migration_assets.archive.querying import refresh_catalogue
from migration_assets.defs.archives import archive_metadata, archive_result, failed_archive_result
from migration_assets.defs.assets.sign_off import sign_off
from migration_assets.defs.assets.validated_slice import validated_slice
from migration_assets.defs.failures import readable_failures
from migration_assets.defs.labels import ARCHIVE, ARCHIVE_POOL, OWNERS
from migration_assets.defs.partitions import fiscal_weeks, quarter_of_its_weeks, week_of
from migration_assets.domain.errors import ArchiveError
from migration_assets.runtime import Migration

_NAME = "parquet_archive"


class ArchiveAction(Enum):
    """What a materialization does."""

    ARCHIVE = "archive"
    REREAD = "reread"


class ParquetArchiveConfig(dg.Config):
    """Whether to archive the week, or only to read its files again."""

    action: ArchiveAction = ArchiveAction.ARCHIVE


@dg.asset(
    name=_NAME,
    group_name=ARCHIVE,
    owners=OWNERS,
    kinds={"parquet", "duckdb"},
    pool=ARCHIVE_POOL,
    partitions_def=fiscal_weeks,
    deps=[validated_slice, dg.AssetDep(sign_off, partition_mapping=quarter_of_its_weeks)],
    check_specs=[
        dg.AssetCheckSpec(
            "archive_matches",
            asset=_NAME,
            partitions_def=fiscal_weeks,
            description=(
                "DuckDB read the files again, and its fingerprint over all columns is PostgreSQL's over the leaf; every"
                " file has the SHA-256 that the manifest says, and the manifest is the one that the ledger knows."
                " Runs with every archive and with the job verify_archives, never alone."
            ),
        )
    ],
    description=(
        "The signed-off week was read in one snapshot of its leaf and written as Parquet with a manifest: aside,"
        " fsynced, read again by DuckDB, proven equal, and only then put in place of an older archive. A late booking"
        " makes it stale: materialize it again. While the base is in charge, a week that is over needs no sign-off."
        " With action REREAD (job verify_archives) the files are only read again;"
        " a byte that changed fails the partition."
    ),
)
def parquet_archive(
    context: dg.AssetExecutionContext, config: ParquetArchiveConfig, migration: dg.ResourceParam[Migration]
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """Archive or read again; what is not equal is a failed check and a failed partition."""
    with readable_failures():
        try:
            done = _do(context, config, migration)
        except ArchiveError as error:
            # Before the Failure: a check that fails after a materialization would leave the partition green.
            yield failed_archive_result(_NAME, error)
            raise
    yield dg.MaterializeResult(metadata=archive_metadata(done), check_results=[archive_result(_NAME, done)])


def _do(context: dg.AssetExecutionContext, config: ParquetArchiveConfig, migration: Migration) -> Archived:
    week, run_id = week_of(context), context.run.run_id
    if config.action is ArchiveAction.REREAD:
        return reread_archive(migration, week, run_id=run_id)
    done = archive_week(migration, week, run_id=run_id)
    refresh_catalogue(migration)
    return done
