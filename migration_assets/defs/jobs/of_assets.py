"""What a person launches by name."""

import dagster as dg

from migration_assets.defs.assets.legacy_slice import legacy_slice
from migration_assets.defs.assets.migrated_slice import SliceAction, migrated_slice
from migration_assets.defs.assets.parquet_archive import ArchiveAction, parquet_archive
from migration_assets.defs.assets.restored_slice import RestoreAction, restored_slice
from migration_assets.defs.assets.retired_slice import retired_slice
from migration_assets.defs.assets.validated_slice import ValidationAction, validated_slice
from migration_assets.defs.jobs.acceptance import accept_finding
from migration_assets.defs.jobs.legacy_repair import repair_legacy_job
from migration_assets.defs.jobs.rollback import rollback

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
        "Read copied weeks in the base again and compare them with the copy's fingerprint; for weeks that are not yet"
        " under CDC, others want the job validate_slices. A week that differs fails."
        " To copy exactly those again: on the page of the asset migrated_slice, Materialize, only failed and missing."
    ),
    executor_def=dg.in_process_executor,
)

validate_slices = dg.define_asset_job(  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    "validate_slices",
    selection=[validated_slice],
    description="Compare weeks under CDC with the legacy at a cut. A week that differs fails and lists the keys.",
    executor_def=dg.in_process_executor,
)

repair_slices = dg.define_asset_job(  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    "repair_slices",
    selection=[validated_slice],
    config={"ops": {"validated_slice": {"config": {"action": ValidationAction.REPAIR.name, "dry_run": True}}}},
    description=(
        "Show what differs in weeks under CDC, as it stands; a week with differences fails and lists them. With"
        " dry_run: false mend exactly these rows, keep what was there before, and validate the week again in the same"
        " run: it turns green."
    ),
    executor_def=dg.in_process_executor,
)

archive_slices = dg.define_asset_job(  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    "archive_slices",
    selection=[parquet_archive],
    description="Write signed-off weeks to Parquet and prove them by another engine; again where they are stale.",
    executor_def=dg.in_process_executor,
)

verify_archives = dg.define_asset_job(  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    "verify_archives",
    selection=[parquet_archive],
    config={"ops": {"parquet_archive": {"config": {"action": ArchiveAction.REREAD.name}}}},
    description="Read archived files again, hash them, and let DuckDB compute their fingerprint. A changed byte fails.",
    executor_def=dg.in_process_executor,
)

retire_slices = dg.define_asset_job(  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    "retire_slices",
    # Its check reads the legacy's week once more, which the step itself has just done.
    selection=dg.AssetSelection.assets(retired_slice).without_checks(),
    config={"ops": {"retired_slice": {"config": {"dry_run": True}}}},
    description=(
        "Show what stands in the way of weeks leaving the base, and the code of each that may. With dry_run: false and"
        " these codes as confirm they leave: into quarantine, and when that is over, with new codes, for good."
        " Destructive only then."
    ),
    executor_def=dg.in_process_executor,
)

restore_slices = dg.define_asset_job(  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    "restore_slices",
    selection=[restored_slice],
    description="Bring retired weeks back as attached leaves, from quarantine or from Parquet, proven equal.",
    executor_def=dg.in_process_executor,
)

restore_drill = dg.define_asset_job(  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    "restore_drill",
    selection=[restored_slice],
    config={"ops": {"restored_slice": {"config": {"action": RestoreAction.DRILL.name}}}},
    description="Restore archived weeks into a scratch table, compare, and drop it. Nothing in the base changes.",
    executor_def=dg.in_process_executor,
)

JOBS = [
    migrate_quarter,
    verify_slices,
    validate_slices,
    repair_slices,
    archive_slices,
    verify_archives,
    retire_slices,
    restore_slices,
    restore_drill,
    rollback,
    repair_legacy_job,
    accept_finding,
]
