"""The text of a value in DuckDB's SQL, as PostgreSQL writes it: what COPY parses to exactly the same value."""

from collections.abc import Callable, Sequence

from migration_assets.archive.quoting import identifier
from migration_assets.domain.stored_columns import Storage, StoredColumn, numbered_name

# What PostgreSQL quotes in an array's text; \v is not in RE2's \s.
_AWKWARD = r'[{}",\\\s\v]'


def text_expressions(columns: Sequence[StoredColumn], names: Sequence[str] | None = None) -> list[str]:
    """One expression a column, NULL for NULL. The session's time zone does not matter.

    Args:
        columns: Of the relation.
        names: How to call them in SQL, already quoted; by default their own names, which DuckDB tells apart only
            where they differ in more than case: see `numbered`.
    """
    called = names or [identifier(column.name) for column in columns]
    return [text_expression(column, name) for column, name in zip(columns, called, strict=True)]


def numbered(relation_sql: str, columns: Sequence[StoredColumn]) -> tuple[str, list[str]]:
    """The relation with its columns called by their place, and these names: `"a"` and `"A"` are the same to DuckDB.

    Args:
        relation_sql: What can stand behind FROM; gives exactly the columns.
        columns: Of the relation.
    """
    names = [numbered_name(number) for number in range(len(columns))]
    return f"{relation_sql} AS stored({', '.join(names)})", names


def text_expression(column: StoredColumn, name: str) -> str:
    """See `text_expressions`."""
    return _TEXTS.get(column.storage, _as_it_is)(column, name)


def _as_it_is(_: StoredColumn, name: str) -> str:
    return f"{name}::VARCHAR"


def _float_text(_: StoredColumn, name: str) -> str:
    return (
        f"CASE WHEN isnan({name}) THEN 'NaN' WHEN isinf({name}) THEN"
        f" CASE WHEN {name} > 0 THEN 'Infinity' ELSE '-Infinity' END ELSE {name}::VARCHAR END"
    )


def _decimal_text(column: StoredColumn, name: str) -> str:
    text = f"{name}::VARCHAR"
    if column.precision > column.scale:
        return text
    # DuckDB leaves the zero before the point out where the type has no place for it.
    return f"CASE WHEN {name} < 0 THEN '-0' || substr({text}, 2) ELSE '0' || {text} END"


def _bytes_text(_: StoredColumn, name: str) -> str:
    return rf"'\x' || lower(hex({name}))"


def day_text(name: str) -> str:
    """Of a day, or a time without a zone."""
    return _era_last(f"{name}::VARCHAR")


def moment_text(name: str) -> str:
    """In UTC. By its microseconds: the calendar of DuckDB's time zones is not asked."""
    finite = _era_last(f"make_timestamp(epoch_us({name}))::VARCHAR", zone="+00")
    return f"CASE WHEN isfinite({name}) THEN {finite} ELSE {name}::VARCHAR END"


def _era_last(text: str, zone: str = "") -> str:
    """`0044-03-15 (BC) 12:00:00` is `0044-03-15 12:00:00 BC` to PostgreSQL."""
    return (
        f"CASE WHEN contains({text}, '(BC)') THEN replace({text}, ' (BC)', '') || '{zone} BC'"
        f" ELSE {text} || '{zone}' END"
    )


def _list_text(column: StoredColumn, name: str) -> str:
    """To the byte what PostgreSQL writes, since the portable fingerprint is taken of it."""
    if column.element is Storage.TEXT:
        element = (
            f"CASE WHEN e IS NULL THEN 'NULL' WHEN e = '' OR lower(e) = 'null' OR regexp_matches(e, '{_AWKWARD}')"
            r""" THEN '"' || replace(replace(e, '\', '\\'), '"', '\"') || '"' ELSE e END"""
        )
    elif column.element is Storage.BOOLEAN:
        element = "CASE WHEN e IS NULL THEN 'NULL' WHEN e THEN 't' ELSE 'f' END"
    else:
        element = "coalesce(e::VARCHAR, 'NULL')"
    joined = f"array_to_string(list_transform({name}, lambda e: {element}), ',')"
    return f"CASE WHEN len({name}) = 0 THEN '{{}}' ELSE '{{' || {joined} || '}}' END"


_TEXTS: dict[Storage, Callable[[StoredColumn, str], str]] = {
    Storage.FLOAT: _float_text,
    Storage.DECIMAL: _decimal_text,
    Storage.BYTES: _bytes_text,
    Storage.DATE: lambda _, name: day_text(name),
    Storage.TIMESTAMP: lambda _, name: day_text(name),
    Storage.TIMESTAMPTZ: lambda _, name: moment_text(name),
    Storage.LIST: _list_text,
}
