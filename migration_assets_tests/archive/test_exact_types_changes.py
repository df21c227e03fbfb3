"""Small changes of single values, each seen by the portable fingerprint, and alike by both engines."""

import hashlib
from pathlib import Path

import pytest

from migration_assets.archive import sql_values
from migration_assets.archive.columns import Storage, StoredColumn
from migration_assets.archive.export import portable_fingerprint, profile_slice
from migration_assets.archive.sql_values import text_expressions
from migration_assets.domain.fingerprint import PORTABLE_METHOD, Fingerprint
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import Connected, Databases, Side
from migration_assets_tests.archive.every_type import EVERY_TYPE
from migration_assets_tests.archive.journey import THINGS, archive, duck, raw
from migration_assets_tests.conftest import Databases as Urls

SIDES: tuple[Side, ...] = ("legacy", "base")
# Type, value, another value that a careless text takes for the same one.
_CHANGES = (
    ("boolean", "false", "NULL"),
    ("boolean", "true", "false"),
    ("smallint", "1", "-1"),
    ("integer", "0", "NULL"),
    ("bigint", "1", "4294967296"),
    ("numeric(10,2)", "0.01", "-0.01"),
    ("numeric(5,5)", "0.1", "0.10001"),
    ("numeric", "1.0", "1.00"),
    ("real", "0", "'-0'"),
    ("real", "0.1", "0.10000001"),
    ("double precision", "0", "'-0'"),
    ("double precision", "0.1", "0.10000000000000002"),
    ("double precision", "'NaN'", "'Infinity'"),
    ("text", "NULL", "''"),
    ("text", "'a'", "'a '"),
    ("text", "'é'", "E'e\\u0301'"),
    ("character(5)", "'ab'", "'ac'"),
    ("json", "'[1,2]'", "'[1, 2]'"),
    ("jsonb", "'1.0'", "'1.00'"),
    ("jsonb", "'null'", "NULL"),
    ("bytea", r"'\x'", r"'\x00'"),
    ("bytea", r"'\x'", "NULL"),
    ("uuid", "'00000000-0000-0000-0000-000000000000'", "NULL"),
    ("date", "'infinity'", "'-infinity'"),
    ("date", "'0001-01-01'", "'0001-01-01 BC'"),
    ("timestamp", "'2024-04-01'", "'2024-04-01 00:00:00.000001'"),
    ("timestamptz", "'infinity'", "'-infinity'"),
    ("timestamptz", "'2024-04-01 00:00Z'", "'2024-04-01 01:00Z'"),
    ("text[]", "'{}'", "NULL"),
    ("text[]", "'{NULL}'", "'{\"NULL\"}'"),
    ("text[]", "'{a,b}'", "'{\"a,b\"}'"),
    ("text[]", "'{}'", "'{\"\"}'"),
    ("integer[]", "'{1,2}'", "'{12}'"),
    ("boolean[]", "'{t,NULL}'", "'{t}'"),
    ("interval", "'1 day'", "'24:00'"),
)
# Neighbours: what one loses, the next one gets.
_SHIFTS = (
    ("text", "text", ("'ab'", "'c'"), ("'a'", "'bc'")),
    ("text", "text", ("''", "NULL"), ("NULL", "''")),
    ("text", "text", ("'a1:b'", "''"), ("'a'", "'b'")),
    ("text", "text", ("'2:xy'", "'z'"), ("'2'", "'xyz'")),
    ("integer", "integer", ("1", "NULL"), ("NULL", "1")),
    ("integer", "integer", ("12", "3"), ("1", "23")),
    ("text", "integer", ("'1,'", "2"), ("'1'", "2")),
    ("text[]", "text", ("'{a}'", "'b'"), ("'{a,b}'", "''")),
    ("bytea", "bytea", (r"'\x01'", "NULL"), ("NULL", r"'\x01'")),
    ("boolean", "boolean", ("true", "NULL"), ("NULL", "true")),
)


@pytest.mark.long
def test_a_changed_value_of_any_type_changes_both_sums_alike_on_both_versions(databases: Urls, tmp_path: Path) -> None:
    found: dict[Side, list[Fingerprint]] = {}
    for side in SIDES:
        url = databases.legacy_url if side == "legacy" else databases.base_url
        with Databases(url, url).session(side, "test") as connection:
            columns = ", ".join(f"c{number} {change[0]}" for number, change in enumerate(_CHANGES))
            raw(connection, f"CREATE TABLE public.things (id integer, {columns})")
            for row in range(-1, len(_CHANGES)):
                values = ", ".join(change[2 if row == number else 1] for number, change in enumerate(_CHANGES))
                raw(connection, f"INSERT INTO public.things VALUES ({row}, {values})")
            archived = archive(connection, url, tmp_path / f"{side}.parquet")
        assert archived.portable() == archived.profile.portable
        with duck() as duckling:
            found[side] = [
                sql_values.portable_fingerprint(
                    duckling,
                    f"(SELECT * EXCLUDE (id) FROM {archived.relation} WHERE id = {row})",
                    archived.profile.columns[1:],
                )
                for row in range(-1, len(_CHANGES))
            ]
    before, *after = found["legacy"]
    unnoticed = [
        change
        for change, fingerprint in zip(_CHANGES, after, strict=True)
        if fingerprint.sum_a == before.sum_a or fingerprint.sum_b == before.sum_b
    ]
    assert unnoticed == []
    assert found["legacy"] == found["base"]


def test_duckdb_writes_values_as_postgresql_writes_them(databases: Urls, tmp_path: Path) -> None:
    """PostgreSQL would read more than one text of a date; and what it writes itself it will always read."""
    same = [
        (name, values) for name, values in EVERY_TYPE if not name.startswith(("public.", "real", "double", "boolean"))
    ]
    with Databases(databases.base_url, databases.base_url).session("base", "test") as connection:
        columns = ", ".join(f"c{number} {name}" for number, (name, _) in enumerate(same))
        raw(connection, f"CREATE TABLE public.things (id integer, {columns})")
        for row in range(max(len(values) for _, values in same)):
            texts = ", ".join(values[row] if row < len(values) else "NULL" for _, values in same)
            raw(connection, f"INSERT INTO public.things VALUES ({row}, {texts})")
        archived = archive(connection, databases.base_url, tmp_path / "things.parquet")
        texts = ", ".join(f"nullif(format('%s', {c.name}), '')" for c in archived.profile.columns)
        expected = raw(connection, f"SELECT {texts} FROM public.things ORDER BY id")
    with duck() as duckling:
        texts = ", ".join(f"nullif({text}, '')" for text in text_expressions(archived.profile.columns))
        found = duckling.execute(f"SELECT {texts} FROM {archived.relation} ORDER BY id").fetchall()
    for row, other in zip(expected, found, strict=True):
        different = [
            (c.type_name, a, b) for c, a, b in zip(archived.profile.columns, row, other, strict=True) if a != b
        ]
        assert different == []


def test_what_moves_to_the_neighbouring_column_is_seen(databases: Urls) -> None:
    with Databases(databases.base_url, databases.base_url).session("base", "test") as connection:
        for first, second, before, after in _SHIFTS:
            columns = tuple(
                StoredColumn(name, kind, _storage(kind), element=Storage.TEXT)
                for name, kind in (("a", first), ("b", second))
            )
            found = [_of_row(connection, f"a {first}, b {second}", values, columns) for values in (before, after)]
            assert found[0] != found[1], (first, second, before, after)


def test_the_method_has_another_name_whenever_it_gives_other_sums(databases: Urls) -> None:
    """Manifests keep fingerprints for years: who changes how they are taken must change the name, and this text."""
    row = (
        ("integer", "-7", "-7,"),
        ("numeric(4,2)", "0.5", "0.50,"),
        ("boolean", "true", "t,"),
        ("uuid", "'F47AC10B-58CC-4372-A567-0E02B2C3D479'", "f47ac10b-58cc-4372-a567-0e02b2c3d479,"),
        ("double precision", "-2", "c000000000000000,"),
        ("date", "'2000-02-01'", "0000001f,"),
        ("timestamptz", "'1999-12-31 23:59:59.999999Z'", "ffffffffffffffff,"),
        ("timestamp", "'infinity'", "7fffffffffffffff,"),
        ("text", "'é'", "2:é"),
        ("text", "''", "0:"),
        ("text", "NULL", ":"),
        ("integer", "NULL", ","),
        ("interval", "'1 day'", "5:1 day"),
        ("jsonb", "'[1.0]'", "5:[1.0]"),
        ("text[]", "'{a,NULL,\"x y\"}'", '14:{a,NULL,"x y"}'),
        ("bytea", r"'\x00'", "1:93b885adfe0da089cdf634904fd59f71"),
    )
    with Databases(databases.base_url, databases.base_url).session("base", "test") as connection:
        columns = ", ".join(f"c{number} {kind}" for number, (kind, _, _) in enumerate(row))
        raw(connection, f"CREATE TABLE public.things ({columns})")
        raw(connection, f"INSERT INTO public.things VALUES ({', '.join(value for _, value, _ in row)})")
        found = profile_slice(connection, THINGS, require_table(connection, THINGS, "base")).portable
    digest = hashlib.md5("".join(text for _, _, text in row).encode(), usedforsecurity=False).hexdigest()
    expected = Fingerprint(1, int(digest[:15], 16), int(digest[-15:], 16))
    assert {PORTABLE_METHOD: found} == {"portable-v1": expected}


def _storage(kind: str) -> Storage:
    return {"text[]": Storage.LIST, "bytea": Storage.BYTES}.get(kind) or Storage(kind)


def _of_row(
    connection: Connected, columns: str, values: tuple[str, ...], stored: tuple[StoredColumn, ...]
) -> Fingerprint:
    with connection.transaction(force_rollback=True):
        raw(connection, f"CREATE TABLE public.things ({columns})")
        raw(connection, f"INSERT INTO public.things VALUES ({', '.join(values)})")
        return portable_fingerprint(connection, THINGS, stored)
