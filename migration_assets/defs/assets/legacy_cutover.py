"""The applications' writes moved to the base."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from migration_assets.defs.assets.cutover_readiness import cutover_readiness, findings_table
from migration_assets.defs.confirmations import CODE
from migration_assets.defs.cutover_records import record_metadata, refuse_retries, result_of, told_states
from migration_assets.defs.failures import readable_failures
from migration_assets.defs.labels import CUT_OVER, KINDS, OWNERS
from migration_assets.readiness.step import NotReadyError, cut_over
from migration_assets.runtime import Migration


class LegacyCutoverConfig(dg.Config):
    """Who answers for it, and whether it is meant."""

    approved_by: str
    """The person's name."""

    rehearse: bool = True
    """Do everything but open the base, measure it, and go back."""

    confirm: str = Field(default="", description=CODE + " A rehearsal and cutover_readiness show one.")


@dg.asset(
    deps=[cutover_readiness],
    group_name=CUT_OVER,
    owners=OWNERS,
    kinds=KINDS,
    output_required=False,
    description=(
        "The base is the system of record: readiness was looked at once more, writes were held on the legacy, all of"
        " them arrived, both sides were compared, sequences were set, the reverse stream ran, the base was opened, and"
        " the applications were told. Whatever fails before the base is open, or takes longer than"
        " MIGRATION_CUTOVER_TIMEOUT_SECONDS, or is terminated, is undone: writes go on on the legacy. A rehearsal by"
        " default: it leaves an observation with the downtime and changes nothing. The job rollback goes back. Its two"
        " checks can be run alone."
    ),
)
def legacy_cutover(
    context: dg.AssetExecutionContext, config: LegacyCutoverConfig, migration: dg.ResourceParam[Migration]
) -> Iterator[dg.MaterializeResult[Any]]:
    """Rehearse it, or do it."""
    refuse_retries(context, migration, "cutover")
    with readable_failures(), told_states(context) as on_state:
        try:
            done = cut_over(
                migration,
                config.approved_by,
                rehearse=config.rehearse,
                confirm=config.confirm,
                run_id=context.run.run_id,
                on_state=on_state,
            )
        except NotReadyError as error:
            table = {"findings": findings_table(error.findings)}
            raise dg.Failure(description=str(error), metadata=table, allow_retries=False) from None
    if config.rehearse:
        # No materialization: a legacy that is still in charge must not look as if it had been left.
        metadata = {**record_metadata(done), "confirm": str(done.confirmation)}
        context.log_event(dg.AssetObservation(context.asset_key, description=result_of(done), metadata=metadata))
        return
    yield dg.MaterializeResult(metadata=record_metadata(done))
