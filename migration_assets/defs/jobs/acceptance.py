"""The job `accept_finding`: a person answers for a finding that blocks."""

import dagster as dg
from pydantic import Field

from migration_assets.defs.failures import readable_failures
from migration_assets.readiness.accepting import accept_finding as accept
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
