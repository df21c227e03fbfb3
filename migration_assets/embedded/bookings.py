"""Makes the demo's legacy: `public.amenity_bookings`, unpartitioned and with the scars of years, in an empty database.

It fills that one table, with the same contents every time, and never runs on a real legacy. The statements, and the
reasons for the contents, are in `bookings.sql`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from migration_assets.domain.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

AS_OF: Final = datetime(2024, 6, 24, 12, tzinfo=UTC)
"""The demo's present, exclusive: nothing was booked at or after it. FY25-Q2-W13 holds only the half day before it."""

FIRST_BOOKED: Final = datetime(2023, 7, 1, tzinfo=UTC)
"""No booking is older: the start of FY24-Q3."""

CHUNK_ROWS: Final = 25_000
"""Rows per INSERT, and so per call of `on_progress`: a fraction of a second each."""

_RELEASE: Final = datetime(2023, 10, 1, tzinfo=UTC)
_SEEDS: Final = range(2**32)


def create_bookings(
    connection: psycopg.Connection[Any],
    *,
    rows: int,
    seed: int = 20240624,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Create and fill `public.amenity_bookings`; equal `rows` and `seed` give equal contents on PostgreSQL 15 to 18.

    Ids start above 1,000,000 and have gaps. Each chunk is a transaction of its own, unless the connection is in one.

    Args:
        connection: To an empty legacy database, UTF8, as a role that may create in the schema public.
        rows: Rows to make, 0 or more; about 870 bytes each on disk with TOAST, and 115 more of indexes.
        seed: 0 to 2**32 - 1.
        on_progress: Called with (rows made, rows asked for) after every chunk, and once more when all
            indexes are built.

    Raises:
        SettingsError: `rows` or `seed` is out of range; nothing was touched.
        psycopg.errors.DuplicateTable: A relation of that name exists; nothing was changed.
    """
    if rows < 0 or seed not in _SEEDS:
        raise SettingsError(
            f"Cannot make {rows} rows from seed {seed}",
            where="embedded bookings",
            state_left="nothing was touched",
            next_step=f"Give rows >= 0 and a seed from 0 to {_SEEDS[-1]}.",
        )
    sections = _sections()

    def run(section: str, **parameters: int) -> None:
        # A multi-statement section must go without parameters: only then does psycopg use the simple query protocol.
        with connection.transaction():
            connection.execute("SET LOCAL TimeZone = 'UTC'; SET LOCAL maintenance_work_mem = '256MB'")
            connection.execute(sections[section], parameters or None)

    run("schema")
    run("hours", rows=rows, seed=seed)
    run("source")
    with connection.transaction():
        released = connection.execute("SELECT max(last_n) FROM booking_hours WHERE starts < %s", [_RELEASE]).fetchone()
    before = int(released[0]) if released else 0

    def insert(section: str, start: int, end: int) -> None:
        for done in range(start, end, CHUNK_ROWS):
            last = min(done + CHUNK_ROWS, end)
            run(section, first=done + 1, last=last, seed=seed)
            if on_progress:
                on_progress(last, rows)

    insert("insert_before_2023_10", 0, before)
    run("release_2023_10")
    insert("insert_since_2023_10", before, rows)
    run("indexes")
    run("finish")
    if on_progress:
        on_progress(rows, rows)


def _sections() -> dict[str, bytes]:
    """The statements of `bookings.sql` by section name; bytes, which psycopg takes as they are."""
    text = resources.files("migration_assets.embedded").joinpath("bookings.sql").read_text(encoding="utf-8")
    parts = re.split(r"^-- section: (\w+)\n", text, flags=re.MULTILINE)
    return {name: body.encode() for name, body in zip(parts[1::2], parts[2::2], strict=True)}
