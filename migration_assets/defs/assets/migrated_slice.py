"""One week of the table in the base, proven equal to the legacy at the copy's own snapshot."""

from collections.abc import Iterator
from enum import Enum
from typing import Any

import dagster as dg
from pydantic import Field

from migration_assets.copying.weeks import copy_week, verify_week
from migration_assets.defs.assets.legacy_slice import legacy_slice
from migration_assets.defs.confirmations import CODE_OF_REFUSAL, CONFIRM, confirmed
from migration_assets.defs.failures import readable_failures
from migration_assets.defs.labels import KINDS, MIGRATE, OWNERS
from migration_assets.defs.metadata import Metadata, copy_metadata, fingerprint_metadata
from migration_assets.defs.partitions import fiscal_weeks, week_of
from migration_assets.defs.progress import observed_progress
from migration_assets.defs.proofs import CHECKSUM, ROW_COUNT, equality_results
from migration_assets.domain.errors import SliceMismatchError
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.proof.deletions import confirmed_deletions
from migration_assets.runtime import LEGACY_READ_POOL, Migration

_NAME = "migrated_slice"
_CHECKS = {
    ROW_COUNT: (
        "The base holds as many rows of the week as the legacy held in the copy's snapshot."
        " Runs with every copy and with the job verify_slices, never alone."
    ),
    CHECKSUM: (
        "Both checksums over all columns of these rows agree; the base is read again for its own."
        " Runs with every copy and with the job verify_slices, never alone."
    ),
}


class SliceAction(Enum):
    """What a materialization does."""

    COPY = "copy"
    VERIFY = "verify"


class MigratedSliceConfig(dg.Config):
    """Whether to copy the week, or only to read the base again and compare it with the copy's fingerprint.

    VERIFY makes sense until the week is under CDC; from then on `validated_slice` compares it with the legacy itself.
    """

    action: SliceAction = SliceAction.COPY
    confirm_deletes: dict[str, int] = Field(default={}, description=CONFIRM)
    confirm: str = Field(default="", description=CODE_OF_REFUSAL)


@dg.asset(
    name=_NAME,
    group_name=MIGRATE,
    owners=OWNERS,
    kinds=KINDS,
    pool=LEGACY_READ_POOL,
    partitions_def=fiscal_weeks,
    deps=[legacy_slice],
    check_specs=[
        dg.AssetCheckSpec(name, asset=_NAME, description=text, partitions_def=fiscal_weeks)
        for name, text in _CHECKS.items()
    ],
    description=(
        "The week was copied in one snapshot of the legacy into a new leaf, indexed, fingerprinted on both sides and"
        " attached, all in one transaction of the base. Materialize it again to replace the leaf at once: always safe,"
        " since a week under CDC is copied live, at a cut, and stays under CDC; its validation and sign-off are void"
        " then. With action VERIFY the base is only read again and compared, as long as the week is not under CDC."
    ),
)
def migrated_slice(
    context: dg.AssetExecutionContext, config: MigratedSliceConfig, migration: dg.ResourceParam[Migration]
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """Copy or verify; a mismatch is a failed check and a failed partition."""
    with readable_failures():
        try:
            metadata, legacy, base = (
                _copy(context, migration, config) if config.action is SliceAction.COPY else _verify(context, migration)
            )
        except SliceMismatchError as mismatch:
            # Before the Failure: a check that fails after a materialization would leave the partition green.
            yield from equality_results(_NAME, mismatch.legacy, mismatch.base)
            raise
    yield dg.MaterializeResult(metadata=metadata, check_results=equality_results(_NAME, legacy, base))


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
