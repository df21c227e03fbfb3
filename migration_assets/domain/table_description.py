"""The description of a table as the catalogue gives it, and the differences between legacy and base."""

import re
from dataclasses import dataclass
from enum import Enum, StrEnum

from migration_assets.domain.errors import TableSpecError
from migration_assets.domain.fiscal_calendar import ControlKind
from migration_assets.domain.table_spec import QualifiedName, parse_identifiers, quote_identifier, quote_text
from migration_assets.domain.user_types import (
    Collation,
    TypeDifference,
    UserType,
    collation_differences,
    type_differences,
)


class Hashing(Enum):
    """How a column's value enters a row's hash, so that equal input means equal bytes."""

    NATIVE = "native"  # by the type's own hash, which distinguishes all different values
    SEND = "send"  # by the bytes of a binary COPY, because the type's own equality is coarser (1.0 = 1.00)
    TEXT = "text"  # by the text output, because the bytes contain object ids that differ between databases


@dataclass(frozen=True)
class Column:
    """A column; `type_name` has its modifiers, and its schema unless it is a type of PostgreSQL itself."""

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
        """Whether the value is computed from other columns, so that it cannot be written."""
        return bool(self.generated)

    @property
    def is_virtual(self) -> bool:
        """Whether the value is computed on every read (PostgreSQL 18)."""
        return self.generated == "v"


@dataclass(frozen=True)
class Index:
    """A secondary index; `tail` is its definition from the access method on, `constraint` that of its constraint."""

    name: str
    unique: bool
    tail: str
    valid: bool
    key_columns: tuple[str, ...]
    comment: str | None = None
    constraint: str = ""

    @property
    def deferrable(self) -> str:
        """The definition of its constraint if that is deferrable; else empty."""
        return self.constraint if " DEFERRABLE" in self.constraint else ""

    def is_unique_with(self, control_column: str) -> bool:
        """Whether it can be unique on a partitioned table: every unique key must contain the control column."""
        return self.unique and control_column in self.key_columns


@dataclass(frozen=True)
class Check:
    """A CHECK constraint; `definition` is what follows CONSTRAINT name."""

    name: str
    definition: str
    comment: str | None = None


@dataclass(frozen=True)
class Sequence:
    """A sequence that new rows draw from; `options` fits CREATE SEQUENCE and IDENTITY (…)."""

    name: str
    type_name: str
    options: str


class Drawn(StrEnum):
    """What makes new rows draw from a sequence."""

    IDENTITY = "identity"
    DEFAULT = "default"  # the column's default names the sequence
    OWNED = "owned"  # it is only OWNED BY the column: the application draws from it
    FUNCTION = "function"  # a function that the column's default calls names it
    TRIGGER = "trigger"  # a trigger's function names it; the column is not known


@dataclass(frozen=True)
class SequenceUse:
    """One sequence, the column that it fills (None if unknown), and what draws from it."""

    sequence: str
    column: str | None
    how: Drawn
    via: str = ""


@dataclass(frozen=True)
class TableDescription:
    """One table as one server's catalogue describes it.

    `sequence_uses` says what draws from which of `sequences`; `unknown_draws` lists functions that draw from a sequence
    which their text does not name.
    """

    table: QualifiedName
    kind: str  # pg_class.relkind
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    primary_key_name: str = ""
    primary_key_deferral: str = ""
    indexes: tuple[Index, ...] = ()
    checks: tuple[Check, ...] = ()
    types: tuple[UserType, ...] = ()
    collations: tuple[Collation, ...] = ()
    sequences: tuple[Sequence, ...] = ()
    sequence_uses: tuple[SequenceUse, ...] = ()
    unknown_draws: tuple[str, ...] = ()
    comment: str | None = None

    def equality(self, name: str) -> str:
        """The SQL operator by which a key compares two values of the column.

        The operator of an extension's type lies in the extension's schema, which our search path does not contain, so
        it is schema-qualified.
        """
        of = self.column(name).base_type
        for one in self.types:
            if one.kind == "b" and (of == one.name or of.startswith(f"{one.name}(")):
                return f"OPERATOR({quote_identifier(parse_identifiers(one.name)[0])}.=)"
        return "="

    def column(self, name: str) -> Column:
        """The column of exactly this name.

        Raises:
            TableSpecError: There is no such column; the error lists the existing ones.
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
            TableSpecError: The column is generated, or its type is not timestamptz, timestamp or date.
        """
        column = self.column(control_column)
        if column.is_generated:
            raise TableSpecError(
                f"control column {control_column!r} is generated, and PostgreSQL cannot partition by such a column",
                where=str(self.table),
                state_left="nothing was touched",
                next_step="choose another column as MIGRATION_CONTROL_COLUMN: an ordinary one of type timestamptz,"
                " timestamp or date that the application fills",
            )
        kinds = {
            "timestamp with time zone": ControlKind.TIMESTAMPTZ,
            "timestamp without time zone": ControlKind.TIMESTAMP,
            "date": ControlKind.DATE,
        }
        # A domain over one of the three also works; a precision such as (0) does not matter.
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
        """The primary key extended by the control column, as a partitioned table requires."""
        if control_column in self.primary_key:
            return self.primary_key
        return (*self.primary_key, control_column)

    @property
    def copied_columns(self) -> tuple[Column, ...]:
        """The columns that a COPY carries: all except generated ones, which the base computes again."""
        return tuple(column for column in self.columns if not column.is_generated)

    @property
    def binary_copy(self) -> bool:
        """Whether a binary COPY between two databases preserves every copied column; if not, text is used."""
        return all(column.binary_copy for column in self.copied_columns)


def column_differences(legacy: TableDescription, base: TableDescription) -> list[str]:
    """List the differences in columns (order, names, types, generation) that prevent copying; one line each.

    A stricter NOT NULL in the base is allowed, because the extended primary key needs it.
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
            # One side has a nondeterministic collation: copying would work, comparing would not.
            differences.append(f"{column.name}: its values are compared differently (see the collations)")
        if column.is_generated != other.is_generated:
            differences.append(f"{column.name}: generated on one side only")
    return differences + [one.what for one in structure_differences(legacy, base) if not one.flows]


def structure_differences(legacy: TableDescription, base: TableDescription) -> list[TypeDifference]:
    """List differences in types, collations and deferrable keys; `flows` marks those that do not prevent copying."""
    columns = [(column.name, column.type_name, column.default) for column in legacy.columns]
    return [
        *type_differences(legacy.types, base.types, columns, str(legacy.table)),
        *collation_differences(legacy.collations, base.collations),
        *collated_differences(legacy, base),
        *deferral_differences(legacy, base),
    ]


def collated_differences(legacy: TableDescription, base: TableDescription) -> list[TypeDifference]:
    """List columns that have another collation in the base."""
    of_base = {column.name: column for column in base.columns}
    found: list[TypeDifference] = []
    for one in legacy.columns:
        other = of_base.get(one.name)
        if other is None or other.type_name != one.type_name or other.collation == one.collation:
            continue
        wanted = one.collation or 'pg_catalog."default"'
        found.append(
            TypeDifference(
                f"{one.name}: collation {one.collation or 'default'} in the legacy, {other.collation or 'default'} in"
                " the base",
                f"in the base: ALTER TABLE {base.table} ALTER COLUMN {quote_identifier(one.name)} TYPE {one.type_name}"
                f" COLLATE {wanted}; -- rebuilds its indexes",
                flows=True,
            )
        )
    return found


def deferral_differences(legacy: TableDescription, base: TableDescription) -> list[TypeDifference]:
    """List unique keys that are deferrable on one side only: a valid legacy transaction would then stop the stream."""
    found: list[TypeDifference] = []
    there = {index.tail: index for index in base.indexes if index.unique}
    for one in legacy.indexes:
        other = there.get(one.tail)
        if not one.valid or not one.unique or other is None or one.deferrable == other.deferrable:
            continue
        table, name = base.table, quote_identifier(other.name)
        drop = f"DROP INDEX {table.sibling(other.name)};"
        if other.constraint:
            drop = f"ALTER TABLE {table} DROP CONSTRAINT {name};"
        make = (
            f"ALTER TABLE {table} ADD CONSTRAINT {quote_identifier(one.name)} {one.deferrable};"
            if one.deferrable
            else f"CREATE UNIQUE INDEX {quote_identifier(one.name)} ON {table} {one.tail};"
        )
        what = (
            f"unique key {one.name} is {one.deferrable or 'not deferrable'} in the legacy,"
            f" {other.deferrable or 'not deferrable'} in the base"
        )
        found.append(TypeDifference(what, f"in the base: BEGIN; {drop} {make} COMMIT;", flows=True))
    if legacy.primary_key_deferral != base.primary_key_deferral:
        what = (
            f"the primary key is {legacy.primary_key_deferral or 'not deferrable'} in the legacy,"
            f" {base.primary_key_deferral or 'not deferrable'} in the base"
        )
        keys = ", ".join(map(quote_identifier, base.primary_key))
        remedy = (
            f"in the base: BEGIN; ALTER TABLE {base.table} DROP CONSTRAINT {quote_identifier(base.primary_key_name)},"
            f" ADD PRIMARY KEY ({keys}) {legacy.primary_key_deferral}; {identity_statement(base.table)} COMMIT;"
        )
        found.append(TypeDifference(what, remedy, flows=True))
    return found


def identity_statement(table: QualifiedName) -> str:
    """The statement that sets REPLICA IDENTITY FULL on every partition, which the reverse stream needs."""
    tree = f"pg_partition_tree({quote_text(str(table))})"
    each = "LOOP EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', one); END LOOP; END $$;"
    return f"DO $$ DECLARE one regclass; BEGIN FOR one IN SELECT relid FROM {tree} {each}"  # noqa: S608  to be read
