"""One contract for questions: the same rows give the same answer from the base, from Parquet, and from both at once.

And it is PostgreSQL's answer, for every type that has one of DuckDB's which compares as it does; texts compare as with
COLLATE "C". What is left are types that are shown as PostgreSQL's text and compare as such: they are listed here.
"""

import re
import secrets
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from psycopg import IsolationLevel
from psycopg.conninfo import conninfo_to_dict

from migration_assets.archive.columns import StoredColumn, stored_columns
from migration_assets.archive.export import export_query, profile_slice
from migration_assets.archive.hot_rows import HotSide, ensure_hot_view
from migration_assets.archive.manifest import Manifest
from migration_assets.archive.parts import to_stored
from migration_assets.archive.querying import Engine, query_engine
from migration_assets.archive.store import ArchiveStore, open_store
from migration_assets.archive.writer import WriteLimits, write_slice
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalWeek
from migration_assets.domain.table_spec import QualifiedName, TableSpec
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.postgres.arrow_stream import arrow_stream
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import Connected, Timeouts, canonical_options, connect
from migration_assets_tests.archive import made_weeks as support
from migration_assets_tests.archive.every_type import EVERY_TYPE, TYPES, UNFIT
from migration_assets_tests.archive.journey import raw

SPEC = TableSpec(QualifiedName("public", "things"), "booked_at")
WEEKS = (support.WEEK, support.WEEK.next)
SIDES = ("hot", "cold", "mixed", "mixed the other way")
FIT = 100  # rows below have values that the column's exact type can carry
# Shown as PostgreSQL writes them, and compared so: PostgreSQL itself compares them in another way, or not at all.
COMPARED_AS_TEXT = re.compile(
    r"jsonb?|(numeric|double precision|real|timestamptz|bytea|jsonb|character\(3\)|public.mood|public.short)\[\]"
    r"|public\.(document|span|pair)|inet|cidr|ts(vector|query)|point|box|path|polygon|circle|line|lseg"
    r'|\w+range|\w+multirange|reg.*|pg_\w+|jsonpath|int2vector|oidvector|"char"'
)
# NaN, infinities and what goes beyond 26 digits before the point and 12 after it are no DECIMAL.
LIMITED = {"numeric", "numeric(39,2)", "public.bare_numeric"}
# Conditions on these go to the base.
PUSHED = re.compile(
    r"boolean|\w+int|integer|numeric\(.*|real|double precision|text|character[^\]]*|name|bytea|uuid|date|time[^\]]*"
)
# Values of these are equal to others that look otherwise, or the other way round.
GROUPED = {"real", "double precision", "interval", "timetz", "character(5)", "public.mood", "numeric(10,2)", "text[]"}
TEXTS = re.compile(r"text|character[^\]]*|bpchar|public\.(\w*mood|short|padded)|name|json")


@dataclass(frozen=True)
class Asked:
    """The table's columns, and an engine for each way in which its two weeks can be split."""

    base: Connected
    engines: dict[str, Engine]
    kinds: dict[str, str]

    def same(self, question: str, sides: Sequence[str] = SIDES) -> list[tuple[Any, ...]]:
        """The answer, which must be the same wherever the rows are."""
        answers = {side: self.engines[side].answer(question).rows for side in sides}
        for side in sides[1:]:
            differing = [
                (number, one, other)
                for row, its in zip(answers["hot"], answers[side], strict=True)
                for number, (one, other) in enumerate(zip(row, its, strict=True))
                if str(one) != str(other)
            ]
            told = [
                (list(self.kinds.items())[n % len(self.kinds)], str(a)[:200], str(b)[:200]) for n, a, b in differing
            ]
            assert not differing, f"{side}: {told}"
        return answers["hot"]


def table(base: Connected) -> dict[str, str]:
    """The same rows in both weeks, times aside; from FIT on such as the exact type cannot carry. Columns by name."""
    raw(base, TYPES)
    ensure_ledger(base)
    kinds = {f"c{number}": kind for number, (kind, _) in enumerate(EVERY_TYPE)}
    columns = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
    raw(base, f"CREATE TABLE public.things (n integer, booked_at timestamptz NOT NULL, {columns})")
    rows = [dict[str, str]() for _ in range(max(len(values) for _, values in EVERY_TYPE) + 1)]
    for (name, _), (_, values) in zip(kinds.items(), EVERY_TYPE, strict=True):
        for row, value in zip(rows, values, strict=False):
            row[name] = value
    by_kind = {kind: name for name, kind in kinds.items()}
    unfit = [{by_kind[kind]: value} for kind, value in UNFIT]
    bounds = [FiscalCalendar().bounds(week) for week in WEEKS]
    numbered = [*enumerate(rows), *enumerate(unfit, FIT)]
    for bound in bounds:
        for number, row in numbered:
            # The values in both weeks, those that no exact type carries in the second week alone.
            if bound is bounds[0] and number >= FIT:
                continue
            names = "".join(f", {name}" for name in row)
            values = "".join(f", {value}" for value in row.values())
            raw(base, f"INSERT INTO public.things (n, booked_at{names}) VALUES ({number}, '{bound.lower}'{values})")
    return kinds


def archived(base: Connected, url: str, store: ArchiveStore, week: FiscalWeek) -> Manifest:
    """The week's rows, by the way that every archive goes."""
    leaf = QualifiedName("public", f"things_{week.name.lower()}")
    bounds = FiscalCalendar().bounds(week)
    of_week = f"booked_at >= '{bounds.lower}' AND booked_at < '{bounds.upper}'"
    raw(base, f"CREATE TABLE {leaf} AS SELECT * FROM public.things WHERE {of_week}")
    root = require_table(base, SPEC.table, "base")
    base.isolation_level, base.read_only = IsolationLevel.REPEATABLE_READ, True
    with base.transaction():
        profile = profile_slice(base, leaf, root)
        [(snapshot,)] = base.execute("SELECT pg_export_snapshot()").fetchall()
        manifest = replace(
            support.manifest([], week), relation="public.things", key_columns=("n", "booked_at"),
            rows=profile.native.rows, native=profile.native, portable=profile.portable, columns=profile.columns,
            statistics=profile.statistics, snapshot_at=datetime.now(UTC), archived_at=datetime.now(UTC),
        )  # fmt: skip
        query = export_query(leaf, profile.columns, ["booked_at", "n"]).as_string(base)
        with arrow_stream(url, str(snapshot), query) as batches:
            stored = (to_stored(batch, profile.columns) for batch in batches)
            written = write_slice(store, manifest, stored, WriteLimits(), writer=support.WRITER)
    base.isolation_level, base.read_only = None, None
    return written


@pytest.fixture(scope="module")
def asked(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Generator[Asked]:
    """Settings of the database that change how values are written must not matter."""
    name = f"test_{secrets.token_hex(6)}"
    servers.recreate_database("base", name)
    url = servers.base_url(name)
    store = open_store(str(tmp_path_factory.mktemp("contract")))
    base = connect(url, "test", Timeouts())
    kinds = table(base)
    for setting in ("DateStyle = 'German'", "IntervalStyle = 'sql_standard'", "TimeZone = 'Asia/Kathmandu'",
                    "extra_float_digits = -5", "bytea_output = 'escape'", "quote_all_identifiers = on"):  # fmt: skip
        raw(base, f"ALTER DATABASE {name} SET {setting}")
    manifests = [archived(base, url, store, week) for week in WEEKS]
    columns = stored_columns(require_table(base, SPEC.table, "base"))
    splits: dict[str, tuple[Sequence[FiscalWeek], list[Manifest]]] = {
        "hot": (WEEKS, []),
        "cold": ((), manifests),
        "mixed": (WEEKS[:1], manifests[1:]),
        "mixed the other way": (WEEKS[1:], manifests[:1]),
    }
    with ExitStack() as stack:
        engines = {
            side: stack.enter_context(engine(base, url, store, columns, weeks, cold))
            for side, (weeks, cold) in splits.items()
        }
        yield Asked(base, engines, kinds)
    base.close()
    servers.drop_database("base", name)


def engine(
    base: Connected,
    url: str,
    store: ArchiveStore,
    columns: tuple[StoredColumn, ...],
    weeks: Sequence[FiscalWeek],
    cold: list[Manifest],
) -> Any:
    view = ensure_hot_view(base, SPEC, columns)
    bounds = [(week, FiscalCalendar().bounds(week)) for week in weeks]
    parts = {name: str(value) for name, value in conninfo_to_dict(url).items() if value}
    hot = HotSide(
        connection=parts, schema=view.schema, view=view.name, control_column="booked_at", options=canonical_options(),
        weeks=[(week.quarter.key, week.name, str(found.lower), str(found.upper)) for week, found in bounds],
    )  # fmt: skip
    return query_engine(store, "public", "things", hot, cold, columns, memory_mb=512)


def listed(asked: Asked, expression: str) -> list[Any]:
    """An expression of every column, `{0}` in it, all in one question."""
    [row] = asked.same(f"SELECT {', '.join(expression.format(name) for name in asked.kinds)} FROM things")
    return list(row)


def require_postgresqls(asked: Asked, ours: str, theirs: str) -> None:
    """What the base's rows give is what PostgreSQL says of the same, for every type that is compared as it does."""
    names = typed(asked)
    values = ", ".join(ours.format(name) for name in names)
    [found] = asked.same(f"SELECT {values} FROM things WHERE n < {FIT}", SIDES[:1])
    right = of_postgresql(asked, theirs, names)
    differing = [
        (asked.kinds[name], *pair) for name, *pair in zip(names, found, right, strict=True) if pair[0] != pair[1]
    ]
    assert differing == []


def typed(asked: Asked) -> list[str]:
    return [n for n, kind in asked.kinds.items() if kind not in LIMITED and not COMPARED_AS_TEXT.fullmatch(kind)]


def of_postgresql(asked: Asked, expression: str, names: list[str]) -> list[Any]:
    collatable = {
        name for name, kind in asked.kinds.items()
        if re.fullmatch(r"text.*|character.*|bpchar|public\.(short|padded|words)|name", kind)
    }  # fmt: skip
    values = ", ".join(expression.format(f'{name} COLLATE "C"' if name in collatable else name) for name in names)
    [row] = raw(asked.base, f"SELECT {values} FROM public.things WHERE n < {FIT}")
    return list(row)


def test_every_value_is_shown_the_same(asked: Asked) -> None:
    listed(asked, "list({0}::VARCHAR ORDER BY booked_at, n)")
    listed(asked, "typeof(any_value({0}))")
    asked.same("SELECT * FROM things ORDER BY booked_at, n")


def test_every_type_has_one_order_and_where_it_is_not_that_of_texts_it_is_postgresql_s(asked: Asked) -> None:
    listed(asked, "list(n ORDER BY {0}, n, booked_at)")
    require_postgresqls(asked, "list(n ORDER BY {0}, n, booked_at)", "array_agg(n ORDER BY {0}, n, booked_at)")


def test_what_is_equal_and_what_is_not_is_the_same(asked: Asked) -> None:
    listed(asked, "[min({0})::VARCHAR, max({0})::VARCHAR, count(DISTINCT {0})::VARCHAR, count({0})::VARCHAR]")
    require_postgresqls(asked, "[count(DISTINCT {0}), count({0})]", "ARRAY[count(DISTINCT {0}), count({0})]")
    rows = "WITH t AS MATERIALIZED (SELECT * FROM things)"
    names = [name for name, kind in asked.kinds.items() if kind in GROUPED]
    groups = [f"SELECT '{name}', list(c ORDER BY c) FROM (SELECT count(*) c FROM t GROUP BY {name})" for name in names]
    distinct = [f"SELECT '{name} ', [count(*)] FROM (SELECT DISTINCT {name} FROM t)" for name in names]
    asked.same(f"{rows} SELECT * FROM ({' UNION ALL '.join(groups + distinct)}) ORDER BY ALL", SIDES[:3])


@pytest.mark.long
def test_conditions_hold_for_the_same_rows_whoever_looks_at_them(asked: Asked) -> None:
    parts: list[str] = []
    for name, kind in asked.kinds.items():
        if PUSHED.fullmatch(kind):
            values = listed_one(asked, name)
            if not values:
                continue
            literal = "'" + values[len(values) // 2].replace("'", "''") + "'"
            for text in (f"{name} = {literal}", f"{name} < {literal}"):
                rows = f"SELECT list(n ORDER BY booked_at, n) FROM things WHERE {text}"
                parts.append(f"SELECT '{text.replace(chr(39), chr(39) * 2)}', ({rows})")
    asked.same(" UNION ALL ".join(parts) + " ORDER BY 1", SIDES[:2])


def listed_one(asked: Asked, name: str) -> list[str]:
    rows = f"SELECT list(DISTINCT {name}::VARCHAR ORDER BY {name}::VARCHAR) FROM things"
    [(texts,)] = asked.engines["cold"].answer(f"{rows} WHERE {name} IS NOT NULL AND n < {FIT}").rows
    return texts or []


@pytest.mark.long
def test_patterns_match_the_same_texts(asked: Asked) -> None:
    names = [name for name, kind in asked.kinds.items() if TEXTS.fullmatch(kind)]
    for pattern in ("%a", "_", "", "ab", "ab   ", "A%"):
        matching = [f"list(n ORDER BY booked_at, n) FILTER (WHERE {name} LIKE '{pattern}')" for name in names]
        asked.same(f"SELECT {', '.join(matching)} FROM things")
    # Of this one two comparisons go to the base.
    begins = [
        f"SELECT '{name}', (SELECT list(n ORDER BY booked_at, n) FROM things WHERE {name} LIKE 'a%')" for name in names
    ]
    asked.same(" UNION ALL ".join(begins) + " ORDER BY 1", SIDES[:2])
    padded = next(name for name, kind in asked.kinds.items() if kind == "character(5)")
    [(found, counted)] = asked.same(f"SELECT any_value({padded}), count(*) FROM things WHERE {padded} = 'ab'")
    assert (found, counted) == ("ab", 2)


@pytest.mark.long
def test_what_python_has_no_value_for_is_told_as_it_is(asked: Asked) -> None:
    """An infinity is no day, and a month is not thirty of them."""
    names = {kind: name for name, kind in asked.kinds.items()}
    for kind in ("date", "timestamp", "timestamptz"):
        [(first, last)] = asked.same(f"SELECT min({names[kind]}), max({names[kind]}) FROM things WHERE n < {FIT}")
        assert (first, last) == ("-infinity", "infinity")
    day, span = names["date"], names["interval"]
    found = asked.same(f"SELECT {day} FROM things WHERE {day} < '0001-01-01' AND isfinite({day}) ORDER BY {day}, n")
    assert [row[0] for row in found][:4] == ["4713-01-01 BC", "4713-01-01 BC", "0044-03-15 BC", "0044-03-15 BC"]
    # PostgreSQL takes it for 29 days and a second, whatever its parts.
    [(alike, more)] = asked.same(
        f"SELECT count(*) FILTER (WHERE {span} = '29 days 00:00:01'), count(*) FILTER (WHERE {span} > '1 hour')"
        " FROM things"
    )
    assert alike == 2
    [(right,)] = raw(asked.base, f"SELECT count(*) FROM public.things WHERE {span} > '1 hour'")
    assert more == right
    # Beyond what DuckDB can hold: nothing rather than another time.
    for number, (kind, value) in enumerate(UNFIT, FIT):
        if value.startswith("'294"):
            assert asked.same(f"SELECT {names[kind]} FROM things WHERE n = {number}") == [(None,)]
