"""Writes rows into Parquet files of bounded size, each hashed while it is written. Knows no staging and no proof."""

import hashlib
import io
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from migration_assets.archive.footers import footer_in
from migration_assets.archive.layout import part_name
from migration_assets.archive.manifest import HEAD_KEY, ArchivedFile, Manifest
from migration_assets.archive.row_groups import row_groups
from migration_assets.archive.store_base import ArchiveStore, Output
from migration_assets.domain.errors import ArchiveError
from migration_assets.domain.stored_columns import Storage, StoredColumn

Progress = Callable[[int, int], None]
"""Called with the rows and the bytes written so far."""

_COMPUTE: Any = pc  # its stubs do not know what a column holds
# Types whose order is the same in PostgreSQL and in Parquet. Texts are sorted by a collation there, by bytes here.
_SAME_ORDER = frozenset({Storage.INTEGER, Storage.DATE, Storage.TIMESTAMP, Storage.TIMESTAMPTZ, Storage.UUID})


@dataclass(frozen=True)
class WriteLimits:
    """Sizes of what is written.

    Attributes:
        file_bytes: Of a file, about: a new one begins where the next row group would go beyond.
        row_group_rows: At most.
        row_group_bytes: In memory, before compression; at most, but for a single row that is larger. This and two
            batches are what writing holds in memory.
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
    """Write all rows; without rows one empty file, so that the schema is there. Every file is on the disk at the end.

    Raises:
        ArchiveError: The store says no, or the rows do not come in the control column's order.
        Exception: Whatever the batches' source raises.
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
        except BaseException:  # the first bytes are written already
            with suppress(Exception):
                self._sink.end()
            raise

    @property
    def bytes(self) -> int:
        return self._sink.bytes

    def write(self, group: pa.Table) -> None:
        """One row group."""
        self._note_range(group)
        before = self.bytes
        self._writer.write_table(group, row_group_size=group.num_rows)
        self.rows += group.num_rows
        self.largest_group = max(self.largest_group, self.bytes - before)

    def close(self) -> ArchivedFile:
        """End the file; it is on the disk."""
        self._sink.keep_rest()
        self._writer.close()
        self._sink.end()
        lower, upper = (control_text(self.lower), control_text(self.upper)) if self.rows else (None, None)
        footer = hashlib.sha256(footer_in(self._sink.rest)).hexdigest()
        return ArchivedFile(self.name, self.rows, self.bytes, self._sink.sha256, lower, upper, footer)

    def abandon(self) -> None:
        """Let go of what is open; the file is to be deleted. An error is on its way already: it counts."""
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
            # The files claim this order, and readers may trust it.
            raise ArchiveError(
                f"rows do not come in the order of {self._control.name}, or it is NULL in some",
                next_step="this is a defect of the program: tell its authors",
            )
        self.lower = lower if self.rows == 0 else self.lower
        self.upper = upper


class _HashedOutput(io.RawIOBase):
    """Counts and hashes what goes to the store: the manifest tells what was meant, re-reading tells what is there."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output
        self._digest = hashlib.sha256()
        self._rest: bytearray | None = None
        self.bytes = 0

    def keep_rest(self) -> None:
        """Remember what is written from here on: indexes and footer, and no rows."""
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
    """A control value as PostgreSQL writes it in UTC: `2024-08-01 09:30:00.25+00`, `2024-08-01`."""
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
