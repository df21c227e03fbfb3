"""What a catalogue says of the table: columns, types, constraints, indexes. Read by `postgres/introspection.py`."""

import re
from dataclasses import dataclass
from enum import Enum

from migration_assets.domain.errors import TableSpecError
from migration_assets.domain.fiscal_calendar import ControlKind
from migration_assets.domain.table_spec import QualifiedName


class Hashing(Enum):
    """How a column enters a row's hash so that equal hash input means equal bytes."""

    NATIVE = "native"  # the type's own hash tells every two different values apart
    SEND = "send"  # the bytes that a binary COPY sends: the type's own equality is coarser (1.0 = 1.00)
    TEXT = "text"  # the text output: the bytes hold object ids that differ between databases


@dataclass(frozen=True)
class Column:
    """A live column; `type_name` is schema-qualified unless it is the system's, with its modifiers."""

    name: str
    type_name: str
    not_null: bool
    hashing: Hashing
    binary_copy: bool
    send_function: str | None = None
    base_type: str = ""
    default: str | None = None
    generated: str = ""
    identity: str = ""
    collation: str | None = None
    storage: str | None = None
    compression: str | None = None
    comment: str | None = None
    default_sequence: str | None = None

    @property
    def is_generated(self) -> bool:
        """Whether the value is computed from other columns, so that it cannot be copied into."""
        return bool(self.generated)

    @property
    def is_virtual(self) -> bool:
        """Whether the value is computed at every read (PostgreSQL 18)."""
        return self.generated == "v"


@dataclass(frozen=True)
class UserType:
    """A type that the table needs and that is not the system's."""

    name: str
    kind: str  # pg_type.typtype: e enum, d domain, c composite, r range, m multirange, b base
    labels: tuple[str, ...] = ()
    definition: str = ""  # of a domain: everything after CREATE DOMAIN name AS
    comment: str | None = None

    @property
    def can_be_created(self) -> bool:
        """Enums and domains are made on the base; others must be there already."""
        return self.kind in {"e", "d"}


@dataclass(frozen=True)
class Index:
    """A secondary index; `tail` is its definition from the access method on."""

    name: str
    unique: bool
    tail: str
    valid: bool
    key_columns: tuple[str, ...]
    comment: str | None = None

    def is_unique_with(self, control_column: str) -> bool:
        """Whether it may stay unique on a partitioned table, which wants the control column in every unique key."""
        return self.unique and control_column in self.key_columns


@dataclass(frozen=True)
class Check:
    """A CHECK constraint; `definition` is what follows CONSTRAINT name."""

    name: str
    definition: str
    comment: str | None = None


@dataclass(frozen=True)
class Sequence:
    """A sequence that a default or an identity column draws from; `options` fits CREATE SEQUENCE and IDENTITY (…)."""

    name: str
    type_name: str
    options: str


@dataclass(frozen=True)
class TableDescription:
    """One table as one server's catalogue describes it; what else hangs on it: `table_features`."""

    table: QualifiedName
    kind: str  # pg_class.relkind
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    indexes: tuple[Index, ...] = ()
    checks: tuple[Check, ...] = ()
    types: tuple[UserType, ...] = ()
    sequences: tuple[Sequence, ...] = ()
    comment: str | None = None

    def column(self, name: str) -> Column:
        """The column of that exact name.

        Raises:
            TableSpecError: There is none; lists those that are.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise TableSpecError(
            f"there is no column {name!r}",
            where=str(self.table),
            state_left="nothing was touched",
            next_step="set MIGRATION_CONTROL_COLUMN to one of: " + ", ".join(c.name for c in self.columns),
        )

    def control_kind(self, control_column: str) -> ControlKind:
        """The kind of the control column.

        Raises:
            TableSpecError: It is of another type than timestamptz, timestamp or date.
        """
        column = self.column(control_column)
        kinds = {
            "timestamp with time zone": ControlKind.TIMESTAMPTZ,
            "timestamp without time zone": ControlKind.TIMESTAMP,
            "date": ControlKind.DATE,
        }
        # A domain over one of the three serves as well; a precision such as (0) does not matter.
        kind = kinds.get(re.sub(r"\(\d+\)", "", column.base_type))
        if kind is None:
            raise TableSpecError(
                f"control column {control_column!r} has type {column.type_name}",
                where=str(self.table),
                state_left="nothing was touched",
                next_step="choose a column of type timestamptz, timestamp or date as MIGRATION_CONTROL_COLUMN",
            )
        return kind

    def base_primary_key(self, control_column: str) -> tuple[str, ...]:
        """The primary key extended by the control column, as a partitioned table wants it."""
        if control_column in self.primary_key:
            return self.primary_key
        return (*self.primary_key, control_column)

    @property
    def copied_columns(self) -> tuple[Column, ...]:
        """Those that a COPY carries: all but the generated ones, which the base computes again."""
        return tuple(column for column in self.columns if not column.is_generated)

    @property
    def binary_copy(self) -> bool:
        """Whether every copied column survives a binary COPY between two databases; else text is used."""
        return all(column.binary_copy for column in self.copied_columns)


def column_differences(legacy: TableDescription, base: TableDescription) -> list[str]:
    """What differs in the columns' order, names, types or generation; empty when data can flow. One line each.

    The base's NOT NULL is allowed to be stricter where the primary key was extended.
    """
    differences: list[str] = []
    if [c.name for c in legacy.columns] != [c.name for c in base.columns]:
        only_legacy = [c.name for c in legacy.columns if c.name not in {b.name for b in base.columns}]
        only_base = [c.name for c in base.columns if c.name not in {b.name for b in legacy.columns}]
        if only_legacy or only_base:
            differences.append(f"columns only in the legacy: {only_legacy}; only in the base: {only_base}")
        else:
            differences.append("the columns stand in another order")
    of_base = {column.name: column for column in base.columns}
    for column in legacy.columns:
        other = of_base.get(column.name)
        if other is None:
            continue
        if column.type_name != other.type_name:
            differences.append(f"{column.name}: {column.type_name} in the legacy, {other.type_name} in the base")
        elif column.hashing is not other.hashing:
            # A nondeterministic collation on one side: copying would work, comparing would not.
            differences.append(f"{column.name}: its values compare in another way (see the collations)")
        if column.is_generated != other.is_generated:
            differences.append(f"{column.name}: generated on one side only")
    labels = {t.name: t.labels for t in base.types}
    differences.extend(
        f"enum {t.name}: {list(t.labels)} in the legacy, {list(labels[t.name])} in the base"
        for t in legacy.types
        if t.kind == "e" and t.name in labels and set(t.labels) - set(labels[t.name])
    )
    return differences
