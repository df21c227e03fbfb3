"""Names as PostgreSQL reads them."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from migration_assets.domain.errors import TableSpecError
from migration_assets.domain.table_spec import QualifiedName, TableSpec, parse_identifiers, quote_identifier

_NAMES = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=63).filter(
    lambda name: len(name.encode()) <= 63
)


@given(st.lists(_NAMES, min_size=1, max_size=3))
def test_quoted_names_are_read_back_as_they_were(names: list[str]) -> None:
    assert parse_identifiers(".".join(quote_identifier(name) for name in names)) == names


@given(_NAMES, _NAMES)
def test_a_table_is_read_back_from_its_text(schema: str, name: str) -> None:
    table = QualifiedName(schema, name)
    assert QualifiedName.parse(str(table)) == table
    assert TableSpec(table, "c").relation == str(table)


@given(_NAMES, _NAMES, _NAMES, _NAMES)
def test_two_tables_never_have_one_text(a: str, b: str, c: str, d: str) -> None:
    assume((a, b) != (c, d))
    assert str(QualifiedName(a, b)) != str(QualifiedName(c, d))


@pytest.mark.parametrize(
    ("text", "schema", "name"),
    [
        ("bookings", "public", "bookings"),
        ("Bookings", "public", "bookings"),
        ('"Bookings"', "public", "Bookings"),
        ("S.T", "s", "t"),
        (' "My Schema" . "My ""Table""" ', "My Schema", 'My "Table"'),
        ("a$1._b", "a$1", "_b"),
        ('"a.b".c', "a.b", "c"),
        ("größe", "public", "größe"),
    ],
)
def test_names_fold_and_quote_as_in_sql(text: str, schema: str, name: str) -> None:
    assert QualifiedName.parse(text) == QualifiedName(schema, name)


def test_letters_outside_ascii_do_not_fold_because_postgresql_leaves_them_alone() -> None:
    assert QualifiedName.parse("GRÖSSE") == QualifiedName("public", "grÖsse")


@pytest.mark.parametrize(
    "text",
    ["", " ", ".", "a.", ".a", "a..b", "a.b.c", '"', '""', '"a', 'a"b"', "a b", "1a", "a;b", "a-b", "a'b", "$a", "a,b"],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(TableSpecError):
        QualifiedName.parse(text)


@pytest.mark.parametrize("part", ["", "x" * 64, "ü" * 32, "a\x00b"])
def test_a_name_that_postgresql_would_cut_or_refuse_cannot_be_built(part: str) -> None:
    with pytest.raises(TableSpecError, match="identifier"):
        QualifiedName("public", part)
    with pytest.raises(TableSpecError, match="identifier"):
        QualifiedName(part, "t")


@pytest.mark.long
@given(st.text(max_size=80))
def test_any_text_is_a_name_or_a_clear_error(text: str) -> None:
    try:
        table = QualifiedName.parse(text)
    except TableSpecError:
        return
    assert QualifiedName.parse(str(table)) == table


def test_a_sibling_is_of_the_same_schema() -> None:
    assert QualifiedName("S", "a").sibling("b") == QualifiedName("S", "b")
