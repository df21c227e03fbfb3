"""One archived week, out of the base."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from migration_assets.archive.querying import refresh_catalogue
from migration_assets.defs.assets.parquet_archive import parquet_archive
from migration_assets.defs.confirmations import CODES
from migration_assets.defs.failures import readable_failures
from migration_assets.defs.labels import ARCHIVE, ARCHIVE_POOL, KINDS, OWNERS
from migration_assets.defs.metadata import Metadata
from migration_assets.defs.partitions import fiscal_weeks, partition_key, week_of
from migration_assets.domain.plain_text import for_chat
from migration_assets.retirement.machine import Retired
from migration_assets.retirement.retiring import retire_week, told
from migration_assets.runtime import Migration


class RetiredSliceConfig(dg.Config):
    """Whether the week really leaves."""

    dry_run: bool = True
    """Only say what would be done, and what stands in the way."""

    confirm: str = Field(default="", description=CODES + " None is asked for with MIGRATION_AUTO_RETIRE=true.")


@dg.asset(
    group_name=ARCHIVE,
    owners=OWNERS,
    kinds=KINDS,
    pool=ARCHIVE_POOL,
    partitions_def=fiscal_weeks,
    deps=[parquet_archive],
    output_required=False,
    description=(
        "The week's leaf has left the base: its sign-off stands, its archive was read again, nothing has come since,"
        " the change stream was narrowed at a cut (while the base is in charge: the legacy was seen to hold of"
        " it what the archive does, for a rollback), the leaf was detached without blocking anybody and lies in the"
        " schema of quarantine until MIGRATION_QUARANTINE_DAYS are over; materialized again after that, it is"
        " dropped. A dry run by default, which leaves an observation with everything that stands in the way, or with"
        " the code that its leaving, and later the drop, asks for (not with MIGRATION_AUTO_RETIRE=true). The asset"
        " restored_slice brings it back."
    ),
)
def retired_slice(
    context: dg.AssetExecutionContext, config: RetiredSliceConfig, migration: dg.ResourceParam[Migration]
) -> Iterator[dg.MaterializeResult[Any]]:
    """Let it leave, as far as that is due; or say what stands in the way."""
    week = week_of(context)
    with readable_failures():
        done = retire_week(migration, week, dry_run=config.dry_run, confirm=config.confirm, run_id=context.run.run_id)
    if config.dry_run:
        # No materialization: a week that is still there must not look as if it had left.
        context.log_event(
            dg.AssetObservation(
                asset_key=context.asset_key,
                partition=partition_key(week),
                description="; ".join(done.obstacles) or "nothing stands in the way",
                metadata=_metadata(done),
            )
        )
        return
    refresh_catalogue(migration)
    yield dg.MaterializeResult(metadata=_metadata(done))


def _metadata(done: Retired) -> Metadata:
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
