"""The assets of the cutover: its readiness, the writes moved to the base, and the legacy made inactive.

Making the legacy inactive is the only step without a way back.
"""

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any

import dagster as dg
from pydantic import Field

from migration_assets.decommission.step import Decommissioning, decommission
from migration_assets.defs.failures import readable_failures
from migration_assets.defs.partitions import CUT_OVER, KINDS, OWNERS
from migration_assets.defs.proofs import sign_off
from migration_assets.defs.resources import CODE
from migration_assets.defs.shown import (
    Metadata,
    findings_table,
    logged_states,
    record_metadata,
    refuse_retries,
    result_of,
    table,
)
from migration_assets.domain.findings import Severity
from migration_assets.domain.plain_text import for_chat
from migration_assets.domain.states import CutoverKind, Scope
from migration_assets.readiness.readiness import examine_cutover
from migration_assets.readiness.step import NotReadyError, cut_over, give_code_for
from migration_assets.runtime import Migration

_READINESS = "cutover_readiness"
_READY = "ready_for_cutover"


@dg.asset(
    name=_READINESS,
    deps=[sign_off],
    group_name=CUT_OVER,
    owners=OWNERS,
    kinds=KINDS,
    description=(
        "Both databases were examined for the cutover: sign-offs of every quarter that holds rows, rows outside the"
        " base's weeks, the change stream, sequences, privileges, indexes and constraints, statistics, open"
        " transactions, settings, extensions. Every finding has its evidence and its remedy. Changes nothing."
    ),
    check_specs=[
        dg.AssetCheckSpec(
            _READY,
            asset=_READINESS,
            description="No finding blocks the cutover. Warnings need a decision and do not stop it.",
        )
    ],
)
def cutover_readiness(
    context: dg.AssetExecutionContext,
    migration: dg.ResourceParam[Migration],
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """Examine both sides; fail if a finding blocks the cutover."""
    with readable_failures():
        examined = examine_cutover(migration)
        code = give_code_for(migration, CutoverKind.CUTOVER, context.run.run_id) if examined.ready else None
    stops = [one for one in examined.findings if one.severity is Severity.BLOCKING]
    check = dg.AssetCheckResult(
        check_name=_READY,
        asset_key=_READINESS,
        passed=examined.ready,
        description="; ".join(f"{one.code}: {one.evidence}" for one in stops) or None,
        metadata={"findings": findings_table(stops)},
    )
    if stops:
        yield check
        raise dg.Failure(
            description="; ".join(f"{one.code}: {one.evidence} Remedy: {one.remedy}" for one in stops),
            metadata={"findings": findings_table(examined.findings)},
            allow_retries=False,
        )
    warnings = sum(one.severity is Severity.WARNING for one in examined.findings)
    yield dg.MaterializeResult(
        metadata={
            "findings": findings_table(examined.findings),
            "blocking": dg.MetadataValue.int(0),
            "warnings": dg.MetadataValue.int(warnings),
            "confirm": dg.MetadataValue.text(str(code)),
        },
        check_results=[check],
    )


class LegacyCutoverConfig(dg.Config):
    """Who approves the cutover, and whether it is only rehearsed."""

    approved_by: str = Field(description="The name of the person who approves the cutover.")
    rehearse: bool = Field(
        default=True,
        description="Do everything except opening the base, measure how long writes are held, and go back.",
    )
    confirm: str = Field(default="", description=CODE + " A rehearsal and cutover_readiness show one.")


@dg.asset(
    deps=[cutover_readiness],
    group_name=CUT_OVER,
    owners=OWNERS,
    kinds=KINDS,
    output_required=False,
    description=(
        "The base is the system of record: readiness was examined again, writes were held on the legacy, all of them"
        " arrived, both sides were compared, sequences were set, the reverse stream was running, the base was opened,"
        " and the applications were switched. A cutover that fails, takes longer than"
        " MIGRATION_CUTOVER_TIMEOUT_SECONDS or is terminated before the base is open is undone: writes continue on the"
        " legacy. A rehearsal is the default: it leaves an observation with the downtime and changes nothing. The job"
        " rollback goes back. Its two checks can be run alone."
    ),
)
def legacy_cutover(
    context: dg.AssetExecutionContext, config: LegacyCutoverConfig, migration: dg.ResourceParam[Migration]
) -> Iterator[dg.MaterializeResult[Any]]:
    """Rehearse the cutover, or do it."""
    refuse_retries(context, migration, "cutover")
    with readable_failures(), logged_states(context) as on_state:
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
            findings = {"findings": findings_table(error.findings)}
            raise dg.Failure(description=str(error), metadata=findings, allow_retries=False) from None
    if config.rehearse:
        # No materialization: while the legacy is in charge, the asset must not look as if the writes had moved.
        metadata = {**record_metadata(done), "confirm": str(done.confirmation)}
        context.log_event(dg.AssetObservation(context.asset_key, description=result_of(done), metadata=metadata))
        return
    yield dg.MaterializeResult(metadata=record_metadata(done))


class DecommissionScope(Enum):
    """What of the legacy is closed."""

    AUTOMATIC = "automatic"
    """The whole database if nothing else is in it, otherwise the table."""

    DATABASE = "database"
    """Only our roles may connect, and the database is read-only. Refused if other tables are in it."""

    TABLE = "table"
    """Only the owner keeps privileges on the table."""


_SCOPES: Mapping[DecommissionScope, Scope | None] = {
    DecommissionScope.AUTOMATIC: None,
    DecommissionScope.DATABASE: "database",
    DecommissionScope.TABLE: "table",
}


class DecommissionConfig(dg.Config):
    """Who approves the decommission, what is closed, and whether it really happens."""

    approved_by: str = Field(description="The name of the person who approves the decommission.")
    note: str = Field(default="", description="Anything that belongs to the approval.")
    dry_run: bool = Field(default=True, description="Only show what would be done and what stands in the way.")
    confirm: str = Field(default="", description=CODE)
    scope: DecommissionScope = Field(
        default=DecommissionScope.AUTOMATIC,
        description="What is closed: DATABASE, TABLE, or AUTOMATIC: the database if nothing else is in it, otherwise"
        " the table.",
    )
    accept_stale: bool = Field(
        default=False,
        description="Do not require an intact reverse stream: for one that was lost, so that no rollback is possible.",
    )


@dg.asset(
    group_name=CUT_OVER,
    owners=OWNERS,
    kinds=KINDS,
    deps=[legacy_cutover],
    output_required=False,
    description=(
        "The legacy is inactive: its last fingerprints are in the ledger and in the chain of evidence, applications can"
        " neither read nor write it, and the reverse stream is removed. Refuses until the rollback window is over,"
        " nobody has read the legacy for MIGRATION_LEGACY_QUIET_DAYS, archives are verified and the evidence is"
        " complete. There is no rollback afterwards; the data itself is never deleted by us. A dry run is the default:"
        " it leaves an observation with everything that stands in the way."
    ),
)
def decommissioned_legacy(
    context: dg.AssetExecutionContext, config: DecommissionConfig, migration: dg.ResourceParam[Migration]
) -> Iterator[dg.MaterializeResult[Any]]:
    """Close the legacy, or show what stands in the way."""
    with readable_failures():
        done = decommission(
            migration,
            config.approved_by,
            note=config.note,
            scope=_SCOPES[config.scope],
            dry_run=config.dry_run,
            confirm=config.confirm,
            accept_stale=config.accept_stale,
            run_id=context.run.run_id,
            on_step=context.log.info,
        )
    if config.dry_run and not done.done:
        # No materialization: a legacy that is still open must not look closed.
        context.log_event(
            dg.AssetObservation(
                asset_key=context.asset_key,
                description="; ".join(one.what for one in done.obstacles) or "nothing stands in the way",
                metadata=_plan_metadata(done),
            )
        )
        return
    yield dg.MaterializeResult(metadata=_result_metadata(done))


def _plan_metadata(done: Decommissioning) -> Metadata:
    return {
        "scope": dg.MetadataValue.text(f"{done.scope}: {done.why}"),
        "obstacles": dg.MetadataValue.md(_listed(str(one) for one in done.obstacles)),
        "would_be_done": dg.MetadataValue.md(_listed(done.steps)),
        **({"confirm": dg.MetadataValue.text(str(done.confirmation))} if done.confirmation else {}),
    }


def _result_metadata(done: Decommissioning) -> Metadata:
    record = done.record
    if record is None:
        return {}
    final = record.final
    metadata: Metadata = {
        "scope": dg.MetadataValue.text(f"{done.scope}: {done.why}"),
        "approved_by": dg.MetadataValue.text(record.approved_by),
        "note": dg.MetadataValue.text(record.note or "none"),
        "final_fingerprints": _fingerprints(final),
        "dagster/row_count": dg.MetadataValue.int(int(final["total"]["rows"])),
        "to_open_it_again": dg.MetadataValue.md("\n".join(("```sql", *done.reopening, "```"))),
        "still_open": dg.MetadataValue.md(_listed(done.still_open)),
        "to_take_back_on_the_base": dg.MetadataValue.md("\n".join(("```sql", *done.needless, "```"))),
    }
    if record.finished_at is not None:
        metadata["finished_at"] = dg.MetadataValue.timestamp(record.finished_at)
    return metadata


def _fingerprints(final: Mapping[str, Any]) -> dg.TableMetadataValue:
    parts = {**final["weeks"], "outside every week": final["outside"], "total": final["total"]}
    columns = ("rows", "sum_a", "sum_b")
    return table(
        ("week", *columns), ({"week": week} | {name: one[name] for name in columns} for week, one in parts.items())
    )


def _listed(lines: Iterable[object]) -> str:
    return "\n".join(f"- {for_chat(str(one))}" for one in lines) or "none"
