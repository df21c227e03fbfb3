"""Examines whether the legacy holds rows that no week of the base has: before, between, beyond, NULL, infinite."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from psycopg import errors, sql

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.slice_state import SliceState
from migration_assets.domain.table_spec import quote_identifier
from migration_assets.postgres.ledger import SliceRecord, read_slices
from migration_assets.postgres.physical_order import read_physical_order
from migration_assets.postgres.preflight.wording import info, milliseconds
from migration_assets.postgres.readiness.known_values import sampled_values
from migration_assets.postgres.readiness.sides import Sides
from migration_assets.postgres.sessions import require_row
from migration_assets.postgres.sql_text import table_name

_CODE = "rows_outside"
_CAP = 10_000


def covered(record: SliceRecord) -> bool:
    """Whether the slice's rows are accounted for: followed, or left the stream with an archive."""
    left = record.state is SliceState.ARCHIVED and record.released_at is not None
    return record.under_cdc or left or record.state is SliceState.RETIRED


def examine_outside(sides: Sides) -> list[Finding]:
    """Exact where an index begins with the control column; else an estimate, which says so."""
    weeks = [record.week for record in read_slices(sides.base, sides.spec.relation) if covered(record)]
    if not weeks:
        remedy = "bring the quarters under CDC: materialize migrated_slice, then change_stream"
        return [Finding(_CODE, Area.DATA, Severity.BLOCKING, "no week is under CDC, archived or retired", remedy)]
    kind = sides.of_legacy.control_kind(sides.spec.control_column)
    places = _places(sorted(sides.calendar.bound_values(week, kind) for week in weeks))
    order = read_physical_order(sides.legacy, sides.spec.table, sides.spec.control_column)
    if order.control_index is None:
        return _estimated(sides, places)
    try:
        with sides.legacy.transaction(force_rollback=True):
            sides.legacy.execute(
                "SELECT set_config('statement_timeout', %s, true), set_config('enable_seqscan', 'off', true)",
                [milliseconds(sides.plan.scan_seconds)],
            )
            found = [(name, *_count(sides, condition)) for name, condition in places]
    except errors.QueryCanceled:
        remedy = f"raise the time for it, or find out why index {order.control_index} does not help"
        evidence = f"not known: counting took longer than {sides.plan.scan_seconds:g} s"
        return [Finding(_CODE, Area.DATA, Severity.BLOCKING, evidence, remedy)]
    by = f"exactly, by index {order.control_index}"
    findings = [
        Finding(
            _CODE,
            Area.DATA,
            Severity.BLOCKING,
            f"{rows:,}{' or more' if rows == _CAP else ''} rows {name}, e.g. {example} (counted {by})",
            _remedy(sides, name),
        )
        for name, rows, example in found
        if rows
    ]
    return findings or [info(_CODE, Area.DATA, f"every row lies in a week of the base (counted {by})")]


def _places(bounds: Sequence[tuple[Any, Any]]) -> list[tuple[str, sql.Composable]]:
    """Everywhere that no week is, as conditions on `v`."""
    v = sql.SQL("v")
    merged: list[list[Any]] = []
    for lower, upper in bounds:
        if merged and merged[-1][1] == lower:
            merged[-1][1] = upper
        else:
            merged.append([lower, upper])

    def where(text: str, *values: Any) -> sql.Composed:
        return sql.SQL(text).format(*map(sql.Literal, values), v=v)  # pyright: ignore[reportArgumentType]

    first, last = merged[0][0], merged[-1][1]
    places: list[tuple[str, sql.Composable]] = [
        (f"before the first week ({first})", where("{v} < {} AND {v} > '-infinity'", first)),
        (f"beyond the last week ({last})", where("{v} >= {} AND {v} < 'infinity'", last)),
    ]
    for (_, end), (start, _) in pairwise(merged):
        places.append((f"between two weeks ({end} to {start})", where("{v} >= {} AND {v} < {}", end, start)))
    places.append(("with an infinite time", where("{v} IN ('infinity', '-infinity')")))
    places.append(("without a time (NULL)", where("{v} IS NULL")))
    return places


def _count(sides: Sides, condition: sql.Composable) -> tuple[int, str]:
    row = sides.legacy.execute(
        sql.SQL(
            "SELECT count(*), coalesce(min(v)::text, 'NULL') FROM"
            " (SELECT v FROM (SELECT {c} AS v FROM {t}) AS t WHERE {w} LIMIT {cap}) AS capped"
        ).format(
            c=sql.Identifier(sides.spec.control_column),
            t=table_name(sides.spec.table),
            w=condition,
            cap=sql.Literal(_CAP),
        )
    ).fetchone()
    rows, example = require_row(row, "a count")
    return int(rows), str(example)


def _estimated(sides: Sides, places: Iterable[tuple[str, sql.Composable]]) -> list[Finding]:
    column = quote_identifier(sides.spec.control_column)
    index = f"CREATE INDEX CONCURRENTLY ON {sides.spec.table} ({column}); -- then they are counted exactly"
    kept, seen = 0, list[tuple[str, int]]()
    for name, condition in places:
        kept, hits = sampled_values(sides, condition)
        if hits:
            seen.append((name, hits))
    basis = f"an estimate by statistics, since no index begins with {column}"
    if not kept:
        evidence = f"not known: no index begins with {column}, and the legacy's table was never analyzed"
        return [Finding(_CODE, Area.DATA, Severity.BLOCKING, evidence, f"ANALYZE {sides.spec.table}; or {index}")]
    if seen:
        return [
            Finding(
                _CODE,
                Area.DATA,
                Severity.BLOCKING,
                f"rows {name}: {hits} of the {kept} values that ANALYZE kept ({basis})",
                _remedy(sides, name),
            )
            for name, hits in seen
        ]
    evidence = f"none of the {kept} values that ANALYZE kept lies outside ({basis}: a few rows may)"
    return [Finding(_CODE, Area.DATA, Severity.WARNING, evidence, index)]


def _remedy(sides: Sides, name: str) -> str:
    column = quote_identifier(sides.spec.control_column)
    if "infinite" in name or "NULL" in name:
        return f"give these rows of the legacy a real {column}, or delete them: no week can be theirs"
    return (
        "open their quarters and bring them under CDC (materialize quarter_partitions, migrated_slice, change_stream),"
        f" or correct {column} where no such time was meant"
    )
