"""The jobs that a person launches by name: over weeks of the assets, and three single acts that are no assets.

The single acts are `accept_finding` (go on in spite of a finding), `repair_legacy` (make the legacy's rows equal to the
base's while the base is in charge) and `rollback` (move the writes back to the legacy).
"""

from functools import partial

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
from migration_assets.defs.shown import logged_states, record_metadata, refuse_retries, result_of
from migration_assets.defs.slices import SliceAction, legacy_slice, migrated_slice
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.proof.deletions import confirmed_deletions
from migration_assets.readiness.readiness import accept_finding as accept
from migration_assets.readiness.step import broken_keys, preview_rollback, roll_back, rollback_begins
from migration_assets.runtime import Migration

# One run a week, each in its own process: 13 weeks in one multiprocess run were measured three times slower.
_asset_job = partial(
    dg.define_asset_job,  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    executor_def=dg.in_process_executor,
)
# A machine must not repeat what a person decided.
_deed = partial(
    dg.job,  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    tags={"dagster/max_retries": "0"},
    executor_def=dg.in_process_executor,
)


class AcceptanceConfig(dg.Config):
    """Which finding is accepted, about what, by whom and why."""

    code: str = Field(description="The finding's code, as preflight or cutover_readiness prints it.")
    subject: str = Field(description="The name of the one thing that the finding is about, as printed.")
    accepted_by: str = Field(description="The name of the person who answers for it; kept in the evidence.")
    reason: str = Field(description="Why the finding is acceptable.")


@dg.op(description="Record the decision in the ledger and in the chain of evidence.")
def accept_one_finding(
    context: dg.OpExecutionContext, config: AcceptanceConfig, migration: dg.ResourceParam[Migration]
) -> None:
    """Record the acceptance; refuse a finding that neither the newest preflight nor readiness offers for it."""
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


@_deed(
    description=(
        "Go on in spite of one finding of preflight or cutover_readiness about one thing. From then on it is shown as a"
        " warning, with the person's name. `migration-assets accept … --withdraw` takes it back."
    ),
)
def accept_finding() -> None:
    """One step."""
    accept_one_finding()


class LegacyRepairConfig(dg.Config):
    """Which weeks are compared, and whether the legacy is changed."""

    weeks: list[str] = Field(description="The weeks, as FY25-Q2|W05. Name all that differ at once.")
    dry_run: bool = Field(default=True, description="Only show what differs; with false repair it on the legacy.")
    confirm_deletes: dict[str, int] = Field(default={}, description=CONFIRM)
    confirm: str = Field(default="", description=CODE_OF_REFUSAL)


@dg.op(description="Compare weeks at a cut of the reverse stream; with dry_run: false repair the legacy's rows.")
def repair_legacy_slices(
    context: dg.OpExecutionContext, config: LegacyRepairConfig, migration: dg.ResourceParam[Migration]
) -> None:
    """Compare or repair; observe a repair on legacy_cutover. The log has keys and column names, never values."""
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
    result = "; ".join(_line(one) for one in differing) or f"{len(done)} weeks of the legacy equal the base"
    if not config.dry_run:
        context.log_event(dg.AssetObservation(legacy_cutover.key, description=f"Repair of the legacy: {result}"))
    elif differing:
        raise dg.Failure(
            description=f"The legacy differs from the base: {result}\nState left: nothing was changed."
            "\nNext: launch this job again with dry_run: false; the rows are in this run's log.",
            allow_retries=False,
        )


def _line(one: LegacyRepaired) -> str:
    if not one.differences.rows:
        return f"{one.week.key}: equal, {one.base.rows:,} rows"
    repaired = f", repaired by repair {one.repair_id}" if one.repair_id else ""
    return f"{one.week.key}: {one.differences} on the legacy{repaired}"


@_deed(
    name="repair_legacy",
    description=(
        "While the base is in charge: show which rows of the weeks differ between legacy and base, at a cut of the"
        " reverse stream. With dry_run: false make exactly these rows on the legacy equal to the base's. The ledger"
        " keeps the rows as they were before. A rollback finds the weeks equal afterwards."
    ),
)
def repair_legacy_job() -> None:
    """One step."""
    repair_legacy_slices()


class RollbackConfig(dg.Config):
    """Who approves the rollback."""

    approved_by: str = Field(description="The name of the person who approves the rollback.")

    confirm: str = Field(
        default="", description=CODE + " A run without a code shows one and fails; nothing is done yet."
    )


@dg.op(description="Hold the base, drain the reverse stream, compare, open the legacy; then the base follows again.")
def roll_back_to_legacy(
    context: dg.OpExecutionContext, config: RollbackConfig, migration: dg.ResourceParam[Migration]
) -> None:
    """Roll back, and record an observation on legacy_cutover.

    This is an op and no asset, since nothing new exists afterwards. If only switching the applications failed, the
    observation says that the rollback is done, and the run fails: a green run would hide that the base refuses the
    applications.
    """
    refuse_retries(context, migration, "rollback")
    if config.approved_by.strip() and not config.confirm.strip():
        _show_preview(context, migration)
    with readable_failures(), logged_states(context) as on_state:
        done = roll_back(
            migration, config.approved_by, confirm=config.confirm, run_id=context.run.run_id, on_state=on_state
        )
    broken = "; ".join(broken_keys(migration, done.id)) or "none"
    metadata = {**record_metadata(done), "rows_that_point_nowhere": broken}
    context.log_event(dg.AssetObservation(legacy_cutover.key, description=result_of(done), metadata=metadata))
    if done.error:
        raise dg.Failure(
            description=f"The rollback is done and nothing was lost, but the applications were not told: {done.error}"
            "\nState left: the legacy is in charge and accepts writes; the base refuses writes and follows the legacy."
            "\nNext: switch the applications to the legacy now (run the hook by hand); do not roll back again.",
            metadata=record_metadata(done),
            allow_retries=False,
        )
    context.log.info(result_of(done))


def _show_preview(context: dg.OpExecutionContext, migration: Migration) -> None:
    """Show what the rollback depends on, and its code. Does nothing where an interrupted rollback is only finished.

    Raises:
        dg.Failure: Always after showing it: a green run could be taken for a rollback that was done.
    """
    with readable_failures():
        preview = preview_rollback(migration, context.run.run_id) if rollback_begins(migration) else None
    if preview is None:
        return
    found = [*preview.problems, *preview.broken]
    raise dg.Failure(
        description=f"Nothing was rolled back yet. {'; '.join(found) or 'No known problem would stop it'}."
        "\nState left: nothing was changed, the base is in charge."
        f"\nNext: to do it, launch this job again with confirm: {preview.confirmation}",
        metadata={"confirm": str(preview.confirmation)},
        allow_retries=False,
    )


@_deed(
    description=(
        "Move writes back from the base to the legacy: the base is held, the reverse stream is drained, both sides are"
        " compared, the legacy is opened, the applications are switched; then the base follows the legacy again."
        " Possible until the legacy is decommissioned. A failure before the legacy is open is undone: the base stays"
        " in charge."
    ),
)
def rollback() -> None:
    """One step."""
    roll_back_to_legacy()


migrate_quarter = _asset_job(
    "migrate_quarter",
    selection=[legacy_slice, migrated_slice],
    description="Measure and copy weeks. Choose a quarter and all its weeks; each week is a separate run.",
)

verify_slices = _asset_job(
    "verify_slices",
    selection=[migrated_slice],
    config={"ops": {"migrated_slice": {"config": {"action": SliceAction.VERIFY.name}}}},
    description=(
        "Read copied weeks in the base again and compare them with the copy's fingerprint. For weeks that are not yet"
        " under CDC; for the others use the job validate_slices. A week that differs fails."
        " To copy exactly those again: on the page of the asset migrated_slice, Materialize, only failed and missing."
    ),
)

validate_slices = _asset_job(
    "validate_slices",
    selection=[validated_slice],
    description="Compare weeks under CDC with the legacy at a cut. A week that differs fails and lists the keys.",
)

repair_slices = _asset_job(
    "repair_slices",
    selection=[validated_slice],
    config={"ops": {"validated_slice": {"config": {"action": ValidationAction.REPAIR.name, "dry_run": True}}}},
    description=(
        "Show what differs in weeks under CDC. With dry_run: true (the default) a week with differences fails and lists"
        " them. With dry_run: false exactly these rows are repaired, the ledger keeps the rows as they were before, and"
        " the same run validates the week again, so that it turns green."
    ),
)

archive_slices = _asset_job(
    "archive_slices",
    selection=[parquet_archive],
    description="Write signed-off weeks to Parquet and prove them with a second engine; write stale archives again.",
)

verify_archives = _asset_job(
    "verify_archives",
    selection=[parquet_archive],
    config={"ops": {"parquet_archive": {"config": {"action": ArchiveAction.REREAD.name}}}},
    description="Read archived files again, hash them, and let DuckDB compute their fingerprint. A changed byte fails.",
)

retire_slices = _asset_job(
    "retire_slices",
    # The check would read the legacy's week again, which the step itself has just done.
    selection=dg.AssetSelection.assets(retired_slice).without_checks(),
    config={"ops": {"retired_slice": {"config": {"dry_run": True}}}},
    description=(
        "Show what prevents weeks from leaving the base, and the code of each week that may leave. With dry_run: false"
        " and these codes as confirm they go into quarantine; when the quarantine is over, a second run with new codes"
        " drops them. Only that second run is destructive."
    ),
)

restore_slices = _asset_job(
    "restore_slices",
    selection=[restored_slice],
    description="Bring retired weeks back as attached leaves, from quarantine or from Parquet, proven equal.",
)

restore_drill = _asset_job(
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
