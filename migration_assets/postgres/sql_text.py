"""How names and the server's own texts become SQL; a user's text only ever enters as an identifier or a literal."""

from psycopg import sql

from migration_assets.domain.table_spec import QualifiedName


def table_name(table: QualifiedName) -> sql.Identifier:
    """`"schema"."name"`, quoted."""
    return sql.Identifier(table.schema, table.name)


def raw_sql(text: str) -> sql.SQL:
    """SQL that a server's own catalogue functions wrote (expressions, definitions); never a user's text."""
    return sql.SQL(text)  # pyright: ignore[reportArgumentType]
