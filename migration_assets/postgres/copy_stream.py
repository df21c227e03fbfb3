"""Pipes the rows of a slice from the legacy into a new table of the base, with flat memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from migration_assets.domain.errors import MigrationError
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.postgres.sessions import Connected
from migration_assets.postgres.sql_text import table_name

Progress = Callable[[int, int], None]
"""Callback that gets rows and bytes so far, a few times a second."""

# The server sends one message a row. Joined to blocks of this size, hundreds of rows cost one call of libpq. One block,
# one row and libpq's buffers are all that is ever in memory.
_BLOCK_BYTES = 256 * 1024


@dataclass(frozen=True)
class Piped:
    """Rows as both servers counted them, and the bytes that were sent."""

    rows: int
    wire_bytes: int


def pipe_rows(
    legacy: Connected,
    base: Connected,
    description: TableDescription,
    target: QualifiedName,
    where: sql.Composable,
    on_progress: Progress | None = None,
    *,
    freeze: bool = True,
) -> Piped:
    """COPY rows out of the legacy's open snapshot into `target`.

    Binary where every column's bytes mean the same in both databases, text otherwise.

    Args:
        legacy: In a transaction with the snapshot.
        base: In a transaction.
        description: The legacy's table; gives the columns and the format.
        target: The base's table.
        where: Which rows.
        on_progress: Told rows and bytes so far.
        freeze: COPY with FREEZE; allowed only where the base's transaction made `target`.

    Raises:
        MigrationError: The two servers do not agree on the number of rows.
        psycopg.Error: Either server failed; both transactions can only be rolled back.
    """
    source = table_name(description.table)
    columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in description.copied_columns)
    form = sql.SQL("binary" if description.binary_copy else "text")
    # SELECT, not the table itself: a COPY of the table takes no WHERE.
    copy_out = sql.SQL("COPY (SELECT {} FROM {} WHERE {}) TO STDOUT (FORMAT {})").format(columns, source, where, form)
    # FREEZE: the rows are written as visible to all, so that no vacuum reads and writes the leaf a second time.
    copy_in = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT {}, FREEZE {})").format(
        table_name(target), columns, form, sql.SQL("true" if freeze else "false")
    )
    wire_bytes = messages = 0
    with legacy.cursor() as reader, base.cursor() as writer:
        with reader.copy(copy_out) as rows, writer.copy(copy_in) as sink:
            block: list[Any] = []
            size = 0
            for message in rows:
                block.append(message)
                size += len(message)
                if size >= _BLOCK_BYTES:
                    sink.write(b"".join(block))
                    wire_bytes += size
                    messages += len(block)
                    block.clear()
                    size = 0
                    if on_progress is not None:
                        on_progress(messages, wire_bytes)
            if block:
                sink.write(b"".join(block))
                wire_bytes += size
        sent, received = reader.rowcount, writer.rowcount
    if sent != received:
        raise MigrationError(
            f"the legacy sent {sent:,} rows and the base took {received:,}",
            where=str(target),
            state_left="the base's transaction is rolled back",
            next_step="a trigger or rule in the base may drop rows: see preflight; then run the slice again",
        )
    if on_progress is not None:
        on_progress(received, wire_bytes)
    return Piped(received, wire_bytes)
