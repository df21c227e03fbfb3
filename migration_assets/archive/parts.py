"""Writes rows into Parquet files of bounded size and hashes each file while it is written.

The driver's batches become exactly the archive's Arrow types, and then row groups within bounds of rows and of bytes,
in the same order and without a copy. A file's footer says where each column's values lie and between which bounds:
another file, or one that was written anew, has another footer, so that its digest tells them apart at once where a
digest of all bytes would take as long as the file is large. Staging and proof are the business of `writer`.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from migration_assets.archive.columns import Storage, StoredColumn
from migration_assets.archive.manifest import HEAD_KEY, ArchivedFile, Manifest, part_name
from migration_assets.archive.store_base import ArchiveStore, Output
from migration_assets.domain.errors import ArchiveError


def row_groups(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, *, most_rows: int, most_bytes: int
) -> Iterator[pa.Table]:
    """Yield tables that are to be written as one row group each; nothing is yielded when there are no rows.

    Bytes are counted in memory. A single row that is larger than `most_bytes` gets a row group of its own.
    """
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        for piece in _pieces(batch, most_rows, most_bytes):
            if waiting and (rows + piece.num_rows > most_rows or size + piece.nbytes > most_bytes):
                yield pa.Table.from_batches(waiting, schema)
                waiting, rows, size = [], 0, 0
            waiting.append(piece)
            rows += piece.num_rows
            size += piece.nbytes
    if waiting:
        yield pa.Table.from_batches(waiting, schema)


def _pieces(batch: pa.RecordBatch, most_rows: int, most_bytes: int) -> Iterator[pa.RecordBatch]:
    if batch.num_rows == 0:
        return
    if batch.num_rows > 1 and (batch.num_rows > most_rows or batch.nbytes > most_bytes):
        half = batch.num_rows // 2
        yield from _pieces(batch.slice(0, half), most_rows, most_bytes)
        yield from _pieces(batch.slice(half), most_rows, most_bytes)
    else:
        yield batch


MAGIC = b"PAR1"
_TAIL = 8  # four bytes of length, four of magic


def footer_in(end: bytes) -> bytes:
    """Return the footer, with its length and magic, from the last bytes of a file.

    Raises:
        ValueError: The bytes do not end as a Parquet file does, or do not reach back to the footer's beginning.
    """
    if end[-len(MAGIC) :] != MAGIC:
        raise ValueError("it does not end as a Parquet file does")
    size = int.from_bytes(end[-_TAIL : -len(MAGIC)], "little") + _TAIL
    if size > len(end):
        raise ValueError("its footer claims to be longer than the bytes that were read")
    return end[-size:]


def read_footer(file: pa.NativeFile, size: int) -> bytes:
    """Read the footer, with its length and magic, of an open file of `size` bytes.

    Raises:
        ValueError: It has no footer.
        OSError: It cannot be read.
    """
    if size < _TAIL:
        raise ValueError("it is too short for a footer")
    file.seek(size - _TAIL)
    tail = file.read(_TAIL)
    length = min(int.from_bytes(tail[: -len(MAGIC)], "little") + _TAIL, size)
    file.seek(size - length)
    return footer_in(file.read(length))


def footer_sha256(file: pa.NativeFile, size: int) -> str:
    """Return the SHA-256 of the footer of an open file of `size` bytes, in hexadecimal.

    Raises:
        ValueError: It has no footer.
        OSError: It cannot be read.
    """
    return hashlib.sha256(read_footer(file, size)).hexdigest()


Progress = Callable[[int, int], None]
"""Called with the rows and the bytes written so far."""

_COMPUTE: Any = pc  # the type stubs do not know what a column holds
# Types that PostgreSQL and Parquet sort alike. PostgreSQL sorts texts by a collation, Parquet by bytes.
_SAME_ORDER = frozenset({Storage.INTEGER, Storage.DATE, Storage.TIMESTAMP, Storage.TIMESTAMPTZ, Storage.UUID})


@dataclass(frozen=True)
class WriteLimits:
    """Limits for the sizes of files and row groups.

    Attributes:
        file_bytes: Approximate size of a file: a new file begins when the next row group would exceed it.
        row_group_rows: Most rows in a row group.
        row_group_bytes: Most bytes of a row group, in memory before compression; a single larger row is allowed.
            Writing holds this much and two batches in memory.
    """

    file_bytes: int = 512 * 1024 * 1024
    row_group_rows: int = 100_000
    row_group_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        if min(self.file_bytes, self.row_group_rows, self.row_group_bytes) < 1:
            raise ValueError("limits of an archive's files must be positive")


def write_parts(
    store: ArchiveStore,
    folder: str,
    manifest: Manifest,
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    limits: WriteLimits,
    on_progress: Progress | None = None,
) -> tuple[ArchivedFile, ...]:
    """Write all rows to files below `folder`; every file is durable at the end.

    Without rows, one empty file is written so that the schema is kept. When this fails, the files written so far remain
    in `folder`; the caller deletes them.

    Raises:
        ArchiveError: The store refuses, or the rows are not in the order of the control column.
        Exception: Whatever the source of the batches raises.
    """
    files: list[ArchivedFile] = []
    part = _Part(store, folder, manifest, schema, number=0)
    try:
        groups = row_groups(batches, schema, most_rows=limits.row_group_rows, most_bytes=limits.row_group_bytes)
        for group in groups:
            if part.rows and part.bytes + part.largest_group > limits.file_bytes:
                files.append(part.close())
                part = _Part(store, folder, manifest, schema, number=len(files), after=part.upper)
            part.write(group)
            if on_progress is not None:
                on_progress(sum(f.rows for f in files) + part.rows, sum(f.bytes for f in files) + part.bytes)
        files.append(part.close())
    except BaseException:
        part.abandon()
        raise
    return tuple(files)


class _Part:
    """One file that is being written."""

    def __init__(
        self, store: ArchiveStore, folder: str, manifest: Manifest, schema: pa.Schema, *, number: int, after: Any = None
    ) -> None:
        self.name = part_name(manifest.generation, number)
        self.rows = 0
        self.largest_group = 0
        self.lower: Any = None
        self.upper: Any = after
        self._control = manifest.control
        self._sink = _HashedOutput(store.open_output(f"{folder}/{self.name}"))
        try:
            self._writer = _parquet_writer(self._sink, manifest, schema)
        except BaseException:  # the first bytes have been written already
            with suppress(Exception):
                self._sink.end()
            raise

    @property
    def bytes(self) -> int:
        return self._sink.bytes

    def write(self, group: pa.Table) -> None:
        """Write one row group."""
        self._note_range(group)
        before = self.bytes
        self._writer.write_table(group, row_group_size=group.num_rows)
        self.rows += group.num_rows
        self.largest_group = max(self.largest_group, self.bytes - before)

    def close(self) -> ArchivedFile:
        """Finish the file and make it durable."""
        self._sink.keep_rest()
        self._writer.close()
        self._sink.end()
        lower, upper = (control_text(self.lower), control_text(self.upper)) if self.rows else (None, None)
        footer = hashlib.sha256(footer_in(self._sink.rest)).hexdigest()
        return ArchivedFile(self.name, self.rows, self.bytes, self._sink.sha256, lower, upper, footer)

    def abandon(self) -> None:
        """Close what is open after a failure; the file is to be deleted. The first error is the one reported."""
        with suppress(Exception):
            self._writer.close()
        with suppress(Exception):
            self._sink.end()

    def _note_range(self, group: pa.Table) -> None:
        values: Any = group.column(self._control.name)
        ends = _COMPUTE.min_max(values)
        lower, upper = ends["min"].as_py(), ends["max"].as_py()
        ordered = len(values) < 2 or _COMPUTE.all(_COMPUTE.less_equal(values[:-1], values[1:])).as_py()  # noqa: PLR2004
        if values.null_count or not ordered or (self.upper is not None and lower < self.upper):
            # The files' metadata declares this order, and readers may rely on it.
            raise ArchiveError(
                f"rows do not come in the order of {self._control.name}, or it is NULL in some",
                next_step="this is a defect of the program: tell its authors",
            )
        self.lower = lower if self.rows == 0 else self.lower
        self.upper = upper


class _HashedOutput(io.RawIOBase):
    """Counts and hashes the bytes on their way to the store; verification later compares them with what is stored."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output
        self._digest = hashlib.sha256()
        self._rest: bytearray | None = None
        self.bytes = 0

    def keep_rest(self) -> None:
        """Keep a copy of what is written from here on: indexes and the footer, no rows."""
        self._rest = bytearray()

    @property
    def rest(self) -> bytes:
        return bytes(self._rest or b"")

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._output.write(data)
        self._digest.update(data)
        if self._rest is not None:
            self._rest += data
        self.bytes += len(data)
        return len(data)

    def tell(self) -> int:
        return self.bytes

    def end(self) -> None:
        self._output.close()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def _parquet_writer(sink: Any, manifest: Manifest, schema: pa.Schema) -> parquet.ParquetWriter:
    # Level 1: on the demo's bookings level 3 takes twice the time for 2.5% less, level 7 five times for 6% less.
    writer = parquet.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        compression_level=1,
        write_statistics=True,
        write_page_index=True,
        write_page_checksum=True,
        sorting_columns=_sorting(manifest, schema),
    )
    writer.add_key_value_metadata({HEAD_KEY.decode(): manifest.head_bytes().decode()})
    return writer


def control_text(value: date | datetime | str) -> str:
    """Return a control value as PostgreSQL writes it in UTC: `2024-08-01 09:30:00.25+00`, `2024-08-01`."""
    if not isinstance(value, datetime):
        return str(value)
    text = value.replace(tzinfo=None).isoformat(sep=" ")
    if value.microsecond:
        text = text.rstrip("0")
    return text if value.tzinfo is None else f"{text}+00"


def _sorting(manifest: Manifest, schema: pa.Schema) -> list[parquet.SortingColumn]:
    by_name: dict[str, StoredColumn] = {column.name: column for column in manifest.columns}
    order = [manifest.control_column, *(name for name in manifest.key_columns if name != manifest.control_column)]
    declared: list[parquet.SortingColumn] = []
    for name in order:
        if by_name[name].storage not in _SAME_ORDER:
            break
        declared.append(parquet.SortingColumn(schema.get_field_index(name)))
    return declared


_Array: TypeAlias = "pa.Array[Any]"
# Microseconds since 1970. `export.exported` sends PostgreSQL's earliest timestamp in place of -infinity; here it
# becomes DuckDB's -infinity.
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
    """Return the Arrow schema of the columns.

    Every field is nullable, because PostgreSQL 18 allows a NOT NULL constraint that was never validated. A field's
    metadata holds its PostgreSQL type (`postgresql.type`) and, for an enum, its labels as JSON (`postgresql.labels`).
    """
    return pa.schema([pa.field(column.name, _type(column), metadata=_metadata(column)) for column in columns])


def to_stored(batch: pa.RecordBatch, columns: Sequence[StoredColumn]) -> pa.RecordBatch:
    """Convert a batch to exactly `parquet_schema(columns)`.

    Args:
        batch: From `postgres/arrow_stream.py`, read with the query that `export.export_query` made of the same columns.
        columns: The columns of the slice's profile.

    Raises:
        ArchiveError: The batch has other columns, or holds a value that does not fit; the column is named.
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
        # Arrow's error is not shown: it may quote the value, which is personal data.
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
    """Map PostgreSQL's earliest timestamp to -infinity; the latest one already is DuckDB's infinity."""
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
