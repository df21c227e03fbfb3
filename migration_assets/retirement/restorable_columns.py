"""An archive's columns beside those that the table has now: what can be loaded, and how they are fingerprinted."""

from collections.abc import Sequence

from migration_assets.domain.errors import RestoreError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.stored_columns import StoredColumn, stored_columns
from migration_assets.domain.table_description import Column, TableDescription


def loadable_columns(week: FiscalWeek, columns: Sequence[StoredColumn], root: TableDescription) -> list[StoredColumn]:
    """Those that a COPY carries; what the table has got since gets its default.

    Raises:
        RestoreError: A column is gone, has another type, lost a label, or is computed by now.
    """
    there = {column.name: column for column in root.columns}
    labels = {column.name: column.labels for column in stored_columns(root)}
    problems: list[str] = []
    for column in columns:
        now = there.get(column.name)
        if now is None:
            problems.append(f"column {column.name} is gone")
        elif now.type_name != column.type_name:
            problems.append(f"column {column.name} was {column.type_name} and is {now.type_name}")
        elif now.is_generated != column.generated:
            problems.append(f"column {column.name} is generated on one side only")
        elif lost := [label for label in column.labels if label not in labels[column.name]]:
            named = ", ".join(map(repr, lost))
            problems.append(f"column {column.name} has a type ({column.type_name}) that lost the label {named}")
    if problems:
        raise RestoreError(
            "the table has changed since the slice was archived: " + "; ".join(problems),
            where=week.key,
            state_left="nothing was changed; the archive can still be queried",
            next_step="alter the table, or the type (ALTER TYPE ... RENAME VALUE), back, restore, and alter it again;"
            " or query the archive as it is",
        )
    return [column for column in columns if not column.generated]


def as_hashed(columns: Sequence[StoredColumn]) -> tuple[Column, ...]:
    """For the native fingerprint of the rows that were archived."""
    return tuple(
        Column(
            name=column.name,
            type_name=column.type_name,
            not_null=column.not_null,
            hashing=column.hashing,
            binary_copy=True,
            send_function=column.send_function,
        )
        for column in columns
    )
