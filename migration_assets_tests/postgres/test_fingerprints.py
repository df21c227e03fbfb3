"""The contract of fingerprints, on both versions of PostgreSQL: equal fingerprints mean equal rows."""

import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql

from migration_assets.domain.fingerprint import EMPTY, METHOD, Fingerprint
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.fingerprints import (
    EVERYTHING,
    fingerprint_query,
    hashed_columns,
    in_range,
    take_fingerprint,
)
from migration_assets.postgres.sessions import Connected, Databases, Side
from migration_assets_tests.ground import CALENDAR, QUARTER, week

SIDES: tuple[Side, ...] = ("legacy", "base")
_SEED = 20240401
_TYPES = """
CREATE TYPE public.mood AS ENUM ('sad', 'so so', 'glad');
CREATE TYPE public.pair AS (a timestamptz, b float8, c interval, d bytea, e money);
CREATE DOMAIN public.price AS numeric;
"""
# Type, value, another value that a careless hash takes for the same one.
_CHANGES = [
    ("numeric", "1.0", "1.00"),
    ("numeric", "0", "0.0"),
    ("numeric", "1.0", "NULL"),
    ("public.price", "1.5", "1.50"),
    ("interval", "'1 day'", "'24:00'"),
    ("interval", "'1 month'", "'30 days'"),
    ("bigint", "1", "4294967296"),
    ("bigint", "-1", "4294967296"),
    ("bigint", "0", "-4294967296"),
    ("integer", "1", "2"),
    ("integer", "0", "NULL"),
    ("smallint", "1", "-1"),
    ("boolean", "true", "false"),
    ("boolean", "false", "NULL"),
    ("float8", "0", "'-0'"),
    ("float8", "0.1", "0.10000000000000002"),
    ("float4", "0", "'-0'"),
    ("jsonb", "'1.0'", "'1.00'"),
    ("jsonb", "'{\"a\": 1}'", "'{\"a\": null}'"),
    ("json", "'[1,2]'", "'[1, 2]'"),
    ("char(5)", "'ab'", "'ac'"),
    ("bpchar", "'ab'", "'ab   '"),
    ("text", "NULL", "''"),
    ("text", "'a'", "'a '"),
    ("text", "'é'", "E'e\\u0301'"),
    ("varchar(9)", "'a'", "'A'"),
    ("timestamptz", "'2024-04-01 00:00Z'", "'2024-04-01 00:00:00.000001Z'"),
    ("timestamptz", "'2024-04-01 00:00Z'", "'2024-04-01 01:00Z'"),
    ("timestamptz", "'infinity'", "'-infinity'"),
    ("timestamp", "'2024-04-01 00:00'", "'2024-04-01 00:00:00.000001'"),
    ("timetz", "'12:00+00'", "'13:00+01'"),
    ("time", "'00:00'", "'24:00'"),
    ("date", "'2024-04-01'", "'2024-04-02'"),
    ("integer[]", "'{1,2}'", "'{2,1}'"),
    ("integer[]", "'{1,NULL}'", "'{1}'"),
    ("integer[]", "'{1}'", "'[0:0]={1}'"),
    ("numeric[]", "'{1.0}'", "'{1.00}'"),
    ("text[]", "'{}'", "NULL"),
    ("text[]", "'{NULL}'", "'{\"NULL\"}'"),
    ("bytea", "'\\x00'", "'\\x01'"),
    ("bytea", "'\\x'", "'\\x00'"),
    ("uuid", "'00000000-0000-0000-0000-000000000000'", "'00000000-0000-0000-0000-000000000001'"),
    ("public.mood", "'sad'", "'so so'"),
    ("public.mood[]", "'{sad}'", "'{sad,sad}'"),
    ("numrange", "'[1.0,2)'", "'[1.00,2)'"),
    ("inet", "'10.0.0.1/8'", "'10.0.0.1/9'"),
    ("money", "'1.00'", "'1.01'"),
    ("point", "'(0,0)'", "'(0,-0)'"),
    ("tsvector", "'a:1'", "'a:2'"),
    ("bit varying", "B'1'", "B'10'"),
    ("public.pair", "ROW('2024-04-01Z', 1, '1 day', '\\x00', 1)", "ROW('2024-04-01Z', 1, '24:00', '\\x00', 1)"),
]


@pytest.fixture(scope="module")
def both(servers: EmbeddedServers) -> Generator[Databases]:
    """One database on each version, shared by all tests here: each works in a transaction that it rolls back."""
    for side in SIDES:
        servers.recreate_database(side, "fingerprints")
    databases = Databases(servers.legacy_url("fingerprints"), servers.base_url("fingerprints"))
    for side in SIDES:
        with databases.session(side, "setup") as connection:
            if side == "base":
                connection.execute("CREATE TYPE public.other AS ENUM ('takes', 'some', 'object ids')")
            connection.execute(_TYPES)
    yield databases
    for side in SIDES:
        servers.drop_database(side, "fingerprints")


@contextmanager
def _scratch(databases: Databases, side: Side) -> Generator[Connected]:
    """A session in a transaction that is rolled back."""
    with databases.session(side, "test") as connection, connection.transaction(force_rollback=True):
        yield connection


def _raw(connection: Connected, statement: str) -> None:
    connection.execute(statement.encode())


def _of(connection: Connected, table: str, where: sql.Composable = EVERYTHING) -> Fingerprint:
    name = QualifiedName("public", table)
    return take_fingerprint(connection, name, hashed_columns(require_table(connection, name, "test")), where)


def _make_things(connection: Connected) -> None:
    columns = ", ".join(f"c{number} {change[0]}" for number, change in enumerate(_CHANGES))
    _raw(connection, f"CREATE TABLE public.things (id integer, {columns})")
    before = ", ".join(change[1] for change in _CHANGES)
    after = ", ".join(change[2] for change in _CHANGES)
    _raw(connection, f"INSERT INTO public.things VALUES (1, {before}), (2, {after}), (3, {before})")


def test_the_method_has_another_name_whenever_it_gives_other_sums(both: Databases) -> None:
    """A ledger keeps fingerprints for years: who changes how they are taken must change METHOD, and this constant."""
    for side in SIDES:
        with _scratch(both, side) as connection:
            _make_things(connection)
            found = _of(connection, "things")
        pinned = Fingerprint(3, -3357696481925330502, -1906593932660281223)
        assert {METHOD: found} == {"image-v2": pinned}, side


@pytest.mark.long
def test_a_changed_value_of_any_type_changes_the_fingerprint_alike_on_both_versions(both: Databases) -> None:
    found: dict[Side, list[Fingerprint]] = {}
    for side in SIDES:
        with _scratch(both, side) as connection:
            _make_things(connection)
            fingerprints = [_of(connection, "things")]
            for number, change in enumerate(_CHANGES):
                _raw(connection, f"UPDATE public.things SET c{number} = {change[2]} WHERE id = 1")
                fingerprints.append(_of(connection, "things"))
                _raw(connection, f"UPDATE public.things SET c{number} = {change[1]} WHERE id = 1")
                assert _of(connection, "things") == fingerprints[0]
            found[side] = fingerprints
    unnoticed = [
        change
        for change, fingerprint in zip(_CHANGES, found["legacy"][1:], strict=True)
        if fingerprint.sum_a == found["legacy"][0].sum_a or fingerprint.sum_b == found["legacy"][0].sum_b
    ]
    assert unnoticed == []
    assert found["legacy"] == found["base"]


@pytest.mark.parametrize("side", SIDES)
def test_a_collation_that_takes_two_texts_for_equal_does_not_hide_a_change(both: Databases, side: Side) -> None:
    with _scratch(both, side) as connection:
        try:
            with connection.transaction():
                _raw(
                    connection,
                    "CREATE COLLATION public.blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
                )
        except psycopg.errors.FeatureNotSupported:
            pytest.skip("these PostgreSQL binaries have no ICU, so no collation can be nondeterministic")
        _raw(connection, "CREATE TABLE public.things (v text COLLATE public.blind)")
        _raw(connection, "INSERT INTO public.things VALUES ('case')")
        before = _of(connection, "things")
        _raw(connection, "UPDATE public.things SET v = 'CASE'")
        assert _of(connection, "things") != before


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("column", "one", "two"), [("mood", "'sad'", "'glad'"), ("pair", "NULL", "ROW(NULL, 1, NULL, NULL, NULL)")]
)
def test_a_users_own_cast_to_text_does_not_hide_a_change(
    both: Databases, side: Side, column: str, one: str, two: str
) -> None:
    with _scratch(both, side) as connection:
        _raw(connection, f"CREATE TABLE public.things (v public.{column})")
        _raw(connection, f"INSERT INTO public.things VALUES ({one})")
        plain = _of(connection, "things")
        _raw(
            connection,
            f"CREATE FUNCTION public.lossy(public.{column}) RETURNS text LANGUAGE sql AS 'SELECT ''same''::text'",
        )
        _raw(connection, f"CREATE CAST (public.{column} AS text) WITH FUNCTION public.lossy")
        assert _of(connection, "things") == plain
        _raw(connection, f"UPDATE public.things SET v = {two}")
        assert _of(connection, "things") != plain


@pytest.mark.parametrize("side", SIDES)
def test_values_that_two_rows_swapped_are_found_where_plain_sums_of_record_hashes_miss_them(
    both: Databases, side: Side
) -> None:
    """The reason for the second hash: both sums of the usual form stay the same for a large share of the swaps."""
    print(f"seed {_SEED}")
    dice = random.Random(_SEED)
    pairs = 400
    with _scratch(both, side) as connection:
        _raw(connection, "CREATE TABLE public.swaps (pair integer, after boolean, a integer, b text, c uuid, d date)")
        rows: list[tuple[Any, ...]] = []
        for pair in range(pairs):
            one, two = (
                [dice.randrange(10**6), f"t{dice.random()}", f"{dice.getrandbits(128):032x}", f"2024-04-{day}"]
                for day in dice.sample(range(10, 31), 2)
            )
            rows += [(pair, False, *one), (pair, False, *two)]
            column = dice.randrange(4)
            one[column], two[column] = two[column], one[column]
            rows += [(pair, True, *one), (pair, True, *two)]
        with connection.cursor().copy("COPY public.swaps FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        _raw(connection, "CREATE INDEX ON public.swaps (pair, after)")
        columns = hashed_columns(require_table(connection, QualifiedName("public", "swaps"), "test"))[2:]

        def ours(pair: int, *, after: bool) -> Fingerprint:
            where = sql.SQL("pair = {} AND after = {}").format(pair, after)
            return take_fingerprint(connection, QualifiedName("public", "swaps"), columns, where)

        missed = [pair for pair in range(pairs) if ours(pair, after=False) == ours(pair, after=True)]
        naive_missed = connection.execute(
            "SELECT count(*) FROM (SELECT pair FROM (SELECT pair, after,"
            " sum(hash_record_extended(row(a, b, c, d), 0)) x, sum(hash_record_extended(row(a, b, c, d), 7)) y"
            " FROM public.swaps GROUP BY pair, after) s GROUP BY pair HAVING count(DISTINCT (x, y)) = 1) m"
        ).fetchone()
    assert naive_missed is not None
    print(f"{side}: of {pairs} swaps the naive form misses {naive_missed[0]}, ours {len(missed)}")
    assert missed == []
    assert naive_missed[0] > pairs / 4


@pytest.mark.parametrize("side", SIDES)
def test_a_lost_row_and_a_row_that_is_there_twice_are_found(both: Databases, side: Side) -> None:
    with _scratch(both, side) as connection:
        _raw(connection, "CREATE TABLE public.things (id integer, v text)")
        _raw(connection, "INSERT INTO public.things SELECT n, 'v' FROM generate_series(1, 100) n")
        whole = _of(connection, "things")
        one = _of(connection, "things", sql.SQL("id = 7"))
        assert (whole.rows, one.rows) == (100, 1)
        _raw(connection, "INSERT INTO public.things VALUES (7, 'v')")
        assert _of(connection, "things") == whole + one
        _raw(connection, "INSERT INTO public.things VALUES (7, 'v')")
        # A XOR would have come back to where it was.
        assert _of(connection, "things").sum_a == whole.sum_a + 2 * one.sum_a != whole.sum_a
        _raw(connection, "DELETE FROM public.things WHERE id = 7")
        assert _of(connection, "things") + one == whole
        # One lost, another one twice: the same number of rows.
        _raw(connection, "INSERT INTO public.things VALUES (8, 'v')")
        twisted = _of(connection, "things")
        assert twisted.rows == whole.rows
        assert not twisted.same_checksums(whole)


@pytest.mark.parametrize("side", SIDES)
def test_no_rows_have_the_empty_fingerprint(both: Databases, side: Side) -> None:
    with _scratch(both, side) as connection:
        _raw(connection, "CREATE TABLE public.things (id integer)")
        assert _of(connection, "things") == EMPTY


@pytest.mark.parametrize("side", SIDES)
def test_weeks_add_up_to_the_quarter_in_a_heap_and_in_a_partitioned_table_in_any_order(
    both: Databases, side: Side
) -> None:
    columns = "(id bigint, booked_at timestamptz, v numeric)"
    with _scratch(both, side) as connection:
        _raw(connection, f"CREATE TABLE public.heap {columns}")
        _raw(connection, f"CREATE TABLE public.parts {columns} PARTITION BY RANGE (booked_at)")
        for number in range(3):
            first, end = ("MINVALUE", "'2024-04-10Z'", "'2024-06-01Z'", "MAXVALUE")[number : number + 2]
            _raw(
                connection,
                f"CREATE TABLE public.part{number} PARTITION OF public.parts FOR VALUES FROM ({first}) TO ({end})",
            )
        source = (
            "SELECT n, '2024-03-20Z'::timestamptz + n * interval '1 hour', n * 0.10 FROM generate_series(1, 3000) n"
        )
        _raw(connection, f"INSERT INTO public.heap {source}")
        _raw(connection, f"INSERT INTO public.parts {source} ORDER BY md5(n::text)")
        kind = require_table(connection, QualifiedName("public", "heap"), "test").control_kind("booked_at")
        quarter = in_range("booked_at", CALENDAR.bound_values(QUARTER, kind))
        expected = _of(connection, "heap", quarter)
        assert expected.rows == 91 * 24
        for table in ("heap", "parts"):
            total = EMPTY
            for number in range(1, 14):
                total += _of(connection, table, in_range("booked_at", CALENDAR.bound_values(week(number), kind)))
            assert total == expected == _of(connection, table, quarter)


@pytest.mark.parametrize("side", SIDES)
def test_a_parallel_plan_gives_the_same_fingerprint(both: Databases, side: Side) -> None:
    name = QualifiedName("public", "things")
    with both.session(side, "test") as connection:
        _raw(connection, "CREATE TABLE public.things (id bigint, v text, w numeric)")
        try:
            _raw(connection, "INSERT INTO public.things SELECT n, md5(n::text), n FROM generate_series(1, 20000) n")
            columns = hashed_columns(require_table(connection, name, "test"))
            _raw(connection, "SET max_parallel_workers_per_gather = 0")
            serial = take_fingerprint(connection, name, columns)
            _raw(connection, "SET max_parallel_workers_per_gather = 3; SET min_parallel_table_scan_size = 0")
            _raw(connection, "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0")
            query = fingerprint_query(name, columns)
            plan = "\n".join(row[0] for row in connection.execute(sql.SQL("EXPLAIN (VERBOSE) ") + query))
            assert "Parallel Seq Scan" in plan
            assert "Workers Planned: 3" in plan
            # Each row is hashed once, below the sums, not once for each of them.
            assert "hash_record_extended" in plan.splitlines()[-1], plan
            assert take_fingerprint(connection, name, columns) == serial
        finally:
            _raw(connection, "DROP TABLE public.things")


@pytest.mark.parametrize("side", SIDES)
def test_settings_of_role_and_database_do_not_change_a_fingerprint(both: Databases, side: Side) -> None:
    settings = {
        "DateStyle": "'SQL, DMY'",
        "TimeZone": "'Asia/Kathmandu'",
        "IntervalStyle": "'iso_8601'",
        "extra_float_digits": "-15",
        "bytea_output": "'escape'",
        "search_path": "'public'",
        "enable_seqscan": "off",
    }
    with both.session(side, "test") as connection:
        try:
            _make_things(connection)
            before = _of(connection, "things")
            for name, value in settings.items():
                _raw(connection, f"ALTER DATABASE fingerprints SET {name} = {value}")
            with psycopg.connect(both.url(side)) as plain:
                assert plain.execute("SHOW TimeZone").fetchone() == ("Asia/Kathmandu",)
            with both.session(side, "test") as other:
                assert _of(other, "things") == before
        finally:
            _raw(connection, "ALTER DATABASE fingerprints RESET ALL")
            _raw(connection, "DROP TABLE public.things")


@pytest.mark.parametrize("side", SIDES)
def test_an_array_whose_last_null_is_gone_is_the_same_as_one_that_never_had_any(both: Databases, side: Side) -> None:
    """PostgreSQL goes on sending that it may have some, and whoever receives it forgets that."""
    with _scratch(both, side) as connection:
        for table in ("had", "never"):
            _raw(connection, f"CREATE TABLE public.{table} (id integer, a text[], b integer[])")
        _raw(connection, "INSERT INTO public.had VALUES (1, '{x,NULL}', (array[NULL,1,2])[2:3])")
        _raw(connection, "UPDATE public.had SET a[2] = 'y'")
        _raw(connection, "INSERT INTO public.never VALUES (1, '{x,y}', '{1,2}')")
        both_tables = "(TABLE public.had UNION ALL TABLE public.never) AS t"
        sent = f"SELECT count(DISTINCT array_send(a)), count(DISTINCT array_send(b)) FROM {both_tables}"
        assert connection.execute(sent.encode()).fetchone() == (2, 2), "the trap is still there"
        assert _of(connection, "had") == _of(connection, "never")
        _raw(connection, "UPDATE public.never SET a = '{x,NULL}'")
        assert _of(connection, "had") != _of(connection, "never")
