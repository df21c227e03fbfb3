"""The job `repair_legacy`: while the base is in charge, makes the legacy's rows those of the base."""

import dagster as dg
from pydantic import Field

from migration_assets.cutover.repairing_legacy import LegacyRepaired, repair_legacy
from migration_assets.defs.assets.legacy_cutover import legacy_cutover
from migration_assets.defs.confirmations import CODE_OF_REFUSAL, CONFIRM, confirmed
from migration_assets.defs.failures import readable_failures
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.proof.deletions import confirmed_deletions
from migration_assets.runtime import Migration


class LegacyRepairConfig(dg.Config):
    """Which weeks, and whether it is meant."""

    weeks: list[str] = Field(description="The weeks, as FY25-Q2|W05; name all that differ at once")
    dry_run: bool = Field(default=True, description="Only show what differs; with false mend it on the legacy")
    confirm_deletes: dict[str, int] = Field(default={}, description=CONFIRM)
    confirm: str = Field(default="", description=CODE_OF_REFUSAL)


@dg.op(description="Compare weeks at a cut of the reverse stream; with dry_run: false mend the legacy's rows.")
def repair_legacy_slices(
    context: dg.OpExecutionContext, config: LegacyRepairConfig, migration: dg.ResourceParam[Migration]
) -> None:
    """Do it, and note it on the page of legacy_cutover; keys and columns are in the log, values never."""
    weeks = [FiscalWeek.parse(text) for text in config.weeks]
    run_id, rows = context.run.run_id, {} if config.dry_run else confirmed(config.confirm_deletes)
    with readable_failures(), confirmed_deletions(migration, rows, config.confirm, run_id=run_id) as allowed:
        done = repair_legacy(migration, weeks, dry_run=config.dry_run, run_id=run_id, confirmed_deletes=allowed)
    for one in done:
        context.log.info(_line(one))
        for difference in one.differences.sample:
            columns = ", ".join(difference.columns)
            context.log.info("%s: %s: %s %s", one.week.key, difference.kind, dict(difference.key), columns)
    differing = [one for one in done if one.differences.rows]
    said = "; ".join(_line(one) for one in differing) or f"{len(done)} weeks of the legacy are as the base has them"
    if not config.dry_run:
        context.log_event(dg.AssetObservation(legacy_cutover.key, description=f"Repair of the legacy: {said}"))
    elif differing:
        raise dg.Failure(
            description=f"The legacy differs from the base: {said}\nState left: nothing was changed."
            "\nNext: launch this job again with dry_run: false; the rows are in this run's log.",
            allow_retries=False,
        )


def _line(one: LegacyRepaired) -> str:
    if not one.differences.rows:
        return f"{one.week.key}: equal, {one.base.rows:,} rows"
    return f"{one.week.key}: {one.differences} on the legacy" + (f", mended by repair {one.repair_id}" if (
        one.repair_id) else "")  # fmt: skip


@dg.job(  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    name="repair_legacy",
    description=(
        "While the base is in charge: show which rows of weeks the legacy has not as the base has them, at a cut of the"
        " reverse stream. With dry_run: false mend exactly these on the legacy, with the images of before in the"
        " ledger; a rollback finds them equal then."
    ),
    tags={"dagster/max_retries": "0"},
    executor_def=dg.in_process_executor,
)
def repair_legacy_job() -> None:
    """One step."""
    repair_legacy_slices()
