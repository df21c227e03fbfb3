"""Names and texts as DuckDB reads them in SQL."""


def identifier(name: str) -> str:
    """`"name"`."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`'text'`."""
    return "'" + text.replace("'", "''") + "'"
