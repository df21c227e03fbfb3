"""Turns names and texts of a server's catalogue into SQL. A user's text enters as identifier or literal only."""

from typing import Any

from psycopg import sql

from migration_assets.domain.table_spec import QualifiedName


def table_name(table: QualifiedName) -> sql.Identifier:
    """`"schema"."name"`, quoted."""
    return sql.Identifier(table.schema, table.name)


class ServersText(sql.SQL):
    """SQL that a server's catalogue wrote. It is never rewritten: users may have a schema `migration` of their own."""

    def format(self, *args: Any, **kwargs: Any) -> sql.Composed:
        """As `SQL.format`; the text between the arguments remains a `ServersText`."""
        parts = super().format(*args, **kwargs)
        return sql.Composed(ServersText(part.as_string()) if type(part) is sql.SQL else part for part in parts)  # pyright: ignore[reportArgumentType]


def raw_sql(text: str) -> ServersText:
    """SQL that a server's own catalogue functions wrote (expressions, definitions); never a user's text."""
    return ServersText(text)  # pyright: ignore[reportArgumentType]
