"""How each column of a slice is kept in Parquet and read again without losing a bit. Pure.

A column is kept in the exact type that fits it. Where a week holds a value which that type cannot carry (NaN in a
numeric(10,2), a two-dimensional array), the column is kept as PostgreSQL's own text in that week, and says so.
Statistics of a column tell nothing of a single person.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

from migration_assets.domain.table_description import Column, Hashing, TableDescription

_MAX_DECIMAL_DIGITS = 38
_NUMERIC = re.compile(r"numeric\((\d+),(-?\d+)\)")
_INTEGERS = {"smallint": 2, "integer": 4, "bigint": 8}
_FLOATS = {"real": 4, "double precision": 8}
_TEXTS = frozenset({"text"})
_TEXT_LIKE = re.compile(r"(character varying|character|varchar|bpchar|\"char\"|name)(\(\d+\))?")
_MODIFIER = re.compile(r"\(\d+\)")


class Storage(StrEnum):
    """The kind of Parquet type. TEXT also holds, as PostgreSQL writes them, types that have no exact counterpart."""

    BOOLEAN = "boolean"
    INTEGER = "integer"
    FLOAT = "float"
    DECIMAL = "decimal"
    TEXT = "text"
    JSON = "json"
    BYTES = "bytes"
    UUID = "uuid"
    DATE = "date"
    TIMESTAMP = "timestamp"
    TIMESTAMPTZ = "timestamptz"
    LIST = "list"


def numbered_name(place: int) -> str:
    """Return the position-based name of a column in our own queries, where DuckDB might confuse two names."""
    return f"c{place}"


@dataclass(frozen=True)
class StoredColumn:
    """One column of an archive.

    Attributes:
        name: As in the table.
        type_name: PostgreSQL's, as declared: `numeric(10,2)`, `public.booking_status`.
        storage: The kind of Parquet type.
        width: Bytes of an INTEGER or FLOAT, or of a LIST's elements; else 0.
        precision: Digits of a DECIMAL.
        scale: Digits after the point of a DECIMAL.
        element: The storage of a LIST's elements: TEXT, INTEGER or BOOLEAN.
        is_text_type: Whether the PostgreSQL type is a text type, so that TEXT is exact and not a fallback.
        not_null: Whether it is declared NOT NULL.
        generated: Whether the database computes it: kept for queries, not loaded at a restore.
        hashing: How the native fingerprint hashes it.
        send_function: The type's send function, for `Hashing.SEND`.
        labels: An enum's labels, in their order.
        base_type: The type below a domain, else the type itself; as the table is now, and not kept in the manifest.
    """

    name: str
    type_name: str
    storage: Storage
    width: int = 0
    precision: int = 0
    scale: int = 0
    element: Storage | None = None
    is_text_type: bool = False
    not_null: bool = False
    generated: bool = False
    hashing: Hashing = Hashing.TEXT
    send_function: str | None = None
    labels: tuple[str, ...] = ()
    base_type: str = field(default="", compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the column for the manifest; `from_json` reads it."""
        values = asdict(self)
        values.update(storage=self.storage.value, hashing=self.hashing.value, labels=list(self.labels))
        values["element"] = self.element.value if self.element else None
        del values["base_type"]
        return values

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "StoredColumn":
        """Read what `to_json` wrote."""
        values = dict(stored)
        values["storage"] = Storage(values["storage"])
        values["hashing"] = Hashing(values["hashing"])
        values["labels"] = tuple(values["labels"])
        values["element"] = Storage(values["element"]) if values["element"] else None
        return cls(**values)


def stored_columns(description: TableDescription, unfit: Collection[str] = ()) -> tuple[StoredColumn, ...]:
    """Return how the table's columns are kept, in their order.

    Args:
        description: The base's table.
        unfit: Columns that hold a value in this week which their exact type cannot carry; they are kept as text.
    """
    labels = {user_type.name: user_type.labels for user_type in description.types if user_type.kind == "e"}
    return tuple(_stored(column, labels, unfit=column.name in unfit) for column in description.columns)


def _stored(column: Column, labels: Mapping[str, tuple[str, ...]], *, unfit: bool) -> StoredColumn:
    base = column.base_type or column.type_name
    is_text = base in _TEXTS or _TEXT_LIKE.fullmatch(base) is not None
    kind: dict[str, Any] = {"storage": Storage.TEXT} if unfit else _kind(base)
    return StoredColumn(
        name=column.name,
        type_name=column.type_name,
        is_text_type=is_text,
        not_null=column.not_null,
        generated=column.is_generated,
        hashing=column.hashing,
        send_function=column.send_function,
        labels=labels.get(base, ()),
        base_type=base,
        **kind,
    )


def _kind(base: str) -> dict[str, Any]:
    if base.endswith("[]"):
        return _list_kind(base.removesuffix("[]"))
    plain = _MODIFIER.sub("", base)
    if base in _INTEGERS:
        return {"storage": Storage.INTEGER, "width": _INTEGERS[base]}
    if base in _FLOATS:
        return {"storage": Storage.FLOAT, "width": _FLOATS[base]}
    exact = {
        "boolean": Storage.BOOLEAN,
        "json": Storage.JSON,
        "jsonb": Storage.JSON,
        "bytea": Storage.BYTES,
        "uuid": Storage.UUID,
        "date": Storage.DATE,
        "timestamp without time zone": Storage.TIMESTAMP,
        "timestamp with time zone": Storage.TIMESTAMPTZ,
    }
    if plain in exact:
        return {"storage": exact[plain]}
    decimal = _NUMERIC.fullmatch(base)
    if decimal is not None:
        precision, scale = int(decimal[1]), int(decimal[2])
        if precision <= _MAX_DECIMAL_DIGITS and 0 <= scale <= precision:
            return {"storage": Storage.DECIMAL, "precision": precision, "scale": scale}
    return {"storage": Storage.TEXT}


def _list_kind(element: str) -> dict[str, Any]:
    if element in _TEXTS or re.fullmatch(r"character varying(\(\d+\))?", element):
        return {"storage": Storage.LIST, "element": Storage.TEXT}
    if element in _INTEGERS:
        return {"storage": Storage.LIST, "element": Storage.INTEGER, "width": _INTEGERS[element]}
    if element == "boolean":
        return {"storage": Storage.LIST, "element": Storage.BOOLEAN}
    return {"storage": Storage.TEXT}


RANGED = frozenset(
    {Storage.INTEGER, Storage.FLOAT, Storage.DECIMAL, Storage.DATE, Storage.TIMESTAMP, Storage.TIMESTAMPTZ}
)
"""Types whose minimum and maximum are recorded: numbers and times. Values of other columns are personal data."""


@dataclass(frozen=True)
class ColumnStatistics:
    """Statistics of one column in one slice; `minimum` and `maximum` are PostgreSQL's text, None without a value."""

    nulls: int
    minimum: str | None = None
    maximum: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the statistics for the manifest."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(**stored)
