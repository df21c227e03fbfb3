"""The job `rollback`: writes go back to the legacy, with all that was written to the base."""

import dagster as dg
from pydantic import Field

from migration_assets.defs.assets.legacy_cutover import legacy_cutover
from migration_assets.defs.confirmations import CODE
from migration_assets.defs.cutover_records import record_metadata, refuse_retries, result_of, told_states
from migration_assets.defs.failures import readable_failures
from migration_assets.readiness.step import (
    broken_keys,
    preview_rollback,
    roll_back,
    rollback_begins,
)
from migration_assets.runtime import Migration


class RollbackConfig(dg.Config):
    """Who answers for it."""

    approved_by: str
    """The person's name."""

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
