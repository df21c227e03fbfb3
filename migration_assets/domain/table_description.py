"""What a catalogue says of the table: columns, types, constraints, indexes. Read by `postgres/introspection.py`."""

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
        """The definition of its constraint where that may be broken until the end of a statement or transaction."""
        return self.constraint if " DEFERRABLE" in self.constraint else ""

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
    """A sequence that new rows draw from; `options` fits CREATE SEQUENCE and IDENTITY (…)."""

    name: str
    type_name: str
    options: str


class Drawn(StrEnum):
    """How it comes that new rows draw from a sequence."""

    IDENTITY = "identity"
    DEFAULT = "default"  # the column's default names it
    OWNED = "owned"  # OWNED BY the column alone: the application draws by itself
    FUNCTION = "function"  # a function that the column's default calls names it
    TRIGGER = "trigger"  # a function of a trigger names it, for whatever column


@dataclass(frozen=True)
class SequenceUse:
    """One sequence, the column that it fills (None: not known), and what draws from it."""

    sequence: str
    column: str | None
    how: Drawn
    via: str = ""


@dataclass(frozen=True)
class TableDescription:
    """One table as one server's catalogue describes it; what else hangs on it: `table_features`.

    `sequence_uses` says what draws from which of `sequences`; `unknown_draws` names functions that draw from one that
    their text does not name.
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
        """The operator by which a key tells two values of the column apart, in SQL.

        What an extension brings as a type of its own has one beside it, and our search path leads to the system's.
        """
        of = self.column(name).base_type
        for one in self.types:
            if one.kind == "b" and (of == one.name or of.startswith(f"{one.name}(")):
                return f"OPERATOR({quote_identifier(parse_identifiers(one.name)[0])}.=)"
        return "="

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
            TableSpecError: It is of another type than timestamptz, timestamp or date, or generated.
        """
        column = self.column(control_column)
        if column.is_generated:
            raise TableSpecError(
                f"control column {control_column!r} is generated, and PostgreSQL partitions no table by such a column",
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
    return differences + [one.what for one in structure_differences(legacy, base) if not one.flows]


def structure_differences(legacy: TableDescription, base: TableDescription) -> list[TypeDifference]:
    """What differs inside the columns' types, and in their collations: some of it lets rows flow all the same."""
    columns = [(column.name, column.type_name, column.default) for column in legacy.columns]
    return [
        *type_differences(legacy.types, base.types, columns, str(legacy.table)),
        *collation_differences(legacy.collations, base.collations),
        *collated_differences(legacy, base),
        *deferral_differences(legacy, base),
    ]


def collated_differences(legacy: TableDescription, base: TableDescription) -> list[TypeDifference]:
    """Columns that sort by another collation in the base."""
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
    """Unique keys that a transaction may break for a while on one side only: a legal one then stops the stream."""
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
    """What gives every partition without an immediate key an identity for the stream back to the legacy."""
    tree = f"pg_partition_tree({quote_text(str(table))})"
    each = "LOOP EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', one); END LOOP; END $$;"
    return f"DO $$ DECLARE one regclass; BEGIN FOR one IN SELECT relid FROM {tree} {each}"  # noqa: S608  to be read
