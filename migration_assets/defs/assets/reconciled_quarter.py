"""A whole quarter compared at one cut."""

import time
from collections.abc import Iterator
from typing import Any

import dagster as dg

from migration_assets.defs.assets.validated_slice import validated_slice
from migration_assets.defs.failures import readable_failures
from migration_assets.defs.labels import FOLLOW, KINDS, OWNERS
from migration_assets.defs.metadata import Metadata
from migration_assets.defs.partitions import fiscal_quarters, quarter_of, quarter_of_its_weeks
from migration_assets.defs.proofs import proof_metadata, table
from migration_assets.proof.reconciliation import Reconciled
from migration_assets.proof.reconciling import reconcile_quarter
from migration_assets.runtime import MANY_WEEKS_POOL, Migration

_NAME = "reconciled_quarter"
_CHECKS = {
    "every_week_matches": "All 13 weeks held the same rows on both sides at one cut.",
    "no_key_is_twice": "No key of the legacy is in two rows of the base, in one week or in two.",
}


@dg.asset(
    name=_NAME,
    group_name=FOLLOW,
    owners=OWNERS,
    kinds=KINDS,
    pool=MANY_WEEKS_POOL,
    partitions_def=fiscal_quarters,
    deps=[dg.AssetDep(validated_slice, partition_mapping=quarter_of_its_weeks)],
    check_specs=[
        dg.AssetCheckSpec(name, asset=_NAME, description=text, partitions_def=fiscal_quarters)
        for name, text in _CHECKS.items()
    ],
    description=(
        "All 13 weeks equalled the legacy at ONE position of the stream, which ran on, and no key was there twice:"
        " nothing was lost, doubled or left between two weeks. A quarter that differs fails and says which weeks."
    ),
)
def reconciled_quarter(
    context: dg.AssetExecutionContext, migration: dg.ResourceParam[Migration]
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """Compare; a difference is a failed check and a failed partition."""
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
            asset_key=_NAME,
            passed=not differing,
            description=f"Differing: {', '.join(differing)}." if differing else "13 of 13 are equal.",
            metadata={"differing_weeks": dg.MetadataValue.int(len(differing)), "weeks": _weeks(done)},
        ),
        dg.AssetCheckResult(
            check_name="no_key_is_twice",
            asset_key=_NAME,
            passed=not done.duplicates,
            metadata={
                # At most the first twenty are looked for.
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
        *([f"keys that are there twice: {', '.join(keys)}"] if keys else []),
    ])  # fmt: skip
    return (
        f"{done.quarter.key}: {what}\nState left: the base is as it was found; the ledger notes the differences.\n"
        "Next: job repair_slices for these weeks, first as a dry run; then this again."
    )
