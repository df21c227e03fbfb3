"""The legacy made inactive: the only point of no return."""

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

import dagster as dg
from pydantic import Field

from migration_assets.decommission.step import Decommissioning, decommission
from migration_assets.defs.assets.legacy_cutover import legacy_cutover
from migration_assets.defs.confirmations import CODE
from migration_assets.defs.failures import readable_failures
from migration_assets.defs.labels import CUT_OVER, KINDS, OWNERS
from migration_assets.defs.metadata import Metadata
from migration_assets.defs.proofs import table
from migration_assets.domain.decommission_state import Scope
from migration_assets.domain.plain_text import for_chat
from migration_assets.runtime import Migration


class DecommissionScope(Enum):
    """What is closed."""

    AUTOMATIC = "automatic"
    """The whole database where nothing else is in it, else the table alone."""

    DATABASE = "database"
    """Nobody may connect but us; it is read-only. Refused where other tables are in it."""

    TABLE = "table"
    """Nobody but its owner has a privilege on the table."""


_SCOPES: Mapping[DecommissionScope, Scope | None] = {
    DecommissionScope.AUTOMATIC: None,
    DecommissionScope.DATABASE: "database",
    DecommissionScope.TABLE: "table",
}


class DecommissionConfig(dg.Config):
    """Who answers for it, and whether it really happens."""

    approved_by: str
    """The person's name."""

    note: str = ""
    """Anything that belongs to the approval."""

    dry_run: bool = True
    """Only say what would be done, and what stands in the way."""

    confirm: str = Field(default="", description=CODE)

    scope: DecommissionScope = DecommissionScope.AUTOMATIC
    """What is closed: the database, or the table alone."""

    accept_stale: bool = False
    """The reverse stream need not be whole: for one that was lost, so that no rollback is possible any more."""


@dg.asset(
    group_name=CUT_OVER,
    owners=OWNERS,
    kinds=KINDS,
    deps=[legacy_cutover],
    output_required=False,
    description=(
        "The legacy is inactive: its last fingerprints are in the ledger and in the chain of evidence, applications can"
        " neither connect to nor read nor write it, the reverse stream is gone. Refuses until the rollback window is"
        " over, nobody has read the legacy for MIGRATION_LEGACY_QUIET_DAYS, archives are verified and the evidence is"
        " complete. There is no rollback afterwards; the data itself is never deleted by us. A dry run by default,"
        " which leaves an observation with everything that stands in the way."
    ),
)
def decommissioned_legacy(
    context: dg.AssetExecutionContext, config: DecommissionConfig, migration: dg.ResourceParam[Migration]
) -> Iterator[dg.MaterializeResult[Any]]:
    """Close it, or say what stands in the way."""
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
        # No materialization: a legacy that is open must not look as if it were closed.
        context.log_event(
            dg.AssetObservation(
                asset_key=context.asset_key,
                description="; ".join(one.what for one in done.obstacles) or "nothing stands in the way",
                metadata=_plan(done),
            )
        )
        return
    yield dg.MaterializeResult(metadata=_deed(done))


def _plan(done: Decommissioning) -> Metadata:
    return {
        "scope": dg.MetadataValue.text(f"{done.scope}: {done.why}"),
        "obstacles": dg.MetadataValue.md(_listed(str(one) for one in done.obstacles)),
        "would_be_done": dg.MetadataValue.md(_listed(done.steps)),
        **({"confirm": dg.MetadataValue.text(str(done.confirmation))} if done.confirmation else {}),
    }


def _deed(done: Decommissioning) -> Metadata:
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


def _listed(lines: Any) -> str:
    return "\n".join(f"- {for_chat(str(one))}" for one in lines) or "none"
