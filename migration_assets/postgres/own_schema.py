"""Sessions whose statements find our schema under the name that it has, whatever our texts call it.

`migration.slices` in a statement of ours means the table `slices` in the session's own schema. What a server's
catalogue wrote (`sql_text.raw_sql`), names and values are left alone.
"""

from collections.abc import Callable
from typing import Any, cast

import psycopg
from psycopg import Connection, Cursor, ServerCursor, sql
from psycopg.abc import RV, PQGen, Query

from migration_assets.domain.schema_name import DEFAULT_SCHEMA, quarantine_schema, renamed
from migration_assets.postgres.error_sides import mark_side
from migration_assets.postgres.sql_text import ServersText

Connected = Connection[tuple[Any, ...]]

ON_LEGACY = ("hold_token", "holds", "markers", "reverse_markers", "session_locks")
"""Tables that this program makes in the legacy; any other one in the schema is of whoever had the schema before."""
ON_TABLES = ("refuse_base_truncate", "refuse_rows", "refuse_truncate", "refuse_writes")
"""Functions of the triggers that we put on tables of others; the same holds for them."""


class OwnConnection(Connection[tuple[Any, ...]]):
    """A session that knows the name of our schema, and whose errors know where it is.

    Attributes:
        own_schema: The name.
        finds_ours: Whether something of ours was in it when the session began.
        look: Sees that the other side has nothing of ours in another schema.
        side: `legacy` or `base`, where it is a session of one of them.
    """

    own_schema: str = DEFAULT_SCHEMA
    finds_ours: bool = False
    look: Callable[[], None] | None = None
    side: str | None = None

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """All that a session does comes through here."""
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.Error as error:
            mark_side(error, self.side)
            raise


class _Renaming:
    """What both kinds of cursors do with a statement before psycopg has it."""

    def execute(self, query: Query, *args: Any, **kwargs: Any) -> Any:
        return cast("Any", super()).execute(_for(self, query), *args, **kwargs)

    def executemany(self, query: Query, *args: Any, **kwargs: Any) -> Any:
        return cast("Any", super()).executemany(_for(self, query), *args, **kwargs)

    def copy(self, statement: Query, *args: Any, **kwargs: Any) -> Any:
        return cast("Any", super()).copy(_for(self, statement), *args, **kwargs)

    def stream(self, query: Query, *args: Any, **kwargs: Any) -> Any:
        return cast("Any", super()).stream(_for(self, query), *args, **kwargs)


class OwnCursor(_Renaming, Cursor[Any]):
    """Of such a session."""


class OwnServerCursor(_Renaming, ServerCursor[Any]):
    """The same, for results that stay on the server."""


def own_schema(connection: Connection[Any]) -> str:
    """The name of our schema in this session."""
    return connection.own_schema if isinstance(connection, OwnConnection) else DEFAULT_SCHEMA


def own_side(connection: Connection[Any]) -> str | None:
    """`legacy` or `base`, where it is a session of ours with one of them."""
    return connection.side if isinstance(connection, OwnConnection) else None


def own_quarantine(connection: Connection[Any]) -> str:
    """The name of the schema in which leaves lie that have left the root."""
    return quarantine_schema(own_schema(connection))


def look_across(connection: Connection[Any]) -> None:
    """Before the first of our objects is made on one side: the other one has none in another schema.

    Raises:
        LedgerError: It has.
    """
    if isinstance(connection, OwnConnection) and connection.look is not None:
        connection.look()


def in_own_schema(connection: Connection[Any], text: str) -> str:
    """A text of ours, a name, a sentence or the body of a function, with the name that our schema has there."""
    return renamed(text, own_schema(connection))


def own_sql(connection: Connection[Any], text: str) -> sql.SQL:
    """A statement of ours that is made of parts; never of a user's text."""
    return sql.SQL(in_own_schema(connection, text))  # pyright: ignore[reportArgumentType]


def _for(cursor: Any, query: Query) -> Query:
    schema = own_schema(cursor.connection)
    if schema == DEFAULT_SCHEMA:
        return query
    if isinstance(query, bytes):
        return renamed(query.decode(), schema).encode()
    if isinstance(query, str):
        return cast("Query", renamed(query, schema))
    return cast("Query", _composed(query, schema))


def _composed(part: Any, schema: str) -> Any:
    if isinstance(part, sql.Composed):
        return sql.Composed([_composed(one, schema) for one in cast("list[Any]", list(part))])
    if type(part) is sql.SQL:
        return sql.SQL(renamed(part.as_string(), schema))  # pyright: ignore[reportArgumentType]
    if not isinstance(part, (sql.Identifier, sql.Literal, sql.Placeholder, ServersText)):
        raise TypeError(f"a statement has a part of a kind that is not known here: {type(part).__name__}")
    return part
