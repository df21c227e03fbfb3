"""User-defined types and collations of a table: their parts, the SQL that creates them, differences between sides.

Two types of the same name can still differ: in the order of fields or labels, or in a collation. Values then cannot be
carried over, or they arrive and mean something else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from migration_assets.domain.table_spec import parse_identifiers, quote_identifier, quote_text

_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin", "d": "default"}


@dataclass(frozen=True)
class Collation:
    """A collation that a column, a field, a domain or a range names."""

    name: str
    provider: str  # pg_collation.collprovider
    locale: str | None
    ctype: str | None
    deterministic: bool
    rules: str | None = None

    @property
    def options(self) -> str:
        """The options in the brackets of CREATE COLLATION."""
        parts = [f"provider = {_PROVIDERS.get(self.provider, self.provider)}"]
        if self.provider == "c" and self.ctype != self.locale:
            parts += [f"lc_collate = {quote_text(self.locale or '')}", f"lc_ctype = {quote_text(self.ctype or '')}"]
        else:
            parts.append(f"locale = {quote_text(self.locale or '')}")
        if not self.deterministic:
            parts.append("deterministic = false")
        if self.rules:
            parts.append(f"rules = {quote_text(self.rules)}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Field:
    """A field of a composite type."""

    name: str
    type_name: str
    collation: str | None = None


@dataclass(frozen=True)
class Extension:
    """The extension that a type belongs to; `schema` holds the extension's objects."""

    name: str
    schema: str


@dataclass(frozen=True)
class UserType:
    """A type that the table needs and that PostgreSQL does not bring.

    Attributes:
        name: Schema-qualified name.
        kind: pg_type.typtype: e enum, d domain, c composite, r range, m multirange, b base.
        labels: The labels of an enum, in their order.
        definition: For a domain everything after CREATE DOMAIN name AS; for a range the text in its brackets.
        base: The underlying type of a domain or a range.
        fields: The fields of a composite type, in their order.
        uses: Names of the user-defined types that it is made of.
        collations: Names of the collations that its own definition names.
        before: Statements that create the functions that its definition calls.
        extension: The extension that it belongs to.
        of_table: Whether it is the row type of a table.
        comment: The type's comment.
    """

    name: str
    kind: str
    labels: tuple[str, ...] = ()
    definition: str = ""
    base: str = ""
    fields: tuple[Field, ...] = ()
    uses: tuple[str, ...] = ()
    collations: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    extension: Extension | None = None
    of_table: bool = False
    comment: str | None = None

    @property
    def can_be_created(self) -> bool:
        """Whether this program creates it on the base: enums and domains; other types must exist there already."""
        return self.kind in {"e", "d"} and self.extension is None

    @property
    def creation(self) -> tuple[str, ...]:
        """The statements that create it once everything that it uses exists; an SQL comment where no statement can."""
        if self.extension is not None:
            schema = quote_identifier(self.extension.schema)
            return (f"CREATE EXTENSION {quote_identifier(self.extension.name)} WITH SCHEMA {schema};",)
        if self.of_table:
            return (f"-- create table {_in_comment(self.name)}: its row type is a column's type",)
        if self.kind == "r" and "CANONICAL" not in self.definition:
            return (*self.before, f"CREATE TYPE {self.name} AS RANGE ({self.definition});")
        fields = ", ".join(
            f"{quote_identifier(f.name)} {f.type_name}" + (f" COLLATE {f.collation}" if f.collation else "")
            for f in self.fields
        )
        made = {
            "e": f"CREATE TYPE {self.name} AS ENUM ({_listed(self.labels)});",
            "d": f"CREATE DOMAIN {self.name} AS {self.definition};",
            "c": f"CREATE TYPE {self.name} AS ({fields});",
        }
        if self.kind == "m":
            return ()  # comes with its range
        return (made.get(self.kind, f"-- install what provides type {_in_comment(self.name)} in the legacy"),)


def _in_comment(name: str) -> str:
    """Escape line ends: a comment of SQL ends there, and the rest of a name would be pasted as statements."""
    return " ".join(name.split())


@dataclass(frozen=True)
class TypeDifference:
    """One difference between the two sides in a type or a collation.

    Attributes:
        what: The difference, in words.
        remedy: The statements or steps that make the base equal to the legacy.
        flows: Whether values can be carried over in spite of it, though they may mean something else.
    """

    what: str
    remedy: str
    flows: bool


def type_differences(
    legacy: Iterable[UserType],
    base: Iterable[UserType],
    columns: Sequence[tuple[str, str, str | None]] = (),
    table: str = "",
) -> list[TypeDifference]:
    """Find the differences between types of the same name.

    Args:
        legacy: The legacy's types, each after the types that it is made of.
        base: The base's types.
        columns: Name, type and default of the legacy's columns, for a remedy that has to change columns.
        table: The name of the table, for the same remedy.
    """
    others = {one.name: one for one in base}
    found: list[TypeDifference] = []
    for one in legacy:
        other = others.get(one.name)
        if other is None:
            continue
        if one.kind != other.kind:
            found.append(TypeDifference(f"type {one.name} is of another kind in the base", _replace(one), flows=False))
        elif one.kind == "e":
            found += _labels(one, other, columns, table)
        elif one.kind == "c":
            found += _fields(one, other)
        elif one.kind in {"d", "r"} and one.definition != other.definition:
            kind = "domain" if one.kind == "d" else "range"
            what = f"{kind} {one.name} is {one.definition} in the legacy, {other.definition} in the base"
            found.append(TypeDifference(what, _replace(one), flows=one.base == other.base))
    return found


def collation_differences(legacy: Iterable[Collation], base: Iterable[Collation]) -> list[TypeDifference]:
    """Find collations of the same name that have different options on the two sides."""
    others = {one.name: one for one in base}
    return [
        TypeDifference(
            f"collation {one.name} is ({one.options}) in the legacy, ({others[one.name].options}) in the base",
            f"in the base: ALTER COLLATION {one.name} RENAME TO"
            f" {quote_identifier(parse_identifiers(one.name)[-1] + '_before')};"
            f" CREATE COLLATION {one.name} ({one.options}); then give it to the columns: ALTER TABLE … ALTER COLUMN …"
            " TYPE … COLLATE …",
            flows=True,
        )
        for one in legacy
        if one.name in others and one.options != others[one.name].options
    ]


def _labels(
    one: UserType, other: UserType, columns: Sequence[tuple[str, str, str | None]], table: str
) -> list[TypeDifference]:
    what = f"enum {one.name}: {list(one.labels)} in the legacy, {list(other.labels)} in the base"
    common = [label for label in one.labels if label in other.labels]
    if common != [label for label in other.labels if label in one.labels]:
        what += "; the order is what ORDER BY, comparisons and indexes rest on, and PostgreSQL cannot change it"
        missing = set(one.labels) - set(other.labels)
        return [TypeDifference(what, _anew(one, other, columns, table), flows=not missing)]
    added = [
        f"ALTER TYPE {one.name} ADD VALUE {quote_text(label)}" + _before(label, one.labels, other.labels) + ";"
        for label in one.labels
        if label not in other.labels
    ]
    return [TypeDifference(what, "in the base: " + " ".join(added), flows=False)] if added else []


def _before(label: str, labels: Sequence[str], there: Sequence[str]) -> str:
    """Place a label before the next one that the base has; labels are added one by one, so each finds its place."""
    following = next((other for other in labels[labels.index(label) + 1 :] if other in there), None)
    return f" BEFORE {quote_text(following)}" if following is not None else ""


def _anew(one: UserType, other: UserType, columns: Sequence[tuple[str, str, str | None]], table: str) -> str:
    """The statements that create a new type of the same name: the only way to change the order of labels."""
    schema, name = parse_identifiers(one.name)
    old = quote_identifier(f"{name}_before")
    labels = (*one.labels, *(label for label in other.labels if label not in one.labels))
    changes: list[str] = []
    for column, type_name, default in columns:
        if type_name not in {one.name, f"{one.name}[]"}:
            continue
        quoted = quote_identifier(column)
        texts = "text[]" if type_name.endswith("[]") else "text"
        changes.append(f"ALTER TABLE {table} ALTER COLUMN {quoted} DROP DEFAULT, ALTER COLUMN {quoted} TYPE {type_name}"
                       f" USING {quoted}::{texts}::{type_name};")  # fmt: skip
        if default is not None:
            changes.append(f"ALTER TABLE {table} ALTER COLUMN {quoted} SET DEFAULT {default};")
    begin = f"BEGIN; ALTER TYPE {one.name} RENAME TO {old}; CREATE TYPE {one.name} AS ENUM ({_listed(labels)});"
    end = f"DROP TYPE {quote_identifier(schema)}.{old}; COMMIT;"
    hint = (
        "-- rewrites the table; first drop, and afterwards make again, what names its labels (checks, conditions of"
        " indexes) and other types that it is part of"
    )
    return "in the base: " + " ".join([begin, *changes, end, hint])


def _fields(one: UserType, other: UserType) -> list[TypeDifference]:
    if one.fields == other.fields:
        return []
    plain = [[(field.name, field.type_name) for field in of.fields] for of in (one, other)]
    described = [", ".join(f"{f.name} {f.type_name}{' ' + f.collation if f.collation else ''}" for f in of.fields)
                 for of in (one, other)]  # fmt: skip
    what = f"type {one.name} is ({described[0]}) in the legacy, ({described[1]}) in the base"
    return [TypeDifference(what, _replace(one), flows=plain[0] == plain[1])]


def _replace(one: UserType) -> str:
    made = " ".join(one.creation)
    return f"make it in the base as in the legacy: {made} -- after what uses the one that is there was dropped"


def _listed(labels: Iterable[str]) -> str:
    return ", ".join(map(quote_text, labels))
