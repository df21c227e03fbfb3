"""The types that archived values are shown with in queries, and how each comes out of what its week has stored.

`postgres/hot_view.py` shows the base's rows with the same types. What a type cannot show is NULL.
"""

from migration_assets.domain.stored_columns import Storage, StoredColumn

_INTEGERS = {2: "SMALLINT", 4: "INTEGER", 8: "BIGINT"}
_SIMPLE = {
    Storage.BOOLEAN: "BOOLEAN",
    Storage.TEXT: "VARCHAR",
    Storage.JSON: "JSON",
    Storage.BYTES: "BLOB",
    Storage.UUID: "UUID",
    Storage.DATE: "DATE",
    Storage.TIMESTAMP: "TIMESTAMP",
    Storage.TIMESTAMPTZ: "TIMESTAMPTZ",
}
_DATED = {Storage.DATE, Storage.TIMESTAMP, Storage.TIMESTAMPTZ}
# An element of an array as PostgreSQL writes it: quoted with backslashes, or bare; an empty one is quoted always.
_ELEMENT = r'"(?:[^"\\]|\\.)*"|[^,]+'


def shown_type(column: StoredColumn) -> str:
    """DuckDB's type of the column in queries; a numeric without limits has 26 digits before the point, 12 after it."""
    match column.storage:
        case Storage.INTEGER:
            return _INTEGERS[column.width]
        case Storage.FLOAT:
            return "FLOAT" if column.width == 4 else "DOUBLE"  # noqa: PLR2004  bytes of a real
        case Storage.DECIMAL:
            return f"DECIMAL({column.precision},{column.scale})"
        case Storage.LIST:
            element = Storage.TEXT if column.element is None else column.element
            return f"{_INTEGERS[column.width] if element is Storage.INTEGER else _SIMPLE[element]}[]"
        case Storage.TEXT if column.type_name == "numeric":
            return "DECIMAL(38,12)"
        case _:
            return _SIMPLE[column.storage]


def as_shown(column: StoredColumn, name: str, stored: StoredColumn) -> str:
    """SQL of the column's type.

    Args:
        column: As the table has it now.
        name: Of the stored value in SQL, quoted where it must be.
        stored: As the week has it.
    """
    kind, was = shown_type(column), _stored_type(stored)
    if kind == was:
        return name  # as it is, so that conditions reach the files' statistics
    if stored.storage is Storage.TEXT and column.storage is Storage.LIST:
        return f"TRY_CAST({_elements(name)} AS {kind})"
    if stored.storage is Storage.TEXT and column.storage is Storage.BYTES:
        return f"CASE WHEN regexp_full_match({name}, '\\\\x([0-9a-f]{{2}})*') THEN unhex(substr({name}, 3)) END"
    if stored.storage is Storage.TEXT and column.storage in _DATED:
        # DuckDB would take "0044-03-15 BC" for a day of our era.
        name = rf"regexp_replace({name}, '^(\S+)( .*)? BC$', '\1 (BC)\2')"
    return f"TRY_CAST({name} AS {kind})"


def _stored_type(stored: StoredColumn) -> str:
    return "VARCHAR" if stored.storage is Storage.TEXT else shown_type(stored)


def _elements(name: str) -> str:
    """The elements of an array's text, as texts; NULL for one with several dimensions or odd bounds."""
    bare = f"regexp_extract_all(substr({name}, 2, length({name}) - 2), '{_ELEMENT}')"
    unquoted = r"regexp_replace(substr(e, 2, length(e) - 2), '\\(.)', '\1', 'gs')"
    element = f"CASE WHEN e = 'NULL' THEN NULL WHEN starts_with(e, '\"') THEN {unquoted} ELSE e END"
    plain = f"starts_with({name}, '{{') AND NOT starts_with({name}, '{{{{')"
    return f"CASE WHEN {plain} THEN list_transform({bare}, lambda e: {element}) END"
