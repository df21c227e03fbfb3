"""The base's root is made from the legacy's catalogue, whatever the years have left in it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from migration_assets.domain.errors import PartitionError
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import QualifiedName, TableSpec
from migration_assets.postgres.introspection import require_table
from migration_assets.postgres.sessions import Side
from migration_assets_tests.postgres.support import Ground

_NASTY = TableSpec(QualifiedName("Old Stuff", 'Book "ings" 100%'), "On Day")
_FUNCTIONS = """
CREATE SCHEMA "types %s";
CREATE FUNCTION "types %s".short(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT length($1) < 200';
CREATE FUNCTION "types %s".fallback() RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ''fall{}back''';
"""
_SIMPLE = "CREATE TABLE bookings (id bigint PRIMARY KEY, booked_at timestamptz NOT NULL, {})"


@pytest.fixture
def nasty(ground: Ground) -> Ground:
    script = Path(__file__).with_name("nasty_legacy.sql").read_text()
    with psycopg.connect(ground.databases.legacy_url, autocommit=True) as connection:
        connection.execute(script.encode())
    ground.run("base", _FUNCTIONS)
    return replace(ground, spec=_NASTY)


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
    nasty.open()
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
    nasty.open()
    legacy, base = _described(nasty, "legacy"), _described(nasty, "base")
    assert base.checks == legacy.checks
    assert {check.name for check in base.checks} == {"price % is {right}", "word is short", "alone"}
    expected = {i.name: replace(i, unique=i.name == "unique_with") for i in legacy.indexes if i.name != "left_behind"}
    assert {i.name: i for i in base.indexes} == expected
    assert len(expected) == 10
    kinds = {kind for kind, _ in legacy.not_carried}
    assert kinds == {"check constraint that was never validated", "domain check that was never validated"}


def test_a_nasty_legacy_is_copied_exactly(nasty: Ground) -> None:
    nasty.open()
    for number in range(1, 14):
        nasty.copy(number)
        nasty.verify(number)
    assert nasty.contents("base") == nasty.contents("legacy")
    assert len(nasty.contents("base")) == 728


def test_a_row_written_through_the_root_of_a_nasty_base_gets_defaults_and_keys(nasty: Ground) -> None:
    nasty.open()
    nasty.copy(1)
    insert = (
        'INSERT INTO "Old Stuff"."Book ""ings"" 100%" ("Ref %", part, "On Day") VALUES (\'new\' || random(), 9,'
        ' \'2024-04-03\') RETURNING "Status", counter, by_default, plain_serial, drawn, coded, price, doubled,'
        ' "external", document::text, tags, added_late'
    )
    first, second = nasty.ask("base", insert)[0], nasty.ask("base", insert)[0]
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
    nasty.open()
    nasty.copy(1)
    rows = nasty.ask(
        "base",
        "SELECT DISTINCT attname, attstorage, attcompression FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid"
        " WHERE relname LIKE 'Book%' AND relkind = 'r' AND attname IN ('external', 'squeezed')",
    )
    assert sorted(rows) == [("external", "e", ""), ("squeezed", "x", "p")]


def test_a_missing_function_is_named_and_nothing_is_left(nasty: Ground) -> None:
    nasty.run("base", 'DROP FUNCTION "types %s".short(text)')
    with pytest.raises(PartitionError, match="short") as caught:
        nasty.open()
    assert "function" in caught.value.next_step
    assert nasty.ask("base", "SELECT 1 FROM pg_namespace WHERE nspname = 'Old Stuff'") == []


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


_VALUES = {
    "regclass": ("v regclass", "'pg_class'", "'bookings'"),
    "regtype array": ("v regtype[]", "'{integer,text}'", "NULL"),
    "enum array": ("v mood[]", "'{sad,\"so so\",NULL}'", "'{}'"),
    "domain over enum": ("v fine_mood", "'glad'", "NULL"),
    "array of domain": ("v short[]", "'{a,b}'", "NULL"),
    "domain over array": ("v words", "'{a,NULL}'", "'{}'"),
    "ranges": ("v int8range, w datemultirange", "'(,5]', '{[2024-01-01,2024-02-01)}'", "'empty', '{}'"),
    "json": ("v json", "' {\"a\" :1, \"a\":2}'", "'null'"),
    "geometry": ("v point, w polygon", "'(1,-0)', '((0,0),(1,1))'", "'(NaN,Infinity)', NULL"),
    "search": ("v tsvector, w tsquery", "'fat cat', 'fat & cat'", "'', ''"),
    "network": ("v inet, w macaddr", "'10.0.0.1/8', '08:00:2b:01:02:03'", "'::1', NULL"),
    "money and bits": ("v money, w bit varying", "'1234.56', B'101'", "'-0.01', B''"),
    "acl": ("v aclitem", "makeaclitem(10, 10, 'SELECT', false)", "NULL"),
    "floats": ("v float8, w float4", "'-0', '1e-40'", "'NaN', '-Infinity'"),
    "infinite times": ("v date, w timestamp", "'infinity', '-infinity'", "'4713-01-01 BC', NULL"),
    "odd numerics": ("v numeric, w numeric(20,3)", "'NaN', 1.1", "'1.000000', -0.001"),
    "internal": ("v \"char\", w name, x oid", "'', 'n', 4294967295", "'\\377', '', 0"),
    "bytea and interval": ("v bytea, w interval", "'\\x00ff', '1 mon -1 day +00:00:01'", "'', '0'"),
    "lsn and snapshot": ("v pg_lsn, w pg_snapshot", "'16/B374D848', '10:20:10,14'", "NULL, NULL"),
}


@pytest.mark.parametrize("case", _VALUES)
def test_values_of_every_type_arrive_exactly(ground: Ground, case: str) -> None:
    column, *rows = _VALUES[case]
    ground.run(
        "legacy",
        "CREATE TYPE mood AS ENUM ('sad', 'so so', 'glad')",
        "ALTER TYPE mood ADD VALUE 'worse' BEFORE 'sad'",
        "CREATE DOMAIN fine_mood AS mood CHECK (VALUE > 'sad')",
        "CREATE DOMAIN short AS text CHECK (length(VALUE) < 5)",
        "CREATE DOMAIN words AS text[] CHECK (cardinality(VALUE) < 5)",
    )
    _with_column(ground, column, *rows)
    # Other object ids in the base than in the legacy.
    ground.run("base", "CREATE TYPE shift1 AS ENUM ('x')", "CREATE TABLE shift2 (a integer)")
    ground.open()
    assert ground.copy(1).base.rows == len(rows)
    ground.verify(1)
    assert ground.contents("base") == ground.contents("legacy")


def test_a_control_column_of_a_domain_type_decides_the_partition(ground: Ground) -> None:
    ground.run(
        "legacy",
        "CREATE DOMAIN moment AS timestamptz(0) CHECK (VALUE > '2000-01-01Z')",
        "CREATE TABLE bookings (id bigint PRIMARY KEY, booked_at moment NOT NULL)",
        "INSERT INTO bookings SELECT n, '2024-04-01Z'::timestamptz + n * interval '1 hour' FROM generate_series(0, 400) n",
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
