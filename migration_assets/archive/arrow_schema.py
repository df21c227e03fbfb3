"""The Arrow types of an archive, and how ADBC's batches become exactly these."""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from migration_assets.domain.errors import ArchiveError
from migration_assets.domain.stored_columns import Storage, StoredColumn

_Array: TypeAlias = "pa.Array[Any]"
# Microseconds since 1970: what PostgreSQL's first moment means when `postgres/export_expressions.py` sends it, and
# DuckDB's -infinity.
_EARLIEST = -210_866_803_200_000_000
_MINUS_INFINITY = -(2**63 - 1)
_INTEGERS: dict[int, pa.DataType] = {2: pa.int16(), 4: pa.int32(), 8: pa.int64()}
_SIMPLE: dict[Storage, pa.DataType] = {
    Storage.BOOLEAN: pa.bool_(),
    Storage.TEXT: pa.string(),
    Storage.JSON: pa.json_(),
    Storage.BYTES: pa.binary(),
    Storage.UUID: pa.uuid(),
    Storage.DATE: pa.date32(),
    Storage.TIMESTAMP: pa.timestamp("us"),
    Storage.TIMESTAMPTZ: pa.timestamp("us", "UTC"),
}


def parquet_schema(columns: Sequence[StoredColumn]) -> pa.Schema:
    """Fields that may all be NULL: PostgreSQL 18 knows a NOT NULL that was never validated.

    Each field's metadata says its type in PostgreSQL, `postgresql.type`; `postgresql.labels` are an enum's, in JSON.
    """
    return pa.schema([pa.field(column.name, _type(column), metadata=_metadata(column)) for column in columns])


def to_stored(batch: pa.RecordBatch, columns: Sequence[StoredColumn]) -> pa.RecordBatch:
    """The batch in exactly `parquet_schema(columns)`.

    Args:
        batch: From `postgres/arrow_stream.py`, of the query that `postgres/export.py` made of the same columns.
        columns: Of the slice's profile.

    Raises:
        ArchiveError: The batch has other columns, or a value that does not fit; names the column.
    """
    if batch.schema.names != [column.name for column in columns]:
        raise ArchiveError(
            f"the columns {batch.schema.names} arrived, not {[column.name for column in columns]}",
            state_left="nothing was written",
            next_step="report this: it is a fault of this program",
        )
    arrived: Any = batch
    arrays = [_stored(array, column) for array, column in zip(arrived.columns, columns, strict=True)]
    arrow: Any = pa
    return arrow.record_batch(arrays, schema=parquet_schema(columns))


def _type(column: StoredColumn) -> pa.DataType:
    match column.storage:
        case Storage.INTEGER:
            return _INTEGERS[column.width]
        case Storage.FLOAT:
            return pa.float32() if column.width == 4 else pa.float64()  # noqa: PLR2004
        case Storage.DECIMAL:
            return pa.decimal128(column.precision, column.scale)
        case Storage.LIST:
            item = (
                _INTEGERS[column.width]
                if column.element is Storage.INTEGER
                else _SIMPLE[column.element or Storage.TEXT]
            )
            return pa.list_(item)
        case _:
            return _SIMPLE[column.storage]


def _metadata(column: StoredColumn) -> dict[str, str]:
    metadata = {"postgresql.type": column.type_name}
    if column.labels:
        metadata["postgresql.labels"] = json.dumps(column.labels, ensure_ascii=False)
    return metadata


def _stored(array: _Array, column: StoredColumn) -> _Array:
    plain: _Array = array.storage if isinstance(array, pa.ExtensionArray) else array
    try:
        stored = _CONVERSIONS.get(column.storage, _as_it_is)(plain, _type(column))
    except pa.ArrowException as error:
        # Arrow's error may quote the value, which is a person's.
        raise ArchiveError(
            f"a value of column {column.name!r} does not fit {column.storage.value} ({type(error).__name__})",
            state_left="nothing was written",
            next_step="report this with the column's type",
        ) from None
    if stored.type != _type(column):
        raise ArchiveError(
            f"column {column.name!r} arrived as {array.type}, which is not {_type(column)}",
            state_left="nothing was written",
            next_step="report this with the column's type",
        )
    return stored


def _as_it_is(array: _Array, _: pa.DataType) -> _Array:
    return array


def _in_extension(array: _Array, target: pa.DataType) -> _Array:
    extension: Any = pa.ExtensionArray
    return extension.from_storage(target, array)


def _viewed(array: _Array, target: pa.DataType) -> _Array:
    return array.view(target)


def _cast(array: _Array, target: pa.DataType) -> _Array:
    return array.cast(target, safe=True)


def _with_infinity(array: _Array, target: pa.DataType) -> _Array:
    """The last moment already is DuckDB's infinity."""
    micros = array.view(pa.int64())
    compute: Any = pc
    return compute.if_else(compute.equal(micros, _EARLIEST), _MINUS_INFINITY, micros).view(target)


_CONVERSIONS: dict[Storage, Callable[[_Array, pa.DataType], _Array]] = {
    Storage.DECIMAL: _cast,
    Storage.JSON: _in_extension,
    Storage.UUID: _in_extension,
    Storage.DATE: _viewed,
    Storage.TIMESTAMP: _with_infinity,
    Storage.TIMESTAMPTZ: _with_infinity,
    Storage.LIST: _cast,
}
