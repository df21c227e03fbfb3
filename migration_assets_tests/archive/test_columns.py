"""Which type of PostgreSQL is kept as what."""

from dataclasses import asdict
from typing import Any

import pytest

from migration_assets.archive.columns import Storage, StoredColumn, stored_columns
from migration_assets.domain.table_description import Column, Hashing, TableDescription, UserType
from migration_assets.domain.table_spec import QualifiedName

# PostgreSQL's type, how it is kept, and what else is known of it.
_KINDS: tuple[tuple[str, Storage, dict[str, Any]], ...] = (
    ("boolean", Storage.BOOLEAN, {}),
    ("smallint", Storage.INTEGER, {"width": 2}),
    ("integer", Storage.INTEGER, {"width": 4}),
    ("bigint", Storage.INTEGER, {"width": 8}),
    ("real", Storage.FLOAT, {"width": 4}),
    ("double precision", Storage.FLOAT, {"width": 8}),
    ("numeric(10,2)", Storage.DECIMAL, {"precision": 10, "scale": 2}),
    ("numeric(38,38)", Storage.DECIMAL, {"precision": 38, "scale": 38}),
    ("numeric(1,0)", Storage.DECIMAL, {"precision": 1, "scale": 0}),
    ("numeric(39,2)", Storage.TEXT, {}),
    ("numeric(5,-2)", Storage.TEXT, {}),
    ("numeric(2,5)", Storage.TEXT, {}),
    ("numeric", Storage.TEXT, {}),
    ("money", Storage.TEXT, {}),
    ("text", Storage.TEXT, {"is_text_type": True}),
    ("character varying", Storage.TEXT, {"is_text_type": True}),
    ("character varying(20)", Storage.TEXT, {"is_text_type": True}),
    ("character(3)", Storage.TEXT, {"is_text_type": True}),
    ("bpchar", Storage.TEXT, {"is_text_type": True}),
    ('"char"', Storage.TEXT, {"is_text_type": True}),
    ("name", Storage.TEXT, {"is_text_type": True}),
    ("json", Storage.JSON, {}),
    ("jsonb", Storage.JSON, {}),
    ("jsonpath", Storage.TEXT, {}),
    ("bytea", Storage.BYTES, {}),
    ("uuid", Storage.UUID, {}),
    ("date", Storage.DATE, {}),
    ("timestamp without time zone", Storage.TIMESTAMP, {}),
    ("timestamp(3) without time zone", Storage.TIMESTAMP, {}),
    ("timestamp with time zone", Storage.TIMESTAMPTZ, {}),
    ("timestamp(0) with time zone", Storage.TIMESTAMPTZ, {}),
    ("time without time zone", Storage.TEXT, {}),
    ("interval", Storage.TEXT, {}),
    ("interval(3)", Storage.TEXT, {}),
    ("inet", Storage.TEXT, {}),
    ("text[]", Storage.LIST, {"element": Storage.TEXT}),
    ("character varying(9)[]", Storage.LIST, {"element": Storage.TEXT}),
    ("smallint[]", Storage.LIST, {"element": Storage.INTEGER, "width": 2}),
    ("integer[]", Storage.LIST, {"element": Storage.INTEGER, "width": 4}),
    ("bigint[]", Storage.LIST, {"element": Storage.INTEGER, "width": 8}),
    ("boolean[]", Storage.LIST, {"element": Storage.BOOLEAN}),
    ("character(3)[]", Storage.TEXT, {}),
    ("numeric(10,2)[]", Storage.TEXT, {}),
    ("double precision[]", Storage.TEXT, {}),
    ("uuid[]", Storage.TEXT, {}),
    ("jsonb[]", Storage.TEXT, {}),
    ("int4range", Storage.TEXT, {}),
    ("int2vector", Storage.TEXT, {}),
    ("bit(3)", Storage.TEXT, {}),
    ("public.mood", Storage.TEXT, {}),
    ("public.mood[]", Storage.TEXT, {}),
    ('public."numeric(10,2)"', Storage.TEXT, {}),
    ('public."text"', Storage.TEXT, {}),
    ("public.uuid", Storage.TEXT, {}),
)


def _described(*columns: Column, types: tuple[UserType, ...] = ()) -> TableDescription:
    return TableDescription(QualifiedName("public", "t"), "r", columns, (), types=types)


def _column(type_name: str, base_type: str | None = None, **others: Any) -> Column:
    return Column("c", type_name, others.pop("not_null", False), Hashing.TEXT, True, base_type=base_type or type_name,
                  **others)  # fmt: skip


@pytest.mark.parametrize(("type_name", "storage", "known"), _KINDS, ids=[kind[0] for kind in _KINDS])
def test_a_type_is_kept_in_what_holds_it_exactly_and_else_as_text(
    type_name: str, storage: Storage, known: dict[str, Any]
) -> None:
    (found,) = stored_columns(_described(_column(type_name)))
    plain = asdict(StoredColumn("c", type_name, storage, **known))
    assert asdict(found) == plain | {"base_type": type_name}


def test_a_domain_is_kept_as_what_it_is_made_of_under_its_own_name() -> None:
    (found,) = stored_columns(_described(_column("public.price", "numeric(10,2)")))
    assert (found.type_name, found.storage, found.precision, found.scale) == ("public.price", Storage.DECIMAL, 10, 2)
    (found,) = stored_columns(_described(_column("public.word", "text")))
    assert (found.type_name, found.storage, found.is_text_type) == ("public.word", Storage.TEXT, True)


@pytest.mark.parametrize("type_name", ["public.mood", "public.fine_mood"])
def test_the_labels_of_an_enum_go_along_also_those_of_a_domain_over_one(type_name: str) -> None:
    mood = UserType("public.mood", "e", ("sad", "glad"))
    (found,) = stored_columns(_described(_column(type_name, "public.mood"), types=(mood,)))
    assert (found.storage, found.labels, found.is_text_type) == (Storage.TEXT, ("sad", "glad"), False)


def test_an_unfit_column_is_text_and_nothing_else_changes() -> None:
    description = _described(_column("numeric(10,2)", not_null=True, generated="s"))
    (fit,), (unfit,) = stored_columns(description), stored_columns(description, {"c"})
    assert (unfit.storage, unfit.precision, unfit.scale, unfit.is_text_type) == (Storage.TEXT, 0, 0, False)
    assert (unfit.not_null, unfit.generated, unfit.type_name) == (True, True, "numeric(10,2)")
    assert (fit.not_null, fit.generated) == (True, True)


def test_an_unfit_column_of_another_name_changes_nothing() -> None:
    description = _described(_column("date"))
    assert stored_columns(description, {"d"}) == stored_columns(description)


@pytest.mark.parametrize(("type_name", "storage", "known"), _KINDS, ids=[kind[0] for kind in _KINDS])
def test_what_a_manifest_keeps_of_a_column_is_all_of_it(
    type_name: str, storage: Storage, known: dict[str, Any]
) -> None:
    column = StoredColumn(
        "ünï", type_name, storage, not_null=True, generated=True, hashing=Hashing.SEND, send_function="int8send",
        labels=("a", ""), **known,
    )  # fmt: skip
    stored = column.to_json()
    assert all(isinstance(value, str | int | bool | list | None) for value in stored.values())
    assert StoredColumn.from_json(stored) == column
