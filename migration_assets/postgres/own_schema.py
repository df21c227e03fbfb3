"""Sessions that find our schema under the name that it has, whatever our statements call it, and refuse another one.

One schema of a database is ours: a process whose setting names another one than the one in use is refused.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, LiteralString, cast

import psycopg
from psycopg import Connection, Cursor, ServerCursor, errors, sql
from psycopg.abc import RV, PQGen, Query

from migration_assets.domain.errors import LedgerError
from migration_assets.domain.schema_name import DEFAULT_SCHEMA, quarantine_schema, renamed
from migration_assets.postgres.server_messages import mark_side
from migration_assets.postgres.sql_text import ServersText
from migration_assets.postgres.untrusted import NAMED_IN_BODY, TRUSTED

Connected = Connection[tuple[Any, ...]]

ON_LEGACY = ("hold_token", "holds", "markers", "reverse_markers", "session_locks")
"""Tables that this program makes in the legacy; any other table in the schema was there before."""
ON_TABLES = ("refuse_base_truncate", "refuse_rows", "refuse_truncate", "refuse_writes")
"""Functions of the triggers that we put on users' tables. Any other function there is not ours."""


class OwnConnection(Connection[tuple[Any, ...]]):
    """A session that rewrites statements to our schema's name and marks its errors with its side.

    Attributes:
        own_schema: The schema's name in this database.
        finds_ours: Whether the schema held our tables when the session began.
        look: Checks that the other side has no tables of ours in another schema.
        side: `legacy` or `base`; None for a session of neither.
    """

    own_schema: str = DEFAULT_SCHEMA
    finds_ours: bool = False
    look: Callable[[], None] | None = None
    side: str | None = None

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Run a step of psycopg. Every command of the session passes here, so every error gets its side."""
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.Error as error:
            mark_side(error, self.side)
            raise


class _Renaming:
    """Rewrites a statement to our schema's name before psycopg gets it; for both kinds of cursors."""

    def execute(self, query: Query, *args: Any, **kwargs: Any) -> Any:
        return cast("Any", super()).execute(_for(self, query), *args, **kwargs)

    def executemany(self, query: Query, *args: Any, **kwargs: Any) -> Any:
        return cast("Any", super()).executemany(_for(self, query), *args, **kwargs)

    def copy(self, statement: Query, *args: Any, **kwargs: Any) -> Any:
        return cast("Any", super()).copy(_for(self, statement), *args, **kwargs)

    def stream(self, query: Query, *args: Any, **kwargs: Any) -> Any:
        return cast("Any", super()).stream(_for(self, query), *args, **kwargs)


class OwnCursor(_Renaming, Cursor[Any]):
    """The cursor of an `OwnConnection`."""


class OwnServerCursor(_Renaming, ServerCursor[Any]):
    """Its server-side cursor."""


def own_schema(connection: Connection[Any]) -> str:
    """The name of our schema in this session."""
    return connection.own_schema if isinstance(connection, OwnConnection) else DEFAULT_SCHEMA


def own_side(connection: Connection[Any]) -> str | None:
    """`legacy` or `base`; None for a session of neither."""
    return connection.side if isinstance(connection, OwnConnection) else None


def own_quarantine(connection: Connection[Any]) -> str:
    """The name of the schema for leaves in quarantine, which were detached from the root."""
    return quarantine_schema(own_schema(connection))


def look_across(connection: Connection[Any]) -> None:
    """Require, before our first object is made on one side, that the other side has none in another schema.

    Raises:
        LedgerError: The other side has objects of ours in another schema.
    """
    if isinstance(connection, OwnConnection) and connection.look is not None:
        connection.look()


def in_own_schema(connection: Connection[Any], text: str) -> str:
    """Rewrite a text of ours (a name, a sentence, the body of a function) to our schema's name in that database."""
    return renamed(text, own_schema(connection))


def own_sql(connection: Connection[Any], text: str) -> sql.SQL:
    """SQL of our own text, rewritten to our schema's name; never for a user's text."""
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


EVERYWHERE: Mapping[str, Mapping[str, str]] = {
    "markers": {"relation": "text", "id": "integer", "kind": "text", "sent_at": "timestamp with time zone"},
    "session_locks": {"id": "bigint", "name": "text", "shared": "boolean", "pid": "integer", "role": "oid"},
}
"""The tables that exist on both sides: by name, the columns that every version of them had."""
# Recognized by columns, primary key and owner: a plain copy does not count, nor a table of an untrusted role.
_SCHEMAS: LiteralString = """
SELECT n.nspname::text, c.relname::text,
       (SELECT json_object_agg(a.attname, format_type(a.atttypid, NULL)) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname IN ('markers', 'session_locks') AND c.relkind = 'r'
  AND EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
  AND c.relowner IN (SELECT oid FROM trusted) ORDER BY 1
"""
# A lock by name: creating a schema of the same name waits until the other transaction ends. An advisory lock would not
# do, because any role that may connect can hold one.
_ONE_AT_A_TIME: LiteralString = "CREATE SCHEMA migration_assets_begins; DROP SCHEMA migration_assets_begins"
# Every session runs it. to_regclass would raise an error for a role without USAGE on the schema.
FINDS_OURS: LiteralString = """
SELECT EXISTS (SELECT FROM pg_attribute WHERE attname = 'backend_start' AND attrelid = (
    SELECT oid FROM pg_class WHERE relname = 'session_locks' AND relnamespace = to_regnamespace('migration')::oid))
"""
"""Where it is true, the setting names the schema in use, and `require_no_other` need not be asked."""
_RENAMED: LiteralString = """
SELECT _named FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'migration' AND p.proname IN ('bar_stream', 'refuse_writes') AND _named <> n.nspname
""".replace("_named", NAMED_IN_BODY)


def our_schemas(connection: Connected) -> list[str]:
    """All schemas of the database that hold tables of this program, whatever the setting says; mostly one or none."""
    found = connection.execute(TRUSTED + _SCHEMAS).fetchall()
    return list(dict.fromkeys(schema for schema, name, columns in found if EVERYWHERE[name].items() <= columns.items()))


def require_no_other(connection: Connected, side: str) -> None:
    """Require that no other schema than the configured one holds our tables.

    Args:
        connection: To the side.
        side: `legacy` or `base`, for the error.

    Raises:
        LedgerError: Another schema does.
    """
    found, schema = our_schemas(connection), own_schema(connection)
    if found and schema not in found:
        raise LedgerError(
            f"this program keeps its own tables in schema {' and '.join(found)} of the {side}, and"
            f" MIGRATION_OWN_SCHEMA names {schema}",
            where=f"the {side}",
            state_left="nothing was touched",
            next_step=how_to_agree(found),
        )


def require_not_renamed(connection: Connected) -> None:
    """Require that our functions name the schema they are in: ALTER SCHEMA … RENAME does not change their bodies.

    Raises:
        LedgerError: The schema was renamed, and they name it as before.
    """
    found = connection.execute(_RENAMED).fetchone()
    if found is not None:
        schema, before = own_schema(connection), found[0]
        raise LedgerError(
            f"schema {schema} was renamed, but the functions in it still call it {before}",
            where=f"database {connection.info.dbname}",
            state_left="nothing was touched",
            next_step=f"in that database: ALTER SCHEMA {schema} RENAME TO {before}; and let every process have"
            f" MIGRATION_OWN_SCHEMA={before}, as on the other side",
        )


def begin_alone(connection: Connected, side: str) -> None:
    """Make sure, before our first object is made, that no other process makes them in another schema.

    The lock that this takes lasts until the caller's transaction, which makes the objects, ends.

    Raises:
        LedgerError: Another schema holds our tables, or a schema has the name that serves as the lock.
    """
    try:
        with connection.transaction():
            connection.execute(_ONE_AT_A_TIME)
    except errors.DuplicateSchema:
        raise LedgerError(
            "there is a schema migration_assets_begins, a name that this program uses for a moment as a lock",
            where=f"the {side}",
            state_left="nothing was made",
            next_step="rename it, or drop it: this program never leaves one",
        ) from None
    require_no_other(connection, side)


def how_to_agree(found: Collection[str]) -> str:
    """The next step where the setting names another schema than the database has."""
    return (
        f"let every process have MIGRATION_OWN_SCHEMA={min(found)}: one schema serves all tables of a database. Only"
        " where nothing is migrated with it any more (`migration-assets abandon` undoes one) may it be dropped, and"
        " another one begun"
    )
