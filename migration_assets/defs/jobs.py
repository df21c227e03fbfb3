"""What a person launches by name."""

import dagster as dg

from migration_assets.defs.assets.legacy_slice import legacy_slice
from migration_assets.defs.assets.migrated_slice import SliceAction, migrated_slice

# One run a week, each in its own process: 13 weeks in one multiprocess run were measured three times slower.
migrate_quarter = dg.define_asset_job(  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    "migrate_quarter",
    selection=[legacy_slice, migrated_slice],
    description="Measure and copy weeks. Choose a quarter and all its weeks; every week is a run of its own.",
    executor_def=dg.in_process_executor,
)

verify_slices = dg.define_asset_job(  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    "verify_slices",
    selection=[migrated_slice],
    config={"ops": {"migrated_slice": {"config": {"action": SliceAction.VERIFY.name}}}},
    description=(
        "Read copied weeks in the base again and compare them with the copy's fingerprint. A week that differs fails."
        " To copy exactly those again: on the page of the asset migrated_slice, Materialize, only failed and missing."
    ),
    executor_def=dg.in_process_executor,
)
