"""The last word: both sides read in full and compared as text, row by row, with no fingerprint anywhere."""

import time
from collections import Counter

from psycopg import sql

from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.states import SliceState
from migration_assets.ledger.slices import read_slices
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.runtime import Migration
from migration_assets_tests.convergence.table import CALENDAR, COLUMNS
from migration_assets_tests.freezes import patience

UNDER_CDC = frozenset({SliceState.STREAMING, SliceState.VALIDATED, SliceState.SIGNED_OFF})


def drain(migration: Migration, seconds: float = 60.0) -> float:
    """Wait until everything that the legacy has committed so far is on the base; how long that took."""
    began = time.monotonic()
    with migration.databases.session("legacy", "test") as legacy, migration.databases.session("base", "test") as base:
        row = legacy.execute(
            "INSERT INTO migration.markers (relation, id, kind, sent_at)"
            " VALUES (%s, nextval('migration.marker_id'), 'heartbeat', clock_timestamp()) RETURNING id",
            [migration.spec.relation],
        ).fetchone()
        marker = require_row(row, "the marker")[0]
        there = "SELECT FROM migration.markers WHERE relation = %s AND id = %s"
        while base.execute(there, [migration.spec.relation, marker]).fetchone() is None:
            assert time.monotonic() - began < patience(seconds), f"marker {marker} did not arrive within {seconds:g} s"
            time.sleep(0.01)
    return time.monotonic() - began


def states(migration: Migration) -> dict[FiscalWeek, SliceState]:
    """What the ledger says of every week."""
    with migration.databases.session("base", "test") as base:
        return {record.week: record.state for record in read_slices(base, migration.spec.relation)}


def require_converged(migration: Migration) -> int:
    """Compare every week under CDC after a drain; how many rows were compared.

    Raises:
        AssertionError: A row is on one side alone, or a key is twice in the base. Names the first few.
    """
    weeks = [week for week, state in states(migration).items() if state in UNDER_CDC]
    compared = 0
    with migration.databases.session("legacy", "test") as legacy, migration.databases.session("base", "test") as base:
        for week in weeks:
            of_legacy, of_base = contents(legacy, week), contents(base, week)
            lost, surplus = of_legacy - of_base, of_base - of_legacy
            assert of_legacy == of_base, (
                f"{week}: {lost.total()} rows are on the legacy alone, {surplus.total()} on the base alone;"
                f" legacy: {_shortened(lost)}; base: {_shortened(surplus)}"
            )
            compared += of_legacy.total()
        twice = base.execute(
            sql.SQL(
                "SELECT id, array_agg(booked_at::text) FROM public.bookings WHERE {} GROUP BY 1 HAVING count(*) > 1"
            ).format(sql.SQL(" OR ").join(_in(week) for week in weeks))
        ).fetchall()
        assert not twice, f"keys that are twice in the base: {twice[:5]}"
    return compared


def contents(connection: Connected, week: FiscalWeek) -> Counter[str]:
    """Every row of the week, as text."""
    names = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
    query = sql.SQL("SELECT row({})::text FROM public.bookings WHERE {}").format(names, _in(week))
    return Counter(str(row[0]) for row in connection.execute(query))


def _in(week: FiscalWeek) -> sql.Composed:
    bounds = CALENDAR.bounds(week)
    return sql.SQL("(booked_at >= {} AND booked_at < {})").format(bounds.lower, bounds.upper)


def _shortened(rows: Counter[str]) -> list[str]:
    return [row[:120] for row in sorted(rows)[:4]]
