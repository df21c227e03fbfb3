"""The assets that prove and approve: a week validated, a quarter reconciled, and the sign-off.

Both sides are compared at a consistent cut while the applications go on writing: one week at a cut of its own, or all
weeks of a quarter at one cut. Then a named person signs the quarter off.
"""

import time
from collections.abc import Iterator
from enum import Enum
from typing import Any

import dagster as dg
from pydantic import Field

from migration_assets.copying.weeks import repair_week, validate_week
from migration_assets.defs.change_stream import change_stream
from migration_assets.defs.failures import readable_failures
from migration_assets.defs.partitions import (
    APPROVE,
    FOLLOW,
    KINDS,
    OWNERS,
    fiscal_quarters,
    fiscal_weeks,
    quarter_of,
    quarter_of_its_weeks,
    week_of,
)
from migration_assets.defs.resources import CODE_OF_REFUSAL, CONFIRM, confirmed
from migration_assets.defs.shown import CHECKSUM, ROW_COUNT, Metadata, equality_results, proof_metadata, table
from migration_assets.defs.slices import migrated_slice
from migration_assets.domain.errors import SliceMismatchError
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.evidence.approval import sign_off_quarter
from migration_assets.proof.deletions import confirmed_deletions
from migration_assets.proof.reconciliation import Reconciled, reconcile_quarter
from migration_assets.proof.repair import Repaired
from migration_assets.runtime import LEGACY_READ_POOL, MANY_WEEKS_POOL, Migration

_VALIDATED = "validated_slice"
_ALONE = " Runs with every validation and repair, never alone."
_VALIDATED_CHECKS = {
    ROW_COUNT: "At the cut the base held as many rows of the week as the legacy." + _ALONE,
    CHECKSUM: "At the cut all columns of these rows agreed; otherwise the differing keys are listed." + _ALONE,
}
_RECONCILED = "reconciled_quarter"
_RECONCILED_CHECKS = {
    "every_week_matches": "All 13 weeks held the same rows on both sides at one cut.",
    "no_key_is_twice": "No key of the legacy is in two rows of the base, neither in one week nor in two.",
}


class ValidationAction(Enum):
    """What a materialization of validated_slice does."""

    VALIDATE = "validate"
    REPAIR = "repair"


class ValidatedSliceConfig(dg.Config):
    """Whether to compare only, or to repair what differs and then compare."""

    action: ValidationAction = Field(
        default=ValidationAction.VALIDATE, description="VALIDATE compares; REPAIR repairs what differs, then compares."
    )
    dry_run: bool = Field(default=True, description="Only show what a repair would do. No effect on a validation.")
    confirm_deletes: dict[str, int] = Field(default={}, description=CONFIRM)
    confirm: str = Field(default="", description=CODE_OF_REFUSAL)


@dg.asset(
    name=_VALIDATED,
    group_name=FOLLOW,
    owners=OWNERS,
    kinds=KINDS,
    pool=LEGACY_READ_POOL,
    partitions_def=fiscal_weeks,
    deps=[dg.AssetDep(change_stream, partition_mapping=quarter_of_its_weeks), migrated_slice],
    check_specs=[
        dg.AssetCheckSpec(name, asset=_VALIDATED, description=text, partitions_def=fiscal_weeks)
        for name, text in _VALIDATED_CHECKS.items()
    ],
    description=(
        "Legacy and base held the same rows of the week at one position of the running stream; the legacy's writers"
        " waited for milliseconds. A week that differs fails and lists the keys: the job repair_slices shows and then"
        " repairs them. Safe at any time and as often as wanted; the schedule ongoing_validation validates in rotation."
    ),
)
def validated_slice(
    context: dg.AssetExecutionContext, config: ValidatedSliceConfig, migration: dg.ResourceParam[Migration]
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """Validate the week, or repair and validate it; a mismatch fails the check and the partition."""
    week, run_id = week_of(context), context.run.run_id
    with readable_failures():
        try:
            repaired = _repair(migration, week, run_id, config) if config.action is ValidationAction.REPAIR else {}
            metadata, legacy, base = _validate(migration, week, run_id)
        except SliceMismatchError as mismatch:
            # Before the Failure: a check that fails after a materialization would leave the partition green.
            yield from equality_results(_VALIDATED, mismatch.legacy, mismatch.base, mismatch.differences)
            raise
    yield dg.MaterializeResult(metadata=metadata | repaired, check_results=equality_results(_VALIDATED, legacy, base))


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
        # The week was just seen to differ, and a run that succeeds would turn its red partition green.
        raise SliceMismatchError(
            done.legacy,
            done.base,
            where=week.key,
            state_left="nothing was changed: it was a dry run",
            next_step="job repair_slices with dry_run: false repairs these rows and keeps them as they were before",
            differences=done.differences,
        )
    return _repair_metadata(done)


def _repair_metadata(done: Repaired) -> Metadata:
    found, number = done.differences, done.repair_id
    result = f"repair {number}: {found}" if number is not None else "nothing had to be repaired"
    return {
        "repair": dg.MetadataValue.text(result),
        "repaired_missing": dg.MetadataValue.int(found.missing),
        "repaired_extra": dg.MetadataValue.int(found.extra),
        "repaired_changed": dg.MetadataValue.int(found.changed),
        "repair_apply_held_ms": dg.MetadataValue.float(round(done.cut.apply_held_ms, 3)),
    }


@dg.asset(
    name=_RECONCILED,
    group_name=FOLLOW,
    owners=OWNERS,
    kinds=KINDS,
    pool=MANY_WEEKS_POOL,
    partitions_def=fiscal_quarters,
    deps=[dg.AssetDep(validated_slice, partition_mapping=quarter_of_its_weeks)],
    check_specs=[
        dg.AssetCheckSpec(name, asset=_RECONCILED, description=text, partitions_def=fiscal_quarters)
        for name, text in _RECONCILED_CHECKS.items()
    ],
    description=(
        "All 13 weeks equalled the legacy at ONE position of the running stream, and no key was in two rows:"
        " nothing was lost, duplicated or left between two weeks. A quarter that differs fails and names the weeks."
    ),
)
def reconciled_quarter(
    context: dg.AssetExecutionContext, migration: dg.ResourceParam[Migration]
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """Compare the quarter; a difference fails the check and the partition."""
    started = time.monotonic()
    with readable_failures():
        done = reconcile_quarter(migration, quarter_of(context), run_id=context.run.run_id)
    results, metadata = _results(done), _metadata(done, time.monotonic() - started)
    if not done.equal:
        yield from results
        raise dg.Failure(description=_difference(done), metadata={"weeks": metadata["weeks"]}, allow_retries=False)
    yield dg.MaterializeResult(metadata=metadata, check_results=results)


def _results(done: Reconciled) -> list[dg.AssetCheckResult]:
    differing = [week.name for week, proof in done.weeks if not proof.equal]
    return [
        dg.AssetCheckResult(
            check_name="every_week_matches",
            asset_key=_RECONCILED,
            passed=not differing,
            description=f"Differing: {', '.join(differing)}." if differing else "13 of 13 are equal.",
            metadata={"differing_weeks": dg.MetadataValue.int(len(differing)), "weeks": _weeks(done)},
        ),
        dg.AssetCheckResult(
            check_name="no_key_is_twice",
            asset_key=_RECONCILED,
            passed=not done.duplicates,
            metadata={
                # The search stops at the first twenty.
                "keys_found_twice": dg.MetadataValue.int(len(done.duplicates)),
                "keys": table(
                    ("key", "control_values"),
                    ({"key": one.key, "control_values": ", ".join(one.control_values)} for one in done.duplicates),
                ),
            },
        ),
    ]


def _metadata(done: Reconciled, seconds: float) -> Metadata:
    return {
        **proof_metadata(done.cut, done.legacy, done.base, what="reconciled", seconds=seconds),
        "weeks": _weeks(done),
    }


def _weeks(done: Reconciled) -> dg.TableMetadataValue:
    columns = ("week", "equal", "legacy_rows", "base_rows", "missing", "extra", "changed")
    return table(
        columns,
        (
            dict(
                zip(
                    columns,
                    (week.name, "yes" if proof.equal else "NO", proof.legacy.rows, proof.base.rows,
                     proof.differences.missing, proof.differences.extra, proof.differences.changed),
                    strict=True,
                )
            )
            for week, proof in done.weeks
        ),
    )  # fmt: skip


def _difference(done: Reconciled) -> str:
    weeks = [f"{week.name} ({proof.differences})" for week, proof in done.weeks if not proof.equal]
    keys = [f"{one.key} at {' and '.join(one.control_values)}" for one in done.duplicates]
    what = "; ".join([
        *([f"differing weeks: {', '.join(weeks)}"] if weeks else []),
        *([f"keys that are in several rows: {', '.join(keys)}"] if keys else []),
    ])  # fmt: skip
    return (
        f"{done.quarter.key}: {what}\nState left: the base is unchanged; the ledger records the differences.\n"
        "Next: job repair_slices for these weeks, first as a dry run; then reconcile again."
    )


class SignOffConfig(dg.Config):
    """Who approves, and what that person adds."""

    approved_by: str = Field(description="The name of the person who approves.")
    note: str = Field(default="", description="Anything that belongs to the approval.")


@dg.asset(
    group_name=APPROVE,
    owners=OWNERS,
    kinds=KINDS,
    partitions_def=fiscal_quarters,
    deps=[reconciled_quarter],
    description=(
        "A named person approved what the ledger proves: 13 weeks validated since we last changed them, the quarter"
        " reconciled, the stream healthy. Otherwise it refuses and lists everything that is missing. The evidence is"
        " kept with its SHA-256. A later copy, repair or failed validation makes the sign-off void, which its check"
        " still_stands shows; it can be run alone. While the base is in charge nobody can sign; earlier sign-offs stay"
        " valid."
    ),
)
def sign_off(
    context: dg.AssetExecutionContext, config: SignOffConfig, migration: dg.ResourceParam[Migration]
) -> dg.MaterializeResult[Any]:
    """Sign the quarter off, or refuse."""
    with readable_failures():
        signed = sign_off_quarter(
            migration, quarter_of(context), config.approved_by, config.note, run_id=context.run.run_id
        )
    return dg.MaterializeResult(
        metadata={
            "result": dg.MetadataValue.text(
                f"signed off by {signed.approved_by} at {signed.signed_at:%Y-%m-%d %H:%M:%S} UTC"
            ),
            "approved_by": dg.MetadataValue.text(signed.approved_by),
            "note": dg.MetadataValue.text(signed.note or "none"),
            "signed_at": dg.MetadataValue.timestamp(signed.signed_at),
            "sha256": dg.MetadataValue.text(signed.sha256),
            "evidence": dg.MetadataValue.json(signed.evidence),
            "sign_off_id": dg.MetadataValue.int(signed.id),
        }
    )
