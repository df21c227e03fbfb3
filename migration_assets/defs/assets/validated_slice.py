"""One week, proven equal to the legacy at a consistent cut, while everybody goes on writing."""

import time
from collections.abc import Iterator
from enum import Enum
from typing import Any

import dagster as dg
from pydantic import Field

from migration_assets.copying.weeks import repair_week, validate_week
from migration_assets.defs.assets.change_stream import change_stream
from migration_assets.defs.assets.migrated_slice import migrated_slice
from migration_assets.defs.confirmations import CODE_OF_REFUSAL, CONFIRM, confirmed
from migration_assets.defs.failures import readable_failures
from migration_assets.defs.labels import FOLLOW, KINDS, OWNERS
from migration_assets.defs.metadata import Metadata
from migration_assets.defs.partitions import fiscal_weeks, quarter_of_its_weeks, week_of
from migration_assets.defs.proofs import CHECKSUM, ROW_COUNT, equality_results, proof_metadata
from migration_assets.domain.errors import SliceMismatchError
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.proof.deletions import confirmed_deletions
from migration_assets.proof.repair import Repaired
from migration_assets.runtime import LEGACY_READ_POOL, Migration

_NAME = "validated_slice"
_ALONE = " Runs with every validation and repair, never alone."
_CHECKS = {
    ROW_COUNT: "At the cut the base held as many rows of the week as the legacy." + _ALONE,
    CHECKSUM: "At the cut all columns of these rows agreed; where not, the keys that differ are listed." + _ALONE,
}


class ValidationAction(Enum):
    """What a materialization does."""

    VALIDATE = "validate"
    REPAIR = "repair"


class ValidatedSliceConfig(dg.Config):
    """Whether to compare only, or to mend what differs and then compare."""

    action: ValidationAction = ValidationAction.VALIDATE
    dry_run: bool = True
    """Of a repair: only say what it would do."""
    confirm_deletes: dict[str, int] = Field(default={}, description=CONFIRM)
    confirm: str = Field(default="", description=CODE_OF_REFUSAL)


@dg.asset(
    name=_NAME,
    group_name=FOLLOW,
    owners=OWNERS,
    kinds=KINDS,
    pool=LEGACY_READ_POOL,
    partitions_def=fiscal_weeks,
    deps=[dg.AssetDep(change_stream, partition_mapping=quarter_of_its_weeks), migrated_slice],
    check_specs=[
        dg.AssetCheckSpec(name, asset=_NAME, description=text, partitions_def=fiscal_weeks)
        for name, text in _CHECKS.items()
    ],
    description=(
        "Legacy and base held the same rows of the week at one position of the stream, which ran on; the legacy's"
        " writers waited for milliseconds. A week that differs fails and lists the keys: the job repair_slices shows"
        " and then mends them. Safe at any time, as often as wanted; the schedule ongoing_validation does it in"
        " rotation."
    ),
)
def validated_slice(
    context: dg.AssetExecutionContext, config: ValidatedSliceConfig, migration: dg.ResourceParam[Migration]
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """Validate, or repair and validate; a mismatch is a failed check and a failed partition."""
    week, run_id = week_of(context), context.run.run_id
    with readable_failures():
        try:
            repaired = _repair(migration, week, run_id, config) if config.action is ValidationAction.REPAIR else {}
            metadata, legacy, base = _validate(migration, week, run_id)
        except SliceMismatchError as mismatch:
            # Before the Failure: a check that fails after a materialization would leave the partition green.
            yield from equality_results(_NAME, mismatch.legacy, mismatch.base, mismatch.differences)
            raise
    yield dg.MaterializeResult(metadata=metadata | repaired, check_results=equality_results(_NAME, legacy, base))


def _validate(migration: Migration, week: FiscalWeek, run_id: str) -> tuple[Metadata, Fingerprint, Fingerprint]:
    started = time.monotonic()
    done = validate_week(migration, week, run_id=run_id)
    seconds = time.monotonic() - started
    metadata = proof_metadata(done.cut, done.legacy, done.base, what="validated", seconds=seconds)
    return metadata, done.legacy, done.base


def _repair(migration: Migration, week: FiscalWeek, run_id: str, config: ValidatedSliceConfig) -> Metadata:
    rows = {} if config.dry_run else confirmed(config.confirm_deletes)
    with confirmed_deletions(migration, rows, config.confirm, run_id=run_id) as allowed:
        done = repair_week(migration, week, dry_run=config.dry_run, run_id=run_id, confirmed_deletes=allowed)
    if config.dry_run and done.differences.rows:
        # No success: the week was just seen to differ, and a run that succeeds would take the red from its partition.
        raise SliceMismatchError(
            done.legacy,
            done.base,
            where=week.key,
            state_left="nothing was changed: it was a dry run",
            next_step="job repair_slices with dry_run: false mends these rows, keeping what was there before",
            differences=done.differences,
        )
    return _repair_metadata(done)


def _repair_metadata(done: Repaired) -> Metadata:
    found, number = done.differences, done.repair_id
    did = f"repair {number}: {found}" if number is not None else "nothing was to be repaired"
    return {
        "repair": dg.MetadataValue.text(did),
        "repaired_missing": dg.MetadataValue.int(found.missing),
        "repaired_extra": dg.MetadataValue.int(found.extra),
        "repaired_changed": dg.MetadataValue.int(found.changed),
        "repair_apply_held_ms": dg.MetadataValue.float(round(done.cut.apply_held_ms, 3)),
    }
