"""One retired week, back in the base, proven equal to what was archived."""

from collections.abc import Iterator
from enum import Enum
from typing import Any

import dagster as dg

from migration_assets.defs.assets.parquet_archive import parquet_archive
from migration_assets.defs.assets.retired_slice import retired_slice
from migration_assets.defs.failures import readable_failures
from migration_assets.defs.labels import ARCHIVE, ARCHIVE_POOL, KINDS, OWNERS
from migration_assets.defs.metadata import Metadata
from migration_assets.defs.partitions import fiscal_weeks, partition_key, week_of
from migration_assets.retirement.restoring import drill_week
from migration_assets.retirement.retiring import Back, bring_back
from migration_assets.runtime import Migration


class RestoreAction(Enum):
    """What a run does."""

    RESTORE = "restore"
    DRILL = "drill"


class RestoredSliceConfig(dg.Config):
    """Whether the week comes back, or only proves that it could."""

    action: RestoreAction = RestoreAction.RESTORE


@dg.asset(
    group_name=ARCHIVE,
    owners=OWNERS,
    kinds=KINDS,
    pool=ARCHIVE_POOL,
    partitions_def=fiscal_weeks,
    deps=[parquet_archive, retired_slice],
    output_required=False,
    description=(
        "A retired week is an attached leaf again: taken out of quarantine, or loaded from its Parquet files, and equal"
        " to what was archived by fingerprint. The change stream does not cover it: materialize change_stream for its"
        " quarter where the legacy may still change it. With action DRILL (job restore_drill) the files are loaded into"
        " a scratch table, compared and dropped: the run leaves an observation, and the base as it was."
    ),
)
def restored_slice(
    context: dg.AssetExecutionContext, config: RestoredSliceConfig, migration: dg.ResourceParam[Migration]
) -> Iterator[dg.MaterializeResult[Any]]:
    """Restore, or only try it."""
    week = week_of(context)
    with readable_failures():
        if config.action is RestoreAction.RESTORE:
            back = bring_back(migration, week, run_id=context.run.run_id)
            metadata = _metadata(back)
        else:
            done = drill_week(migration, week, run_id=context.run.run_id)
            metadata = _metadata(Back(week, "drill", done.fingerprint, done.seconds))
            context.log_event(
                dg.AssetObservation(
                    asset_key=parquet_archive.key,
                    partition=partition_key(week),
                    description="restored into a scratch table, compared, dropped",
                    metadata=metadata,
                )
            )
            return
    yield dg.MaterializeResult(metadata=metadata)


def _metadata(back: Back) -> Metadata:
    return {
        "result": dg.MetadataValue.text(f"{back.fingerprint}, from {back.source}, in {back.seconds:,.1f} s"),
        "dagster/row_count": dg.MetadataValue.int(back.fingerprint.rows),
        "checksum": dg.MetadataValue.text(back.fingerprint.checksum),
        "from": dg.MetadataValue.text(back.source),
        "seconds": dg.MetadataValue.float(round(back.seconds, 3)),
    }
