"""What a person launches by name: jobs of assets, and deeds that are no asset."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from migration_assets.cutover.legacy_repair import LegacyRepaired, repair_legacy
from migration_assets.defs.archives import (
    ArchiveAction,
    RestoreAction,
    parquet_archive,
    restored_slice,
    retired_slice,
)
from migration_assets.defs.cutover import legacy_cutover
from migration_assets.defs.failures import readable_failures
from migration_assets.defs.proofs import ValidationAction, validated_slice
from migration_assets.defs.resources import CODE, CODE_OF_REFUSAL, CONFIRM, confirmed
from migration_assets.defs.shown import record_metadata, refuse_retries, result_of, told_states
from migration_assets.defs.slices import SliceAction, legacy_slice, migrated_slice
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.proof.deletions import confirmed_deletions
from migration_assets.readiness.readiness import accept_finding as accept
from migration_assets.readiness.step import broken_keys, preview_rollback, roll_back, rollback_begins
from migration_assets.runtime import Migration


class AcceptanceConfig(dg.Config):
    """Which finding, about what, and who answers for it."""

    code: str = Field(description="The finding's code, as preflight or cutover_readiness prints it.")
    subject: str = Field(description="The name of the one thing that the finding is about, as it is printed.")
    accepted_by: str = Field(description="The name of the person who answers for it; kept in the evidence.")
    reason: str = Field(description="Why it may be so.")


@dg.op(description="Keep the decision in the ledger and in the chain of evidence.")
def accept_one_finding(
    context: dg.OpExecutionContext, config: AcceptanceConfig, migration: dg.ResourceParam[Migration]
) -> None:
    """Refuses what neither the newest preflight nor readiness offers for acceptance."""
    with readable_failures():
        accept(
            migration,
            config.code,
            config.subject,
            by=config.accepted_by,
            reason=config.reason,
            run_id=context.run.run_id,
        )
    context.log.info("%s about %s is accepted by %s", config.code, config.subject, config.accepted_by)


@dg.job(  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    description=(
        "Go on in spite of one finding of preflight or cutover_readiness about one thing: it is shown as a warning from"
        " then on, with the name. `migration-assets accept … --withdraw` takes it back."
    ),
    tags={"dagster/max_retries": "0"},
    executor_def=dg.in_process_executor,
)
def accept_finding() -> None:
    """One step."""
    accept_one_finding()


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


class RollbackConfig(dg.Config):
    """Who answers for it."""

    approved_by: str = Field(description="The person's name.")

    confirm: str = Field(default="", description=CODE + " A run without it shows one, and fails: nothing is done yet.")


@dg.op(description="Hold the base, let everything arrive, compare, open the legacy; then the base follows again.")
def roll_back_to_legacy(
    context: dg.OpExecutionContext, config: RollbackConfig, migration: dg.ResourceParam[Migration]
) -> None:
    """Do it, and note it on the page of legacy_cutover.

    It is no asset: nothing new exists afterwards. Where only telling the applications failed, the rollback itself is
    noted as done and the run fails: green, everybody would go home while the applications are refused by the base.
    """
    refuse_retries(context, migration, "rollback")
    if config.approved_by.strip() and not config.confirm.strip():
        _look(context, migration)
    with readable_failures(), told_states(context) as on_state:
        done = roll_back(
            migration, config.approved_by, confirm=config.confirm, run_id=context.run.run_id, on_state=on_state
        )
    broken = "; ".join(broken_keys(migration, done.id)) or "none"
    metadata = {**record_metadata(done), "rows_that_point_nowhere": broken}
    context.log_event(dg.AssetObservation(legacy_cutover.key, description=result_of(done), metadata=metadata))
    if done.error:
        raise dg.Failure(
            description=f"The rollback is done and nothing was lost, but the applications were not told: {done.error}"
            "\nState left: the legacy is in charge and accepts writes; the base refuses them and follows it."
            "\nNext: switch the applications to the legacy now (run the hook by hand); do not roll back again.",
            metadata=record_metadata(done),
            allow_retries=False,
        )
    context.log.info(result_of(done))


def _look(context: dg.OpExecutionContext, migration: Migration) -> None:
    """Show what a rollback rests on, and its code; not where there is only one to finish that died.

    Raises:
        dg.Failure: Always then: green, somebody would take it for done.
    """
    with readable_failures():
        looked = preview_rollback(migration, context.run.run_id) if rollback_begins(migration) else None
    if looked is None:
        return
    found = [*looked.problems, *looked.broken]
    raise dg.Failure(
        description=f"Nothing was rolled back yet. {'; '.join(found) or 'Nothing is known that would stop it'}."
        "\nState left: nothing was changed, the base is in charge."
        f"\nNext: to do it, launch this job again with confirm: {looked.confirmation}",
        metadata={"confirm": str(looked.confirmation)},
        allow_retries=False,
    )


@dg.job(  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    description=(
        "Writes go back from the base to the legacy: the base is held, the reverse stream drained, both sides compared,"
        " the legacy opened, the applications told; then the base follows again. Possible until the legacy is"
        " decommissioned. What fails before the legacy is open is undone: the base stays in charge."
    ),
    tags={"dagster/max_retries": "0"},
    executor_def=dg.in_process_executor,
)
def rollback() -> None:
    """One step."""
    roll_back_to_legacy()


# One run a week, each in its own process: 13 weeks in one multiprocess run were measured three times slower.
def _job_of_weeks(
    name: str,
    *,
    selection: Sequence[dg.AssetsDefinition] | dg.AssetSelection,
    description: str,
    config: Mapping[str, Any] | None = None,
) -> Any:
    """A job over partitions of assets; each partition is a run in this process."""
    return dg.define_asset_job(  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
        name,
        selection=selection,
        config=dict(config) if config else None,
        description=description,
        executor_def=dg.in_process_executor,
    )


migrate_quarter = _job_of_weeks(
    "migrate_quarter",
    selection=[legacy_slice, migrated_slice],
    description="Measure and copy weeks. Choose a quarter and all its weeks; every week is a run of its own.",
)

verify_slices = _job_of_weeks(
    "verify_slices",
    selection=[migrated_slice],
    config={"ops": {"migrated_slice": {"config": {"action": SliceAction.VERIFY.name}}}},
    description=(
        "Read copied weeks in the base again and compare them with the copy's fingerprint; for weeks that are not yet"
        " under CDC, others want the job validate_slices. A week that differs fails."
        " To copy exactly those again: on the page of the asset migrated_slice, Materialize, only failed and missing."
    ),
)

validate_slices = _job_of_weeks(
    "validate_slices",
    selection=[validated_slice],
    description="Compare weeks under CDC with the legacy at a cut. A week that differs fails and lists the keys.",
)

repair_slices = _job_of_weeks(
    "repair_slices",
    selection=[validated_slice],
    config={"ops": {"validated_slice": {"config": {"action": ValidationAction.REPAIR.name, "dry_run": True}}}},
    description=(
        "Show what differs in weeks under CDC, as it stands; a week with differences fails and lists them. With"
        " dry_run: false mend exactly these rows, keep what was there before, and validate the week again in the same"
        " run: it turns green."
    ),
)

archive_slices = _job_of_weeks(
    "archive_slices",
    selection=[parquet_archive],
    description="Write signed-off weeks to Parquet and prove them by another engine; again where they are stale.",
)

verify_archives = _job_of_weeks(
    "verify_archives",
    selection=[parquet_archive],
    config={"ops": {"parquet_archive": {"config": {"action": ArchiveAction.REREAD.name}}}},
    description="Read archived files again, hash them, and let DuckDB compute their fingerprint. A changed byte fails.",
)

retire_slices = _job_of_weeks(
    "retire_slices",
    # Its check reads the legacy's week once more, which the step itself has just done.
    selection=dg.AssetSelection.assets(retired_slice).without_checks(),
    config={"ops": {"retired_slice": {"config": {"dry_run": True}}}},
    description=(
        "Show what stands in the way of weeks leaving the base, and the code of each that may. With dry_run: false and"
        " these codes as confirm they leave: into quarantine, and when that is over, with new codes, for good."
        " Destructive only then."
    ),
)

restore_slices = _job_of_weeks(
    "restore_slices",
    selection=[restored_slice],
    description="Bring retired weeks back as attached leaves, from quarantine or from Parquet, proven equal.",
)

restore_drill = _job_of_weeks(
    "restore_drill",
    selection=[restored_slice],
    config={"ops": {"restored_slice": {"config": {"action": RestoreAction.DRILL.name}}}},
    description="Restore archived weeks into a scratch table, compare, and drop it. Nothing in the base changes.",
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
