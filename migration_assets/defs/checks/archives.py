"""Checks of archives that can be run alone at any time: whether one was tried lately, and what came after it."""

import dagster as dg

from migration_assets.archive.drills import last_trial
from migration_assets.defs.assets.parquet_archive import parquet_archive
from migration_assets.defs.assets.retired_slice import retired_slice
from migration_assets.defs.failures import readable_failures
from migration_assets.defs.partitions import fiscal_weeks
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.side_in_charge import why_nobody_compares
from migration_assets.retirement.retiring import late_in
from migration_assets.runtime import Migration


@dg.asset_check(
    asset=parquet_archive,
    partitions_def=fiscal_weeks,
    description=(
        "The week was archived, restored or drilled within MIGRATION_DRILL_MAX_AGE_DAYS: an archive that nobody has"
        " tried for long is a hope. The job restore_drill tries it. Can be run alone."
    ),
)
def drilled_lately(
    context: dg.AssetCheckExecutionContext, migration: dg.ResourceParam[Migration]
) -> dg.AssetCheckResult:
    """How old the last proof is that this archive can be brought back."""
    with readable_failures():
        trial = last_trial(migration, FiscalWeek.parse(str(context.partition_key)))
    if trial is None:
        return dg.AssetCheckResult(passed=False, description="The week has no archive.")
    limit = migration.settings.drill_max_age_days
    return dg.AssetCheckResult(
        passed=trial.equal and trial.age_days <= limit,
        severity=dg.AssetCheckSeverity.WARN if trial.equal else dg.AssetCheckSeverity.ERROR,
        description=f"{trial.what} {trial.age_days:,.1f} days ago"
        + ("" if trial.equal else f", and it failed: {trial.error}")
        + (f"; more than {limit:g} days: run the job restore_drill" if trial.age_days > limit else ""),
        metadata={
            "age_days": dg.MetadataValue.float(round(trial.age_days, 3)),
            "drills": dg.MetadataValue.int(trial.drills),
        },
    )


@dg.asset_check(
    asset=retired_slice,
    partitions_def=fiscal_weeks,
    description=(
        "While the legacy is still in charge: it holds of the retired week exactly what was archived. A booking that"
        " came after the week had left shows here, and stops the week from being dropped. While the base is in charge"
        " nothing comes late. Can be run alone."
    ),
)
def nothing_came_late(
    context: dg.AssetCheckExecutionContext, migration: dg.ResourceParam[Migration]
) -> dg.AssetCheckResult:
    """The legacy's rows of the week against the archive's fingerprint."""
    with readable_failures():
        nobody = why_nobody_compares(migration)
        late = late_in(migration, FiscalWeek.parse(str(context.partition_key)))
    if nobody is not None:
        why, well = nobody
        return dg.AssetCheckResult(passed=well, severity=dg.AssetCheckSeverity.WARN, description=f"{why}.")
    return dg.AssetCheckResult(
        passed=late is None,
        description=None
        if late is None
        else f"{late}. Next: restored_slice, change_stream for the quarter, then parquet_archive again.",
        metadata={"late_rows": dg.MetadataValue.int(late.rows if late else 0)},
    )
