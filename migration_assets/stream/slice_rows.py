"""From a slice in the ledger to the rows that are compared; and whether both tables are still the same."""

from migration_assets.domain.errors import StreamError
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.ledger.slices import SliceRecord
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import Connected
from migration_assets.quarters.base_table import require_root
from migration_assets.stream.buckets import SliceRows
from migration_assets.stream.plan import StreamPlan


def slice_rows(
    plan: StreamPlan, description: TableDescription, record: SliceRecord, target: QualifiedName | None = None
) -> SliceRows:
    """The slice's rows through the base's root, which is what applications read, unless `target` says otherwise."""
    bounds = plan.calendar.bound_values(record.week, description.control_kind(plan.spec.control_column))
    expected = max(side.rows for side in (record.legacy, record.base) if side) if record.legacy and record.base else 0
    leaf = target or plan.spec.table.sibling(record.leaf)
    return SliceRows(description, plan.spec, bounds, target or plan.spec.table, leaf, expected)


def same_table(plan: StreamPlan, legacy: Connected, base: Connected) -> TableDescription:
    """The legacy's table, which the base's root must match.

    Raises:
        TableSpecError: One of them does not exist.
        PartitionError: They differ: a column was added or changed on one side.
    """
    description = require_table(legacy, plan.spec.table, "legacy")
    require_root(base, require_table(base, plan.spec.table, "base"), description, plan.spec)
    return description


def table_before_cut(plan: StreamPlan, base: Connected, purpose: str) -> TableDescription:
    """As `same_table`, before anybody is held: a stream that stands because of a new column is never waited for.

    Raises:
        TableSpecError: One of them does not exist.
        PartitionError: They differ.
    """
    with plan.databases.session("legacy", purpose) as legacy:
        return same_table(plan, legacy, base)


def require_unaltered(
    plan: StreamPlan, legacy: Connected, base: Connected, description: TableDescription, where: str
) -> None:
    """Where a difference was found: that it is not one of the table itself, altered since it was described.

    Raises:
        StreamError: It was altered, on both sides.
        PartitionError: It was altered, on one side.
    """
    if same_table(plan, legacy, base) != description:
        raise StreamError(
            "the table was altered while it was being compared",
            where=where,
            state_left="nothing was changed; nothing was noted",
            next_step="run this again",
        )
