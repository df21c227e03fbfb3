"""The asset change_stream: the weeks of a quarter are under CDC and follow the legacy in real time."""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import dagster as dg
from pydantic import Field

from migration_assets.defs.failures import readable_failures
from migration_assets.defs.partitions import FOLLOW, KINDS, OWNERS, fiscal_quarters, quarter_of, quarter_of_its_weeks
from migration_assets.defs.resources import CODE_OF_REFUSAL, CONFIRM, confirmed
from migration_assets.defs.shown import Metadata, table
from migration_assets.defs.slices import migrated_slice, quarter_partitions
from migration_assets.proof.deletions import confirmed_deletions
from migration_assets.runtime import MANY_WEEKS_POOL, Migration
from migration_assets.stream.holding import start_stream
from migration_assets.stream.joining import Joined
from migration_assets.stream.true_up import TruedUp

_COUNTS = ("missing", "extra", "changed")


class ChangeStreamConfig(dg.Config):
    """How to bring the quarter under CDC."""

    rebuild: bool = Field(
        default=False,
        description="Create a new slot and true up every week under CDC against it: for a stream that was lost, dropped"
        " or altered.",
    )
    confirm_deletes: dict[str, int] = Field(default={}, description=CONFIRM)
    confirm: str = Field(default="", description=CODE_OF_REFUSAL)


@dg.asset(
    group_name=FOLLOW,
    owners=OWNERS,
    kinds=KINDS,
    pool=MANY_WEEKS_POOL,
    partitions_def=fiscal_quarters,
    # Also on quarter_partitions: a run of both assets, as quarter_opener launches it, must execute in this order.
    deps=[quarter_partitions, dg.AssetDep(migrated_slice, partition_mapping=quarter_of_its_weeks)],
    description=(
        "The quarter's 13 weeks are under CDC and equal the legacy from the stated position on: a true-up found and"
        " repaired what had changed since they were copied. Weeks that were opened ahead and hold at most"
        " MIGRATION_JOIN_ROWS join without a copy. The first quarter activates the stream, later ones join it while it"
        " runs. Safe to repeat, also after a crash; `rebuild` creates the stream anew. Its two checks can be run alone."
    ),
)
def change_stream(
    context: dg.AssetExecutionContext, config: ChangeStreamConfig, migration: dg.ResourceParam[Migration]
) -> dg.MaterializeResult[Any]:
    """Activate the stream, let the quarter join it, or rebuild it."""
    run_id, rows = context.run.run_id, confirmed(config.confirm_deletes)
    with readable_failures(), confirmed_deletions(migration, rows, config.confirm, run_id=run_id) as allowed:
        joined = start_stream(
            migration,
            quarter_of(context),
            rebuild=config.rebuild,
            run_id=run_id,
            on_week=_observed_week(context),
            confirmed_deletes=allowed,
        )
    return dg.MaterializeResult(metadata=_metadata(joined))


def _observed_week(context: dg.AssetExecutionContext) -> Callable[[TruedUp], None]:
    """A callback that logs an observation for each week that was trued up. Several threads may call it."""
    lock, done = Lock(), 0

    def report(trued_up: TruedUp) -> None:
        nonlocal done
        with lock:
            done += 1
            context.log_event(
                dg.AssetObservation(
                    asset_key=context.asset_key,
                    partition=str(context.partition_key),
                    description=f"{trued_up.week.key} was trued up: {trued_up.differences}, repaired; {trued_up.base}",
                    metadata={"weeks_so_far": dg.MetadataValue.int(done), **_counts([trued_up])},
                )
            )

    return report


def _metadata(joined: Joined) -> Metadata:
    position = f"LSN {joined.lsn}" + (f", marker {joined.marker}" if joined.marker is not None else "")
    return {
        "result": dg.MetadataValue.text(f"{joined.how}, exact since {position}"),
        "how": dg.MetadataValue.text(joined.how),
        "exact_since": dg.MetadataValue.text(position),
        "weeks_trued_up": dg.MetadataValue.int(len(joined.weeks)),
        **_counts(joined.weeks),
        "paused_ms": dg.MetadataValue.float(round(joined.paused_ms, 3)),
        "seconds": dg.MetadataValue.float(round(joined.seconds, 3)),
        "weeks": table(
            ("week", "rows", *_COUNTS),
            (
                {"week": one.week.key, "rows": one.base.rows}
                | {name: getattr(one.differences, name) for name in _COUNTS}
                for one in sorted(joined.weeks, key=lambda one: one.week)
            ),
        ),
    }


def _counts(weeks: Sequence[TruedUp]) -> Metadata:
    return {name: dg.MetadataValue.int(sum(getattr(one.differences, name) for one in weeks)) for name in _COUNTS}
