"""What a slice holds before it leaves PostgreSQL, and the query that reads it."""

import re
from typing import Any

import pytest
from psycopg import IsolationLevel, sql

from migration_assets.archive.columns import Storage, stored_columns
from migration_assets.archive.export import (
    ColumnStatistics,
    export_query,
    portable_fingerprint,
    profile_slice,
)
from migration_assets.domain.fingerprint import EMPTY
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.postgres.arrow_stream import arrow_stream
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.fingerprints import hashed_columns, take_fingerprint
from migration_assets.postgres.sessions import Connected, Databases
from migration_assets_tests.conftest import Databases as Urls
from migration_assets_tests.ground import Ground

THINGS = QualifiedName("public", "things")


def _session(databases: Urls) -> Databases:
    return Databases(databases.legacy_url, databases.base_url)


def _raw(connection: Connected, *statements: str) -> None:
    for statement in statements:
        connection.execute(statement.encode())


def test_the_profile_says_what_numbers_and_times_are_between_and_nothing_of_people(databases: Urls) -> None:
    with _session(databases).session("base", "test") as connection:
        _raw(
            connection,
            "CREATE TABLE public.things (i smallint, n numeric(6,2), f float8, d date, t timestamp, z timestamptz,"
            " w text, b boolean, j jsonb, u uuid, free numeric, a integer[])",
            "INSERT INTO public.things VALUES (-1, 10.5, '-Infinity', '0044-03-15 BC', '2024-04-01 00:00:00.5',"
            " 'infinity', 'Ada', true, '{}', NULL, 5, '{9}'),"
            " (300, -2, 0.1, '2024-04-01', '-infinity', '2024-04-01Z', NULL, NULL, NULL, NULL, 6, NULL),"
            " (NULL, 9.99, NULL, NULL, NULL, NULL, '', false, NULL, NULL, NULL, '{}')",
        )
        profile = profile_slice(connection, THINGS, require_table(connection, THINGS, "base"))
    assert dict(profile.statistics) == {
        "i": ColumnStatistics(1, "-1", "300"),
        "n": ColumnStatistics(0, "-2.00", "10.50"),
        "f": ColumnStatistics(1, "-Infinity", "0.1"),
        "d": ColumnStatistics(1, "0044-03-15 BC", "2024-04-01"),
        "t": ColumnStatistics(1, "-infinity", "2024-04-01 00:00:00.5"),
        "z": ColumnStatistics(1, "2024-04-01 00:00:00+00", "infinity"),
        "w": ColumnStatistics(1),
        "b": ColumnStatistics(1),
        "j": ColumnStatistics(2),
        "u": ColumnStatistics(3),
        "free": ColumnStatistics(1),
        "a": ColumnStatistics(1),
    }


def test_the_profile_of_a_leaf_is_that_of_the_bases_table_whatever_its_columns_order(databases: Urls) -> None:
    with _session(databases).session("base", "test") as connection:
        _raw(
            connection,
            "CREATE TABLE public.root (a integer, b text, c timestamptz) PARTITION BY RANGE (a)",
            "CREATE TABLE public.things (c timestamptz, gone integer, b text, a integer)",
            "ALTER TABLE public.things DROP COLUMN gone",
            "ALTER TABLE public.root ATTACH PARTITION public.things FOR VALUES FROM (0) TO (100)",
            "INSERT INTO public.root SELECT n, 'x' || n, '2024-04-01Z' FROM generate_series(0, 99) n",
        )
        root = QualifiedName("public", "root")
        description = require_table(connection, root, "base")
        profile = profile_slice(connection, THINGS, description)
        assert [column.name for column in profile.columns] == ["a", "b", "c"]
        assert profile.native == take_fingerprint(connection, root, hashed_columns(description))
        assert profile.portable == portable_fingerprint(connection, root, profile.columns)
        _raw(connection, "TRUNCATE public.root")
        assert profile_slice(connection, THINGS, description).portable == EMPTY


@pytest.mark.parametrize(
    ("type_name", "send", "value", "same"),
    [
        ("double precision", "float8send", "-('NaN'::float8)", "'NaN'"),
        ("real", "float4send", "-('NaN'::float4)", "'NaN'"),
        ("public.ratio", "float8send", "-('NaN'::float8)", "'NaN'"),
        ("double precision[]", "array_send", "ARRAY[[1, -('NaN'::float8)]]", "'{{1,NaN}}'"),
        ("real[]", "array_send", "ARRAY[1, NULL, -('NaN'::float4)]", "'{1,NULL,NaN}'"),
        ("public.ratios", "array_send", "ARRAY[1, -('NaN'::float8)]", "'{1,NaN}'"),
        ("point", "point_send", "point(0, -('NaN'::float8))", "'(0,NaN)'"),
        ("point[]", "array_send", "ARRAY[point(0, -('NaN'::float8))]", "'{\"(0,NaN)\"}'"),
        ("circle", "circle_send", "circle(point(0, -('NaN'::float8)), 1)", "'<(0,NaN),1>'"),
    ],
)
def test_a_nan_of_other_bits_is_the_same_nan_to_both_fingerprints(
    databases: Urls, type_name: str, send: str, value: str, same: str
) -> None:
    sends = f"{send}(({value})::{type_name}) = {send}({same}::{type_name})"
    with _session(databases).session("base", "test") as connection:
        _raw(
            connection,
            "CREATE DOMAIN public.ratio AS float8",
            "CREATE DOMAIN public.ratios AS float8[]",
            f"CREATE TABLE public.things (fine float8, odd {type_name})",
            f"INSERT INTO public.things VALUES ('NaN', {same}), (1, NULL), (NULL, {value})",
        )
        description = require_table(connection, THINGS, "base")
        sent = connection.execute(f"SELECT {sends}".encode()).fetchone()
        assert sent == (False,), "the trap is still there"
        odd = profile_slice(connection, THINGS, description)
        _raw(connection, f"UPDATE public.things SET odd = {same} WHERE odd IS NOT NULL")
        assert profile_slice(connection, THINGS, description) == odd
        _raw(connection, "UPDATE public.things SET odd = NULL WHERE fine = 'NaN'")
        assert profile_slice(connection, THINGS, description).native != odd.native


def test_the_exported_rows_lie_in_the_order_of_the_values_not_of_their_texts(databases: Urls) -> None:
    with _session(databases).session("base", "test") as connection:
        _raw(
            connection,
            "CREATE TABLE public.things (booked_at date, id numeric)",
            "INSERT INTO public.things VALUES ('infinity', 1), ('2024-04-02', 10), ('2024-04-02', 9),"
            " ('0044-03-15 BC', 3), ('-infinity', 4), ('12024-04-01', 5)",
        )
        columns = stored_columns(require_table(connection, THINGS, "base"))
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        with connection.transaction():
            row = connection.execute("SELECT pg_export_snapshot()").fetchone()
            assert row is not None
            query = export_query(THINGS, columns, ["booked_at", "id"]).as_string(connection)
            with arrow_stream(databases.base_url, str(row[0]), query) as reader:
                table = reader.read_all()
    assert [column.storage for column in columns] == [Storage.DATE, Storage.TEXT]
    assert table["id"].to_pylist() == ["4", "3", "9", "10", "5", "1"]


def test_a_profile_reads_the_table_once_and_hashes_each_row_once(
    databases: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that computed a row's text for each sum would take half as long again."""
    with _session(databases).session("base", "test") as connection:
        _raw(
            connection,
            "CREATE TABLE public.things (a integer, n numeric(9,2), w text)",
            "INSERT INTO public.things SELECT n, n, md5(n::text) FROM generate_series(1, 5000) n",
        )
        description = require_table(connection, THINGS, "base")
        statements: list[Any] = []
        execute = connection.execute

        def noted(query: Any, *arguments: Any) -> Any:
            statements.append(query)
            return execute(query, *arguments)

        monkeypatch.setattr(connection, "execute", noted)
        profile_slice(connection, THINGS, description)
        assert len(statements) == 1
        plan = [str(row[0]) for row in execute(sql.SQL("EXPLAIN (VERBOSE) ") + statements[0])]
    text = "\n".join(plan)
    assert text.count("Seq Scan") == 1
    # In a second parenthesis it is a reference to what the plan below computed.
    assert len(re.findall(r"(?<!\()md5\(concat\(", text)) == 1
    assert text.count("hash_record_extended(") == 1


def test_one_slice_of_a_real_table(ground: Ground) -> None:
    """All weeks' portable fingerprints add up to the table's."""
    ground.fill(910).copy_all()
    with ground.databases.session("base", "test") as base:
        description = require_table(base, ground.spec.table, "base")
        columns = stored_columns(description)
        total = EMPTY
        for number in range(1, 14):
            leaf = ground.spec.table.sibling(ground.record(number).leaf)
            total += profile_slice(base, leaf, description).portable
        assert total == portable_fingerprint(base, ground.spec.table, columns)
        assert total.rows == 910
