"""A named person's approval of a quarter."""

from typing import Any

import dagster as dg

from migration_assets.defs.assets.reconciled_quarter import reconciled_quarter
from migration_assets.defs.failures import readable_failures
from migration_assets.defs.labels import APPROVE, KINDS, OWNERS
from migration_assets.defs.partitions import fiscal_quarters, quarter_of
from migration_assets.evidence.approval import sign_off_quarter
from migration_assets.runtime import Migration


class SignOffConfig(dg.Config):
    """Who approves, and what that person adds."""

    approved_by: str
    """The person's name."""

    note: str = ""
    """Anything that belongs to the approval."""


@dg.asset(
    group_name=APPROVE,
    owners=OWNERS,
    kinds=KINDS,
    partitions_def=fiscal_quarters,
    deps=[reconciled_quarter],
    description=(
        "A named person approved what the ledger proves: 13 weeks validated since we last changed them, the quarter"
        " reconciled, the stream healthy. Refuses otherwise, and lists everything that is missing. The evidence is"
        " kept with its SHA-256. A later copy, repair or failed validation makes it void: its check still_stands, which"
        " can be run alone, says so. While the base is in charge nobody can sign: what was signed before stands."
    ),
)
def sign_off(
    context: dg.AssetExecutionContext, config: SignOffConfig, migration: dg.ResourceParam[Migration]
) -> dg.MaterializeResult[Any]:
    """Sign, or refuse."""
    with readable_failures():
        signed = sign_off_quarter(
            migration, quarter_of(context), config.approved_by, config.note, run_id=context.run.run_id
        )
    return dg.MaterializeResult(
        metadata={
            "result": dg.MetadataValue.text(
                f"signed off by {signed.approved_by} at {signed.signed_at:%Y-%m-%d %H:%M:%S} UTC"
            ),
            "approved_by": dg.MetadataValue.text(signed.approved_by),
            "note": dg.MetadataValue.text(signed.note or "none"),
            "signed_at": dg.MetadataValue.timestamp(signed.signed_at),
            "sha256": dg.MetadataValue.text(signed.sha256),
            "evidence": dg.MetadataValue.json(signed.evidence),
            "sign_off_id": dg.MetadataValue.int(signed.id),
        }
    )
