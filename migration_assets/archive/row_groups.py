"""Batches of any size become row groups within bounds of rows and of bytes, in the same order, copying nothing."""

from collections.abc import Iterable, Iterator

import pyarrow as pa


def row_groups(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, *, most_rows: int, most_bytes: int
) -> Iterator[pa.Table]:
    """Tables to be written as one row group each; none for no rows.

    Bytes are those in memory. A single row that is larger than `most_bytes` gets a row group of its own.
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
