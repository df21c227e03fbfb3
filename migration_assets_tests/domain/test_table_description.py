"""What a description of a table answers, and when two of them do not fit."""

from dataclasses import replace
from typing import Any

import pytest

from migration_assets.domain.errors import TableSpecError
from migration_assets.domain.fiscal_calendar import ControlKind
from migration_assets.domain.table_description import (
    Column,
    Hashing,
    Index,
    TableDescription,
    UserType,
    column_differences,
)
from migration_assets.domain.table_spec import QualifiedName


def _column(name: str, type_name: str = "integer", *, binary_copy: bool = True, generated: str = "") -> Column:
    return Column(
        name, type_name, not_null=False, hashing=Hashing.NATIVE, binary_copy=binary_copy, generated=generated,
        base_type=type_name,
    )  # fmt: skip


_MOOD = UserType("public.mood", "e", labels=("sad", "glad"))
_TABLE = TableDescription(
    table=QualifiedName("public", "bookings"),
    kind="r",
    columns=(_column("id"), _column("booked_at", "timestamp with time zone"), _column("mood", "public.mood")),
    primary_key=("id",),
    types=(_MOOD,),
)


def _with(*columns: Column) -> TableDescription:
    return replace(_TABLE, columns=columns)


@pytest.mark.parametrize(
    ("type_name", "kind"),
    [
        ("timestamp with time zone", ControlKind.TIMESTAMPTZ),
        ("timestamp(0) with time zone", ControlKind.TIMESTAMPTZ),
        ("timestamp without time zone", ControlKind.TIMESTAMP),
        ("timestamp(6) without time zone", ControlKind.TIMESTAMP),
        ("date", ControlKind.DATE),
    ],
)
def test_the_kind_of_the_control_column_follows_its_type(type_name: str, kind: ControlKind) -> None:
    assert _with(_column("c", type_name)).control_kind("c") is kind


@pytest.mark.parametrize("type_name", ["integer", "text", "date[]", "public.date", "time with time zone", "numeric(3)"])
def test_another_type_of_the_control_column_is_refused(type_name: str) -> None:
    with pytest.raises(TableSpecError, match="type"):
        _with(_column("c", type_name)).control_kind("c")


@pytest.mark.parametrize("name", ["Booked_At", "booked", ""])
def test_a_column_is_found_by_its_exact_name_only(name: str) -> None:
    with pytest.raises(TableSpecError, match="no column") as caught:
        _TABLE.column(name)
    assert "id, booked_at, mood" in caught.value.next_step


def test_the_primary_key_of_the_base_ends_with_the_control_column() -> None:
    assert _TABLE.base_primary_key("booked_at") == ("id", "booked_at")
    assert replace(_TABLE, primary_key=("booked_at", "id")).base_primary_key("booked_at") == ("booked_at", "id")


def test_generated_columns_are_not_copied_and_do_not_force_text() -> None:
    table = _with(_column("a"), _column("g", binary_copy=False, generated="s"))
    assert [column.name for column in table.copied_columns] == ["a"]
    assert table.binary_copy
    assert not _with(_column("a"), _column("b", binary_copy=False)).binary_copy


@pytest.mark.parametrize(
    ("unique", "keys", "stays"), [(True, ("a", "c"), True), (True, ("a",), False), (False, ("c",), False)]
)
def test_an_index_stays_unique_only_with_the_control_column(unique: bool, keys: tuple[str, ...], stays: bool) -> None:
    assert Index("i", unique, "USING btree (a)", valid=True, key_columns=keys).is_unique_with("c") is stays


def test_equal_tables_do_not_differ_and_a_key_may_be_stricter_in_the_base() -> None:
    stricter = tuple(replace(column, not_null=True) for column in _TABLE.columns)
    assert column_differences(_TABLE, _TABLE) == []
    assert column_differences(_TABLE, replace(_TABLE, columns=stricter)) == []


@pytest.mark.parametrize(
    ("base", "what"),
    [
        (replace(_TABLE, columns=_TABLE.columns[:2]), "columns only in the legacy: ['mood']; only in the base: []"),
        (replace(_TABLE, columns=_TABLE.columns[::-1]), "the columns stand in another order"),
        (_with(_column("id", "bigint"), *_TABLE.columns[1:]), "id: integer in the legacy, bigint in the base"),
        (_with(_column("id", generated="s"), *_TABLE.columns[1:]), "id: generated on one side only"),
        (replace(_TABLE, types=(replace(_MOOD, labels=("sad",)),)), "enum public.mood"),
    ],
)
def test_what_differs_is_named(base: TableDescription, what: str) -> None:
    (difference,) = column_differences(_TABLE, base)
    assert what in difference


def test_an_enum_of_the_base_may_know_more_labels() -> None:
    more = replace(_MOOD, labels=("worse", "sad", "glad"))
    assert column_differences(_TABLE, replace(_TABLE, types=(more,))) == []


@pytest.mark.parametrize("made", [{"kind": "c", "of_table": True}, {"kind": "b"}])
def test_a_types_name_ends_no_comment(made: dict[str, Any]) -> None:
    """Whoever pastes a remedy would run the rest of the name."""
    [line] = UserType('public."a\n; ALTER ROLE his SUPERUSER; --"', **made).creation
    assert line.startswith("-- ")
    assert "\n" not in line
