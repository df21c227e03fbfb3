"""The base's root is made from the legacy's catalogue, whatever the years have left in it."""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from migration_assets.domain.errors import PartitionError
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import QualifiedName, TableSpec
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import Databases, Side
from migration_assets.preflight.table_features import read_features
from migration_assets_tests.ground import Ground

_NASTY = TableSpec(QualifiedName("Old Stuff", 'Book "ings" 100%'), "On Day")
_FUNCTIONS = """
CREATE SCHEMA "types %s";
CREATE FUNCTION "types %s".short(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT length($1) < 200';
CREATE FUNCTION "types %s".fallback() RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ''fall{}back''';
"""
_SIMPLE = "CREATE TABLE bookings (id bigint PRIMARY KEY, booked_at timestamptz NOT NULL, {})"


@pytest.fixture(scope="module")
def nasty(servers: EmbeddedServers) -> Generator[Ground]:
    """Opened and copied whole, once for all tests that look at it."""
    for side in ("legacy", "base"):
        servers.recreate_database(side, "nasty")
    nasty = Ground(Databases(servers.legacy_url("nasty"), servers.base_url("nasty")), spec=_NASTY)
    _create_nasty(nasty)
    nasty.run("base", _FUNCTIONS)
    nasty.open()
    for number in range(1, 14):
        nasty.copy(number)
    yield nasty
    for side in ("base", "legacy"):
        servers.drop_database(side, "nasty")


def _create_nasty(ground: Ground) -> None:
    script = Path(__file__).parents[1].joinpath("nasty_legacy.sql").read_text()
    with psycopg.connect(ground.databases.legacy_url, autocommit=True) as connection:
        connection.execute(script.encode())


def _described(ground: Ground, side: Side) -> TableDescription:
    with ground.databases.session(side, "test") as connection:
        return require_table(connection, ground.spec.table, side)


def _with_column(ground: Ground, column: str, *rows: str) -> None:
    """A legacy `bookings` whose column `v` is as given, with one row in W01 for each SQL value."""
    with psycopg.connect(ground.databases.legacy_url, autocommit=True) as connection:
        connection.execute(_SIMPLE.format(column).encode())
        for number, row in enumerate(rows):
            connection.execute(f"INSERT INTO bookings VALUES ({number}, '2024-04-02 00:00Z', {row})".encode())


def test_every_column_of_a_nasty_legacy_is_the_same_in_the_base(nasty: Ground) -> None:
    legacy, base = _described(nasty, "legacy"), _described(nasty, "base")
    assert len(legacy.columns) == 20
    for of_legacy, of_base in zip(legacy.columns, base.columns, strict=True):
        key = of_legacy.name in legacy.base_primary_key("On Day")
        assert of_base == replace(of_legacy, not_null=of_legacy.not_null or key)
    assert base.comment == legacy.comment == "it's 100% {old}"
    assert {t.name: t for t in base.types} == {t.name: t for t in legacy.types}
    assert set(base.sequences) == set(legacy.sequences)
    assert base.primary_key == ("part", "Ref %", "On Day")


def test_every_check_and_index_of_a_nasty_legacy_is_the_same_in_the_base(nasty: Ground) -> None:
    legacy, base = _described(nasty, "legacy"), _described(nasty, "base")
    assert base.checks == legacy.checks
    assert {check.name for check in base.checks} == {"price % is {right}", "word is short", "alone"}
    expected = {i.name: replace(i, unique=i.name == "unique_with") for i in legacy.indexes if i.name != "left_behind"}
    assert {i.name: i for i in base.indexes} == expected
    assert len(expected) == 10
    with nasty.databases.session("legacy", "test") as connection:
        kinds = {one.kind for one in read_features(connection, nasty.spec.table)}
    assert kinds == {"check constraint that was never validated", "domain check that was never validated"}


@pytest.mark.long
def test_a_nasty_legacy_is_copied_exactly(nasty: Ground) -> None:
    assert sum(nasty.verify(number).base.rows for number in range(1, 14)) == 728
    assert nasty.contents("base") == nasty.contents("legacy")
    assert len(nasty.contents("base")) == 728


def test_a_row_written_through_the_root_of_a_nasty_base_gets_defaults_and_keys(nasty: Ground) -> None:
    insert = (
        'INSERT INTO "Old Stuff"."Book ""ings"" 100%" ("Ref %", part, "On Day") VALUES (\'new\' || random(), 9,'
        " '2024-04-03') RETURNING \"Status\", counter, by_default, plain_serial, drawn, coded, price, doubled,"
        ' "external", document::text, tags, added_late'
    )
    first, second = nasty.ask("base", insert)[0], nasty.ask("base", insert)[0]
    nasty.run("base", 'DELETE FROM "Old Stuff"."Book ""ings"" 100%" WHERE part = 9')
    assert first == ('it\'s "odd"', 100, 1, 1, 7, "B-10", *second[6:])
    assert second[:6] == ('it\'s "odd"', 110, 2, 2, 13, "B-16")
    assert [str(v) for v in second[6:8]] == ["1.5000", "3.0000"]
    assert second[8:] == ("{}", '{"a": "%s", "b": {}}', [], "missing %s value")
    with pytest.raises(psycopg.errors.GeneratedAlways):
        nasty.run("base", 'INSERT INTO "Old Stuff"."Book ""ings"" 100%" ("Ref %", counter) VALUES (1, 2)')
    with pytest.raises(psycopg.errors.CheckViolation):
        nasty.run(
            "base",
            'INSERT INTO "Old Stuff"."Book ""ings"" 100%" ("Ref %", part, "On Day", price)'
            " VALUES ('x', 1, '2024-04-03', -1)",
        )


def test_a_copied_leaf_has_the_storage_and_compression_of_the_legacy(nasty: Ground) -> None:
    rows = nasty.ask(
        "base",
        "SELECT DISTINCT attname, attstorage, attcompression FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid"
        " WHERE relname LIKE 'Book%' AND relkind = 'r' AND attname IN ('external', 'squeezed')",
    )
    assert sorted(rows) == [("external", "e", ""), ("squeezed", "x", "p")]


def test_a_missing_function_is_named_and_nothing_is_left(ground: Ground) -> None:
    _create_nasty(ground)
    with pytest.raises(PartitionError, match=r"function types %s\.fallback") as caught:
        replace(ground, spec=_NASTY).open()
    assert "function" in caught.value.next_step
    assert ground.ask("base", "SELECT 1 FROM pg_namespace WHERE nspname IN ('Old Stuff', 'types %s')") == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("create", "column", "value"),
    [
        ("CREATE TYPE public.pair AS (a integer, b text)", "v pair", "ROW(1, NULL)"),
        ("CREATE TYPE public.span AS RANGE (subtype = float8)", "v span", "'[1,2]'"),
        ("CREATE EXTENSION vector SCHEMA public", "v public.vector(3)", "'[1,2,3]'"),
    ],
    ids=["composite", "range", "extension"],
)
def test_a_type_that_cannot_be_made_is_asked_for_and_works_once_it_is_there(
    ground: Ground, create: Any, column: str, value: str
) -> None:
    ground.run("legacy", create)
    _with_column(ground, column, value, "NULL")
    with pytest.raises(PartitionError, match=r"is not in the base and cannot be made"):
        ground.open()
    ground.run("base", create)
    ground.open()
    assert ground.copy(1).base.rows == 2
    ground.verify(1)
    assert ground.contents("base") == ground.contents("legacy")


# Type, and two values as SQL.
_VALUES = [
    ("regclass", "'pg_class'", "'bookings'"),
    ("regtype[]", "'{integer,text}'", "NULL"),
    ("mood[]", "'{sad,\"so so\",NULL}'", "'{}'"),
    ("fine_mood", "'glad'", "NULL"),
    ("mood", "'worse'", "'so so'"),
    ("short[]", "'{a,b}'", "NULL"),
    ("days", "'[2024-01-01,)'", "'empty'"),
    ("many_days", "'{[2024-01-01,)}'", "NULL"),
    ("public.oid", "1", "NULL"),
    ("words", "'{a,NULL}'", "'{}'"),
    ("int8range", "'(,5]'", "'empty'"),
    ("datemultirange", "'{[2024-01-01,2024-02-01)}'", "'{}'"),
    ("json", '\' {"a" :1, "a":2}\'', "'null'"),
    ("jsonb", "'{\"a\": 1.00}'", "'null'"),
    ("point", "'(1,-0)'", "'(NaN,Infinity)'"),
    ("polygon", "'((0,0),(1,1))'", "NULL"),
    ("tsvector", "'fat cat'", "''"),
    ("tsquery", "'fat & cat'", "''"),
    ("inet", "'10.0.0.1/8'", "'::1'"),
    ("macaddr", "'08:00:2b:01:02:03'", "NULL"),
    ("money", "'1234.56'", "'-0.01'"),
    ("bit varying", "B'101'", "B''"),
    ("aclitem", "makeaclitem(10, 10, 'SELECT', false)", "NULL"),
    ("float8", "'-0'", "'NaN'"),
    ("float4", "'1e-40'", "'-Infinity'"),
    ("date", "'infinity'", "'4713-01-01 BC'"),
    ("timestamp", "'-infinity'", "NULL"),
    ("timetz", "'24:00:00+14'", "'00:00:00.000001-12'"),
    ("numeric", "'NaN'", "'1.000000'"),
    ("numeric(20,3)", "1.1", "-0.001"),
    ('"char"', "''", "'\\377'"),
    ("name", "'n'", "''"),
    ("oid", "4294967295", "0"),
    ("bytea", "'\\x00ff'", "''"),
    ("interval", "'1 mon -1 day +00:00:01'", "'0'"),
    ("pg_lsn", "'16/B374D848'", "NULL"),
    ("pg_snapshot", "'10:20:10,14'", "NULL"),
    ("jsonpath", "'$.a[*] ? (@ > 1)'", "NULL"),
    ("int2vector", "'1 2'", "''"),
    ("char(5)", "'a'", "''"),
    ("text[]", "'[0:1]={a,NULL}'", "'{}'"),
]


_DOMAINS: tuple[LiteralString, ...] = (
    "CREATE DOMAIN days AS daterange",
    "CREATE DOMAIN many_days AS datemultirange",
    "CREATE DOMAIN public.oid AS numeric",  # a name that the system has as well
)


def test_values_of_every_type_arrive_exactly(ground: Ground) -> None:
    ground.run(
        "legacy",
        "CREATE TYPE mood AS ENUM ('sad', 'so so', 'glad')",
        "ALTER TYPE mood ADD VALUE 'worse' BEFORE 'sad'",
        "CREATE DOMAIN fine_mood AS mood CHECK (VALUE > 'sad')",
        "CREATE DOMAIN short AS text CHECK (length(VALUE) < 5)",
        "CREATE DOMAIN words AS text[] CHECK (cardinality(VALUE) < 5)",
        *_DOMAINS,
    )
    columns = ", ".join(f"v{number} {case[0]}" for number, case in enumerate(_VALUES))
    _with_column(ground, columns, ", ".join(case[1] for case in _VALUES), ", ".join(case[2] for case in _VALUES))
    # Other object ids in the base than in the legacy.
    ground.run("base", "CREATE TYPE shift1 AS ENUM ('x')", "CREATE TABLE shift2 (a integer)")
    ground.open()
    ground.copy(1)
    ground.verify(1)
    assert ground.contents("base") == ground.contents("legacy")


def test_values_go_in_binary_wherever_their_bytes_mean_the_same(ground: Ground) -> None:
    by_text = {"regclass", "regtype[]", "mood[]", "short[]", "tsquery", "aclitem"}
    ground.run(
        "legacy",
        "CREATE TYPE mood AS ENUM ('sad', 'glad')",
        "CREATE DOMAIN fine_mood AS mood",
        "CREATE DOMAIN short AS text",
        "CREATE DOMAIN words AS text[]",
        *_DOMAINS,
    )
    _with_column(ground, ", ".join(f"v{number} {case[0]}" for number, case in enumerate(_VALUES)))
    columns = _described(ground, "legacy").columns[2:]
    found = {case[0] for case, column in zip(_VALUES, columns, strict=True) if not column.binary_copy}
    assert found == by_text


def test_a_control_column_of_a_domain_type_decides_the_partition(ground: Ground) -> None:
    ground.run(
        "legacy",
        "CREATE DOMAIN moment AS timestamptz(0) CHECK (VALUE > '2000-01-01Z')",
        "CREATE TABLE bookings (id bigint PRIMARY KEY, booked_at moment NOT NULL)",
        "INSERT INTO bookings SELECT n, '2024-04-01Z'::timestamptz + n * interval '1 hour'"
        " FROM generate_series(0, 400) n",
    )
    ground.open()
    assert ground.copy(1).base.rows == 168
    ground.verify(1)


def test_weeks_of_a_table_with_the_longest_name_do_not_get_in_each_others_way(ground: Ground) -> None:
    """PostgreSQL cuts the names it gives to indexes at 63 bytes: those of two weeks may become one."""
    name = "a_table_name_of_sixty_three_bytes_that_somebody_thought_was_ok_"
    assert len(name) == 63
    ground.fill(182)
    with psycopg.connect(ground.databases.legacy_url, autocommit=True) as connection:
        connection.execute(f"ALTER TABLE bookings RENAME TO {name}".encode())
        connection.execute(f"CREATE INDEX {'i' * 63} ON {name} (guests)".encode())
        connection.execute(f"CREATE INDEX {'i' * 62}j ON {name} (price)".encode())
    long = replace(ground, spec=TableSpec(QualifiedName("public", name), "booked_at"))
    long.open()
    for number in (1, 2, 1, 13):
        long.copy(number)
        long.verify(number)


def test_a_type_of_the_same_name_with_other_labels_is_refused(ground: Ground) -> None:
    ground.run("legacy", "CREATE TYPE mood AS ENUM ('sad', 'glad')")
    _with_column(ground, "v mood")
    ground.run("base", "CREATE TYPE mood AS ENUM ('sad')")
    with pytest.raises(PartitionError, match="glad"):
        ground.open()


@pytest.mark.long
def test_a_nan_whose_bits_a_text_loses_is_no_difference(ground: Ground) -> None:
    """An array of enums makes the whole table go by text; in binary form the bits would arrive as they are."""
    nan = "-('NaN'::float8)"
    ground.run(
        "legacy",
        "CREATE TYPE mood AS ENUM ('sad')",
        "CREATE TABLE bookings (id bigint PRIMARY KEY, booked_at timestamptz NOT NULL, moods mood[], f float8,"
        " g float4, many float8[], at point)",
        "INSERT INTO bookings SELECT n, '2024-04-02Z', '{sad}', -('NaN'::float8), -('NaN'::float4),"
        " ARRAY[1, -('NaN'::float8)], point(1, -('NaN'::float8)) FROM generate_series(1, 3) n",
    )
    assert ground.one("legacy", f"SELECT float8send({nan}) <> float8send('NaN')"), "the trap is still there"
    ground.open()
    ground.copy(1)
    ground.streamed()
    ground.run("legacy", "INSERT INTO bookings SELECT 4, booked_at, moods, f, g, many, at FROM bookings WHERE id = 1")
    ground.drain()
    ground.validate(1)
    assert ground.contents("base") == ground.contents("legacy")


def test_an_index_that_is_dropped_while_the_catalogue_is_read_is_not_there(ground: Ground) -> None:
    """Its row is in the snapshot, and its definition is gone already."""
    _with_column(ground, "v integer")
    ground.run("legacy", "CREATE INDEX kept ON bookings (v)", "CREATE INDEX dropped ON bookings (v, id)")
    with ground.databases.session("legacy", "test") as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT 1")
        ground.run("legacy", "DROP INDEX dropped")
        assert [index.name for index in require_table(connection, ground.spec.table, "legacy").indexes] == ["kept"]
