"""Every type's values go to Parquet and come back exactly, on both versions: seen by both fingerprints and by COPY."""

import re
from collections.abc import Generator
from pathlib import Path

import pytest
from psycopg import sql

from migration_assets.archive import sql_values
from migration_assets.archive.columns import Storage
from migration_assets.archive.export import profile_slice
from migration_assets.archive.sql_values import csv_chunks
from migration_assets.domain.fingerprint import EMPTY, Fingerprint
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import Connected, Databases, Side
from migration_assets_tests.archive.every_type import EVERY_TYPE, TYPES, UNFIT
from migration_assets_tests.archive.journey import BACK, THINGS, archive, contents, duck, put_back, raw, require_exact

SIDES: tuple[Side, ...] = ("legacy", "base")


@pytest.fixture(scope="module")
def both(servers: EmbeddedServers) -> Generator[Databases]:
    """One database on each version, shared by all tests here."""
    for side in SIDES:
        servers.recreate_database(side, "exact_types")
    databases = Databases(servers.legacy_url("exact_types"), servers.base_url("exact_types"))
    for side in SIDES:
        with databases.session(side, "setup") as connection:
            raw(connection, TYPES)
    yield databases
    for side in SIDES:
        servers.drop_database(side, "exact_types")


@pytest.fixture(params=SIDES)
def ground(both: Databases, request: pytest.FixtureRequest) -> Generator[tuple[Connected, str]]:
    """A session and its URL; both tables are dropped at the end."""
    with both.session(request.param, "test") as connection:
        yield connection, both.url(request.param)
        raw(connection, "DROP TABLE IF EXISTS public.things, public.back CASCADE")


def _make(connection: Connected, columns: str, *rows: str) -> None:
    raw(connection, f"CREATE TABLE public.things (id integer, {columns})")
    for number, row in enumerate(rows):
        raw(connection, f"INSERT INTO public.things VALUES ({number}, {row})")


def test_values_of_every_type_come_back_exactly(ground: tuple[Connected, str], tmp_path: Path) -> None:
    connection, url = ground
    columns = ", ".join(f"c{number} {name}" for number, (name, _) in enumerate(EVERY_TYPE))
    longest = max(len(values) for _, values in EVERY_TYPE)
    _make(
        connection,
        columns,
        *(
            ", ".join(values[number] if number < len(values) else "NULL" for _, values in EVERY_TYPE)
            for number in range(longest + 1)
        ),
    )
    archived = require_exact(connection, url, tmp_path / "things.parquet")
    assert archived.profile.native.rows == longest + 1
    # Whatever has an exact type is kept in it: no value of this table forces a way out.
    assert sum(column.storage is not Storage.TEXT for column in archived.profile.columns) == 1 + 31


@pytest.mark.long(but=1)
@pytest.mark.parametrize(("type_name", "value"), UNFIT, ids=[f"{name} {value[1:12]}" for name, value in UNFIT])
def test_a_value_that_its_exact_type_cannot_carry_makes_its_column_text(
    ground: tuple[Connected, str], tmp_path: Path, type_name: str, value: str
) -> None:
    connection, url = ground
    ordinary = {"numeric(10,2)": "1.5", "public.amount": "1.5", "text[]": "'{a}'", "public.words": "'{a}'"}.get(
        type_name, "'2024-04-01'" if type_name.startswith("time") else "'{1}'"
    )
    _make(
        connection, f"fits {type_name}, v {type_name}", f"{ordinary}, {ordinary}", f"{ordinary}, {value}", "NULL, NULL"
    )
    archived = require_exact(connection, url, tmp_path / "things.parquet")
    _, fits, unfit = archived.profile.columns
    assert fits.storage is not Storage.TEXT
    assert (unfit.storage, unfit.is_text_type) == (Storage.TEXT, False)
    assert archived.profile.statistics["v"].minimum is None
    assert archived.profile.statistics["v"].nulls == 1


@pytest.mark.long
def test_values_of_ten_megabytes_come_back_exactly(ground: tuple[Connected, str], tmp_path: Path) -> None:
    connection, url = ground
    _make(connection, "t text, b bytea, j jsonb")
    raw(
        connection,
        "INSERT INTO public.things SELECT n, string_agg(md5(g::text), E'\\n\"😀,'),"
        " string_agg(decode(md5(g::text), 'hex'), '\\x00'), jsonb_build_object('n', string_agg(g::text, ' '))"
        " FROM generate_series(1, 2) n, generate_series(n, 260000) g GROUP BY n",
    )
    raw(connection, "INSERT INTO public.things VALUES (3, '', '', '{}')")
    assert raw(connection, "SELECT max(octet_length(t)) > 10000000 FROM public.things") == [(True,)]
    require_exact(connection, url, tmp_path / "things.parquet")


def test_generated_columns_are_kept_and_computed_again(ground: tuple[Connected, str], tmp_path: Path) -> None:
    connection, url = ground
    virtual = ", v text GENERATED ALWAYS AS (d::text || '!') VIRTUAL" if connection.info.server_version > 180000 else ""
    raw(
        connection,
        "CREATE TABLE public.things (id integer, d numeric(10,2),"
        f" twice numeric(10,2) GENERATED ALWAYS AS (d * 2) STORED{virtual})",
    )
    raw(connection, "INSERT INTO public.things VALUES (1, 1.5), (2, NULL), (3, -0.05)")
    archived = require_exact(connection, url, tmp_path / "things.parquet")
    assert [column.name for column in archived.profile.columns if column.generated] == ["twice", "v"][
        : 1 + bool(virtual)
    ]
    with duck() as connection_of_duck:
        kept = connection_of_duck.execute(f"SELECT twice::VARCHAR FROM {archived.relation} ORDER BY id").fetchall()
    assert kept == [("3.00",), (None,), ("-0.10",)]


def test_columns_whose_names_are_the_same_to_duckdb_are_not_mixed_up(
    ground: tuple[Connected, str], tmp_path: Path
) -> None:
    connection, url = ground
    raw(
        connection, """CREATE TABLE public.things (id integer, "ID" text, "Id" text, "a ""b"" 100%" text, c0 integer)"""
    )
    raw(connection, "INSERT INTO public.things VALUES (1, 'upper', 'mixed', 'odd', 7), (2, NULL, '', 'odd', 8)")
    require_exact(connection, url, tmp_path / "things.parquet")


@pytest.mark.long(but=1)
def test_a_table_of_more_columns_than_a_function_takes_arguments_comes_back(
    ground: tuple[Connected, str], tmp_path: Path
) -> None:
    connection, url = ground
    columns = [("integer", "7"), ("text", "'x'"), ("timestamptz", "'2024-04-01Z'"), ("numeric(9,2)", "1.5"),
               ("integer[]", "'{1}'")]  # fmt: skip
    wide = [columns[number % 5] for number in range(700)]
    # Two hundred of a row's values are NULL: what is there has to fit on one page.
    _make(
        connection,
        ", ".join(f"c{number} {name}" for number, (name, _) in enumerate(wide)),
        ", ".join(value if number % 7 else "NULL" for number, (_, value) in enumerate(wide[:500])),
        ", ".join(["NULL"] * 700),
    )
    require_exact(connection, url, tmp_path / "things.parquet")


def test_a_slice_without_rows_is_archived_as_well(ground: tuple[Connected, str], tmp_path: Path) -> None:
    connection, url = ground
    _make(connection, "t text, n numeric(5,2), d date, a text[]")
    archived = require_exact(connection, url, tmp_path / "things.parquet")
    assert archived.profile.portable == EMPTY
    assert archived.profile.statistics["n"].minimum is None


def test_a_users_own_cast_to_text_changes_nothing(ground: tuple[Connected, str], tmp_path: Path) -> None:
    connection, url = ground
    _make(
        connection, "m public.mood, p public.pair", "'sad', NULL", "'', ROW(NULL, NULL, NULL, NULL, NULL)", "NULL, NULL"
    )
    try:
        for name in ("mood", "pair"):
            raw(
                connection,
                f"CREATE FUNCTION public.lossy(public.{name}) RETURNS text LANGUAGE sql AS 'SELECT ''same''::text'",
            )
            raw(connection, f"CREATE CAST (public.{name} AS text) WITH FUNCTION public.lossy(public.{name})")
        archived = require_exact(connection, url, tmp_path / "things.parquet")
    finally:
        raw(
            connection,
            "DROP FUNCTION public.lossy(public.mood) CASCADE; DROP FUNCTION public.lossy(public.pair) CASCADE",
        )
    assert archived.profile.statistics["p"].nulls == 2


def test_a_server_of_another_encoding_gives_the_same_fingerprint(servers: EmbeddedServers, tmp_path: Path) -> None:
    """The same rows in a LATIN1 and in a UTF8 database: the portable fingerprint is of characters, in UTF-8."""
    found: list[Fingerprint] = []
    for side in SIDES:
        admin = servers.base_url("postgres") if side == "base" else servers.legacy_url("postgres")
        databases = Databases(admin, admin)
        encoding = sql.SQL("LATIN1" if side == "base" else "UTF8")
        with databases.session(side, "setup") as connection:
            raw(connection, "DROP DATABASE IF EXISTS latin")
            connection.execute(
                sql.SQL("CREATE DATABASE latin ENCODING {} LOCALE 'C' TEMPLATE template0").format(encoding)
            )
        url = re.sub(r"/postgres\b", "/latin", admin)
        try:
            with Databases(url, url).session(side, "test") as connection:
                raw(connection, "CREATE TYPE public.mood AS ENUM ('froh', 'müde')")
                _make(
                    connection,
                    "t text, c character(5), a text[], j jsonb, m public.mood, b bytea",
                    r"""'Zürich', 'é', '{ü,NULL}', '{"ä": "ß"}', 'müde', '\xfc'""",
                    "'', NULL, '{}', 'null', NULL, ''",
                )
                archived = require_exact(connection, url, tmp_path / f"{side}.parquet")
                found.append(archived.profile.portable)
        finally:
            with databases.session(side, "setup") as connection:
                raw(connection, "DROP DATABASE latin WITH (FORCE)")
    assert found[0] == found[1]


def test_a_value_changed_in_the_file_is_seen_by_duckdb(both: Databases, tmp_path: Path) -> None:
    with both.session("base", "test") as connection:
        _make(connection, "a text, b text", "'x', ''", "'', NULL")
        try:
            archived = archive(connection, both.base_url, tmp_path / "things.parquet")
            put_back(connection, archived)
            assert contents(connection, BACK) == contents(connection, THINGS)
        finally:
            raw(connection, "DROP TABLE public.things; DROP TABLE IF EXISTS public.back")
    for change in ("b AS a, a AS b", "coalesce(b, '') AS b, a", "a, nullif(b, '') AS b", "a || ' ' AS a, b"):
        with duck() as duckling:
            relation = f"(SELECT id, {change} FROM {archived.relation})"
            found = sql_values.portable_fingerprint(duckling, relation, archived.profile.columns)
        assert found.rows == archived.profile.portable.rows
        assert found.sum_a != archived.profile.portable.sum_a, change
        assert found.sum_b != archived.profile.portable.sum_b, change


def test_the_way_out_is_taken_for_one_week_only(both: Databases) -> None:
    with both.session("base", "test") as connection:
        _make(connection, "v numeric(10,2)", "'NaN'")
        try:
            description = require_table(connection, THINGS, "base")
            assert profile_slice(connection, THINGS, description).columns[1].storage is Storage.TEXT
            raw(connection, "UPDATE public.things SET v = 1")
            assert profile_slice(connection, THINGS, description).columns[1].storage is Storage.DECIMAL
        finally:
            raw(connection, "DROP TABLE public.things")


def test_large_rows_come_back_in_pieces(both: Databases, tmp_path: Path) -> None:
    with both.session("base", "test") as connection:
        _make(connection, "t text")
        try:
            raw(connection, "INSERT INTO public.things SELECT n, repeat('x', 100000) FROM generate_series(1, 300) n")
            archived = archive(connection, both.base_url, tmp_path / "things.parquet")
        finally:
            raw(connection, "DROP TABLE public.things")
    with duck() as duckling:
        sizes = [len(chunk) for chunk in csv_chunks(duckling, archived.relation, archived.profile.columns)]
    assert sum(sizes) > 300 * 100_000
    assert max(sizes) < 128 * 100_100
