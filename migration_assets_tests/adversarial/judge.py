"""Both sides at rest, read in full and compared as text; and with what the applications were told. No fingerprints."""

import time
from collections.abc import Iterable
from datetime import UTC
from hashlib import sha256

from psycopg import sql

from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.stream.heartbeats import reverse_arrived, send_reverse_marker
from migration_assets_tests.adversarial.applications import World
from migration_assets_tests.adversarial.table import CALENDAR, FIXED, row_text, session

_COLUMNS = (
    "SELECT attname::text FROM pg_attribute WHERE attrelid = 'public.bookings'::regclass AND attnum > 0"
    " AND NOT attisdropped ORDER BY 1"
)
_MARKER = (
    "INSERT INTO migration.markers (relation, id, kind, sent_at)"
    " VALUES (%s, nextval('migration.marker_id'), 'heartbeat', clock_timestamp()) RETURNING id"
)
_THERE = "SELECT FROM migration.markers WHERE relation = %s AND id = %s"


def drained(world: World, relation: str, seconds: float) -> bool:
    """Whether everything that the side in charge has committed reaches the other one in time."""
    source, give_up = world.side, time.monotonic() + seconds
    with session(world.legacy_url, "judge") as legacy, session(world.base_url, "judge") as base:
        if source == "legacy":
            row = legacy.execute(_MARKER, [relation]).fetchone()
            assert row
            marker = int(row[0])
        else:
            marker = send_reverse_marker(base, relation)
        while time.monotonic() < give_up:
            there = (
                base.execute(_THERE, [relation, marker]).fetchone() is not None
                if source == "legacy"
                else reverse_arrived(legacy, relation, marker)
            )
            if there:
                return True
            time.sleep(0.01)
    return False


def rows_of(
    url: str,
    columns: tuple[str, ...] = FIXED,
    *,
    within: Iterable[FiscalWeek] | None = None,
    besides: Iterable[FiscalWeek] = (),
) -> dict[int, str]:
    """Rows of the table as text, by their key; a key that is there twice counts as a text of its own.

    Args:
        url: Of the side.
        columns: Which make the text.
        within: Weeks whose rows alone are read; by default every row is.
        besides: Weeks whose rows are left out.
    """
    weeks = [CALENDAR.bounds(week) for week in (besides if within is None else within)]
    query = sql.SQL(
        "SELECT b.id, {} FROM public.bookings b WHERE %s = EXISTS (SELECT FROM"
        " unnest(%s::timestamptz[], %s::timestamptz[]) w (lower, upper)"
        " WHERE b.booked_at >= w.lower AND b.booked_at < w.upper) ORDER BY 1, 2"
    ).format(row_text(columns))
    values = [within is not None, [one.lower for one in weeks], [one.upper for one in weeks]]
    found: dict[int, str] = {}
    with session(url, "judge") as connection:
        for key, text in connection.execute(query, values):
            found[int(key)] = text if int(key) not in found else f"TWICE {found[int(key)]} {text}"
    return found


def places_of(url: str) -> dict[int, FiscalWeek | None]:
    """In which week each key lies; None where no calendar has it."""
    query = "SELECT id, CASE WHEN isfinite(booked_at) THEN booked_at AT TIME ZONE 'UTC' END FROM public.bookings"
    with session(url, "judge") as connection:
        return {
            int(key): CALENDAR.week_of(at.replace(tzinfo=UTC)) if at is not None else None
            for key, at in connection.execute(query.encode())
        }


def columns_of(url: str) -> tuple[str, ...]:
    with session(url, "judge") as connection:
        return tuple(str(row[0]) for row in connection.execute(_COLUMNS.encode()))


def difference(one: dict[int, str], other: dict[int, str]) -> list[int]:
    """Keys whose rows are not the same on both sides."""
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def digest(rows: dict[int, str]) -> str:
    """One text for a whole table."""
    return sha256("\n".join(f"{key} {rows[key]}" for key in sorted(rows)).encode()).hexdigest()
