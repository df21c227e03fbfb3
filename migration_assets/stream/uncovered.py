"""Rows outside all weeks: before the first, between two, beyond the last, with an infinite time or NULL."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from psycopg import sql

from migration_assets.domain.table_spec import TableSpec, quote_identifier
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import table_name

CAP = 10_000
"""At most this many rows are counted in one place: more would not change the message."""


@dataclass(frozen=True)
class Place:
    """A part of the control column's range that no week covers.

    Attributes:
        name: In words, to follow "rows": `beyond the last week (…)`.
        condition: SQL, on the column's value `v`.
        is_time: Whether a week could be opened there.
    """

    name: str
    condition: sql.Composable
    is_time: bool = True


@dataclass(frozen=True)
class Found:
    """Rows found in such a place.

    `rows` is at most `CAP`, `example` is the lowest value among them, `tables` are the partitions that hold them.
    """

    place: Place
    rows: int
    example: str
    tables: tuple[str, ...]

    def __str__(self) -> str:
        more = " or more" if self.rows >= CAP else ""
        return f"{self.rows:,}{more} row{'' if self.rows == 1 else 's'} {self.place.name}, e.g. {self.example}"


def places_without(bounds: Iterable[tuple[Any, Any]]) -> list[Place]:
    """All places outside these half-open ranges; every time where there is no range."""
    v = sql.SQL("v")
    merged: list[list[Any]] = []
    for lower, upper in sorted(bounds):
        if merged and merged[-1][1] == lower:
            merged[-1][1] = upper
        else:
            merged.append([lower, upper])

    def where(text: str, *values: Any) -> sql.Composed:
        return sql.SQL(text).format(*map(sql.Literal, values), v=v)  # pyright: ignore[reportArgumentType]

    places: list[Place] = []
    if merged:
        first, last = merged[0][0], merged[-1][1]
        places.append(Place(f"before the first week ({first})", where("{v} < {} AND {v} > '-infinity'", first)))
        places.append(Place(f"beyond the last week ({last})", where("{v} >= {} AND {v} < 'infinity'", last)))
    else:
        places.append(Place("at a time that no week has", where("{v} > '-infinity' AND {v} < 'infinity'")))
    for (_, end), (start, _) in pairwise(merged):
        places.append(Place(f"between two weeks ({end} to {start})", where("{v} >= {} AND {v} < {}", end, start)))
    places.append(Place("with an infinite time", where("{v} IN ('infinity', '-infinity')"), is_time=False))
    places.append(Place("without a time (NULL)", where("{v} IS NULL"), is_time=False))
    return places


def count_in(connection: Connected, spec: TableSpec, places: Iterable[Place]) -> list[Found]:
    """Return those places that hold rows of the session's table; cheap if an index begins with the control column.

    It runs in the caller's transaction, or statement by statement if there is none. Where nothing is written meanwhile
    both give the same answer.
    """
    found: list[Found] = []
    wanted = list(places)
    if not _any_row(connection, spec, wanted):
        return found
    for place in wanted:
        row = connection.execute(
            sql.SQL(
                "SELECT count(*), coalesce(min(v)::text, 'NULL'), array_agg(DISTINCT o::regclass::text) FROM"
                " (SELECT v, o FROM (SELECT {c} AS v, tableoid AS o FROM {t}) AS t WHERE {w} LIMIT {cap}) AS capped"
            ).format(
                c=sql.Identifier(spec.control_column),
                t=table_name(spec.table),
                w=place.condition,
                cap=sql.Literal(CAP),
            )
        ).fetchone()
        rows, example, tables = require_row(row, "a count")
        if rows:
            found.append(Found(place, int(rows), str(example), tuple(tables)))
    return found


def any_of(spec: TableSpec, places: Iterable[Place]) -> sql.Composed:
    """Return a condition on the table's rows: true for those in one of the places."""
    return sql.SQL("(SELECT {} FROM (SELECT {} AS v) AS one)").format(
        sql.SQL(" OR ").join(sql.SQL("({})").format(place.condition) for place in places),
        sql.Identifier(spec.control_column),
    )


def _any_row(connection: Connected, spec: TableSpec, places: Iterable[Place]) -> bool:
    """Look for all places in one query: where no index helps, the table is read once instead of once a place."""
    row = connection.execute(
        sql.SQL("SELECT EXISTS (SELECT FROM (SELECT {c} AS v FROM {t}) AS t WHERE {w})").format(
            c=sql.Identifier(spec.control_column),
            t=table_name(spec.table),
            w=sql.SQL(" OR ").join(sql.SQL("({})").format(place.condition) for place in places),
        )
    ).fetchone()
    return bool(require_row(row, "EXISTS")[0])


def remedy_of(spec: TableSpec, place: Place) -> str:
    """The advice about such rows of the legacy, while it is in charge."""
    column = quote_identifier(spec.control_column)
    if not place.is_time:
        return f"give these rows of the legacy a real {column}, or delete them: they cannot belong to any week"
    return (
        "open their quarters and bring them under CDC (materialize quarter_partitions, migrated_slice, change_stream),"
        f" or correct {column} where no such time was meant"
    )
