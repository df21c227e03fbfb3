"""The assets of a copy: the quarter's partitions in the base, a week measured on the legacy, and the week copied.

The copy is proven equal to the legacy as the legacy was in the copy's own snapshot.
"""

from collections.abc import Iterator
from enum import Enum
from typing import Any

import dagster as dg
from pydantic import Field

from migration_assets.copying.weeks import copy_week, measure_week, verify_week
from migration_assets.defs.failures import readable_failures
from migration_assets.defs.partitions import (
    KINDS,
    MIGRATE,
    OWNERS,
    PREPARE,
    fiscal_quarters,
    fiscal_weeks,
    quarter_of,
    quarter_of_its_weeks,
    week_of,
)
from migration_assets.defs.preflight import preflight
from migration_assets.defs.resources import CODE_OF_REFUSAL, CONFIRM, confirmed
from migration_assets.defs.shown import (
    CHECKSUM,
    ROW_COUNT,
    Metadata,
    copy_metadata,
    equality_results,
    fingerprint_metadata,
    measure_metadata,
    observed_progress,
    schema_metadata,
)
from migration_assets.domain.errors import SliceMismatchError
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.proof.deletions import confirmed_deletions
from migration_assets.quarters.opening import open_quarter
from migration_assets.runtime import LEGACY_READ_POOL, Migration

_MIGRATED = "migrated_slice"
_ALONE = " Runs with every copy and with the job verify_slices, never alone."
_CHECKS = {
    ROW_COUNT: ("The base holds as many rows of the week as the legacy held in the copy's snapshot." + _ALONE),
    CHECKSUM: (
        "The checksums of both sides over all columns of these rows agree; the base's is computed by reading it again."
        + _ALONE
    ),
}


@dg.asset(
    group_name=PREPARE,
    owners=OWNERS,
    kinds=KINDS,
    partitions_def=fiscal_quarters,
    deps=[preflight],
    description=(
        "The quarter's partition and its 13 leaves exist in the base, created from the legacy's catalogue: no default"
        " partition, primary key extended by the control column. While the base is in charge its own table is the"
        " model, and the legacy is not asked. Safe to repeat."
    ),
)
def quarter_partitions(
    context: dg.AssetExecutionContext, migration: dg.ResourceParam[Migration]
) -> dg.MaterializeResult[Any]:
    """Open the quarter in the base."""
    with readable_failures():
        opened, description = open_quarter(migration, quarter_of(context))
    return dg.MaterializeResult(
        metadata={
            "partition": dg.MetadataValue.text(str(opened.table)),
            "leaves": dg.MetadataValue.int(len(opened.leaves)),
            "leaves_created_now": dg.MetadataValue.int(len(opened.created)),
            **schema_metadata(description),
        }
    )


class LegacySliceConfig(dg.Config):
    """How to measure the week."""

    exact: bool = Field(
        default=False, description="Read the week to count rows and bytes, instead of using the planner's estimate."
    )


@dg.asset(
    group_name=PREPARE,
    owners=OWNERS,
    kinds=KINDS,
    partitions_def=fiscal_weeks,
    deps=[dg.AssetDep(quarter_partitions, partition_mapping=quarter_of_its_weeks)],
    description=(
        "What the legacy holds of the week: rows, bytes, first and last value, and the predicted duration as a share of"
        " the migration window. Reads almost nothing unless `exact` is set."
    ),
    pool=LEGACY_READ_POOL,
)
def legacy_slice(
    context: dg.AssetExecutionContext, config: LegacySliceConfig, migration: dg.ResourceParam[Migration]
) -> dg.MaterializeResult[Any]:
    """Measure the week on the legacy."""
    settings = migration.settings
    with readable_failures():
        measure = measure_week(migration, week_of(context), exact=config.exact)
    return dg.MaterializeResult(
        metadata=measure_metadata(
            measure, window_hours=settings.window_hours, target_gb_per_hour=settings.target_gb_per_hour
        )
    )


class SliceAction(Enum):
    """What a materialization of migrated_slice does."""

    COPY = "copy"
    VERIFY = "verify"


class MigratedSliceConfig(dg.Config):
    """Whether to copy the week, or only to read the base again and compare it with the copy's fingerprint."""

    action: SliceAction = Field(
        default=SliceAction.COPY,
        description="COPY copies the week. VERIFY reads the base again and compares it with the copy's fingerprint,"
        " until the week is under CDC; from then on validated_slice compares it with the legacy itself.",
    )
    confirm_deletes: dict[str, int] = Field(default={}, description=CONFIRM)
    confirm: str = Field(default="", description=CODE_OF_REFUSAL)


@dg.asset(
    name=_MIGRATED,
    group_name=MIGRATE,
    owners=OWNERS,
    kinds=KINDS,
    pool=LEGACY_READ_POOL,
    partitions_def=fiscal_weeks,
    deps=[legacy_slice],
    check_specs=[
        dg.AssetCheckSpec(name, asset=_MIGRATED, description=text, partitions_def=fiscal_weeks)
        for name, text in _CHECKS.items()
    ],
    description=(
        "The week was copied in one snapshot of the legacy into a new leaf, indexed, fingerprinted on both sides and"
        " attached, all in one transaction of the base. Materialize it again to replace the leaf atomically. That is"
        " always safe: a week under CDC is copied live, at a cut, and stays under CDC; its validation and sign-off"
        " become void. With action VERIFY the base is only read again and compared, while the week is not under CDC."
    ),
)
def migrated_slice(
    context: dg.AssetExecutionContext, config: MigratedSliceConfig, migration: dg.ResourceParam[Migration]
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """Copy or verify the week; a mismatch fails the check and the partition."""
    with readable_failures():
        try:
            metadata, legacy, base = (
                _copy(context, migration, config) if config.action is SliceAction.COPY else _verify(context, migration)
            )
        except SliceMismatchError as mismatch:
            # Before the Failure: a check that fails after a materialization would leave the partition green.
            yield from equality_results(_MIGRATED, mismatch.legacy, mismatch.base)
            raise
    yield dg.MaterializeResult(metadata=metadata, check_results=equality_results(_MIGRATED, legacy, base))


def _copy(
    context: dg.AssetExecutionContext, migration: Migration, config: MigratedSliceConfig
) -> tuple[Metadata, Fingerprint, Fingerprint]:
    run_id, rows = context.run.run_id, confirmed(config.confirm_deletes)
    with confirmed_deletions(migration, rows, config.confirm, run_id=run_id) as allowed:
        evidence = copy_week(
            migration,
            week_of(context),
            run_id=run_id,
            confirmed_deletes=allowed,
            progress=lambda expected: observed_progress(context, expected, migration.settings.progress_seconds),
        )
    metadata = copy_metadata(evidence, target_gb_per_hour=migration.settings.target_gb_per_hour)
    return metadata, evidence.legacy, evidence.base


def _verify(context: dg.AssetExecutionContext, migration: Migration) -> tuple[Metadata, Fingerprint, Fingerprint]:
    verified = verify_week(migration, week_of(context), run_id=context.run.run_id)
    return fingerprint_metadata(verified.legacy, verified.base), verified.legacy, verified.base
