"""The places of a quarter's 13 weeks in the base."""

from typing import Any

import dagster as dg

from migration_assets.defs.assets.preflight import preflight
from migration_assets.defs.failures import readable_failures
from migration_assets.defs.labels import KINDS, OWNERS, PREPARE
from migration_assets.defs.metadata import schema_metadata
from migration_assets.defs.partitions import fiscal_quarters, quarter_of
from migration_assets.quarters.opening import open_quarter
from migration_assets.runtime import Migration


@dg.asset(
    group_name=PREPARE,
    owners=OWNERS,
    kinds=KINDS,
    partitions_def=fiscal_quarters,
    deps=[preflight],
    description=(
        "The quarter's partition and its 13 leaves exist in the base, made from the legacy's own catalogue: no default"
        " partition, primary key extended by the control column. While the base is in charge its own table is the"
        " pattern, and nobody asks the legacy. Safe to repeat."
    ),
)
def quarter_partitions(
    context: dg.AssetExecutionContext, migration: dg.ResourceParam[Migration]
) -> dg.MaterializeResult[Any]:
    """Open the quarter."""
    with readable_failures():
        opened, description = open_quarter(migration, quarter_of(context))
    return dg.MaterializeResult(
        metadata={
            "partition": dg.MetadataValue.text(str(opened.table)),
            "leaves": dg.MetadataValue.int(len(opened.leaves)),
            "leaves_created_now": dg.MetadataValue.int(len(opened.created)),
            **schema_metadata(description),
        }
    )
