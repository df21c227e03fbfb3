"""The demo's last word: both sides read whole and compared row by row, without a fingerprint anywhere."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from psycopg import sql

from migration_assets.domain.errors import StreamError
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.fingerprints import in_range
from migration_assets.postgres.retries import wait_until
from migration_assets.postgres.sessions import Connected
from migration_assets.postgres.sql_text import table_name
from migration_assets.readiness.step import side_in_charge
from migration_assets.runtime import Migration
from migration_assets.stream.heartbeats import has_arrived, reverse_arrived, send_heartbeat, send_reverse_marker

_DRAIN_SECONDS = 900.0  # on a machine without time for it, too: what stands still for good is told by the watch


@dataclass(frozen=True)
class FullComparison:
    """Rows read on both sides, and of those that differ how many and the first."""

    rows: int
    differing: int
    first: str


def drain(migration: Migration) -> None:
    """Until a marker that is written now, where writes belong, is on the other side, and so everything before it.

    Raises:
        StreamError: It did not arrive.
    """
    relation, side = migration.spec.relation, side_in_charge(migration)
    with migration.databases.session("legacy", "demo") as legacy, migration.databases.session("base", "demo") as base:
        marker = send_heartbeat(legacy, relation) if side == "legacy" else send_reverse_marker(base, relation)

        def arrived() -> bool:
            if side == "legacy":
                return has_arrived(base, relation, marker)
            return reverse_arrived(legacy, relation, marker)

        if not wait_until(arrived, seconds=_DRAIN_SECONDS):
            raise StreamError(f"the stream did not drain within {_DRAIN_SECONDS:g} s", where=relation)


def compare_everything(migration: Migration, period: FiscalQuarter | FiscalWeek) -> FullComparison:
    """Every row of the quarter or week, all columns as text, in the order of the base's primary key, side by side."""
    with migration.databases.session("legacy", "demo") as legacy, migration.databases.session("base", "demo") as base:
        statement = _everything(migration, legacy, period)
        rows = differing = 0
        first = ""
        for one, other in zip_longest(_lines(legacy, statement), _lines(base, statement)):
            rows += 1
            if one != other:
                differing += 1
                first = first or f"legacy {one!r}, base {other!r}"
    return FullComparison(rows, differing, first)


def _everything(migration: Migration, legacy: Connected, period: FiscalQuarter | FiscalWeek) -> sql.Composed:
    spec = migration.spec
    description = require_table(legacy, spec.table, "legacy")
    bounds = migration.calendar.bound_values(period, description.control_kind(spec.control_column))
    return sql.SQL("COPY (SELECT {} FROM {} WHERE {} ORDER BY {}) TO STDOUT").format(
        sql.SQL(", ").join(sql.Identifier(column.name) for column in description.columns),
        table_name(spec.table),
        in_range(spec.control_column, bounds),
        sql.SQL(", ").join(sql.Identifier(name) for name in description.base_primary_key(spec.control_column)),
    )


def _lines(connection: Connected, statement: sql.Composed) -> Iterator[bytes]:
    """COPY sends one message a row."""
    with connection.cursor().copy(statement) as copy:
        for message in copy:
            yield bytes(message)
