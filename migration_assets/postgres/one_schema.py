"""One schema of a database is ours: a process whose setting names another one than the one in use is refused.

It would not see what the other one knows: for it writes that are held are not, and a stream that runs is none.
"""

from collections.abc import Collection, Mapping
from typing import LiteralString

from psycopg import errors

from migration_assets.domain.errors import LedgerError
from migration_assets.postgres.own_schema import Connected, own_schema
from migration_assets.postgres.untrusted import NAMED_IN_BODY, TRUSTED

EVERYWHERE: Mapping[str, Mapping[str, str]] = {
    "markers": {"relation": "text", "id": "integer", "kind": "text", "sent_at": "timestamp with time zone"},
    "session_locks": {"id": "bigint", "name": "text", "shared": "boolean", "pid": "integer", "role": "oid"},
}
"""The tables that both sides have, by name: the columns that every version of them has had."""
# By their columns and their key, so that no copy of one counts. Nobody who is not trusted can pretend to be us.
_SCHEMAS: LiteralString = """
SELECT n.nspname::text, c.relname::text,
       (SELECT json_object_agg(a.attname, format_type(a.atttypid, NULL)) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname IN ('markers', 'session_locks') AND c.relkind = 'r'
  AND EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
  AND c.relowner IN (SELECT oid FROM trusted) ORDER BY 1
"""
# A name that nobody has: whoever makes a schema of it waits for another who does until that one's transaction ends. Not
# an advisory lock, which anybody who may connect can hold.
_ONE_AT_A_TIME: LiteralString = "CREATE SCHEMA migration_assets_begins; DROP SCHEMA migration_assets_begins"
# Every session asks it. Not by to_regclass, which is refused to whoever may not use the schema.
FINDS_OURS: LiteralString = """
SELECT EXISTS (SELECT FROM pg_attribute WHERE attname = 'backend_start' AND attrelid = (
    SELECT oid FROM pg_class WHERE relname = 'session_locks' AND relnamespace = to_regnamespace('migration')::oid))
"""
"""Mostly enough to know that the setting names the schema in use."""
_RENAMED: LiteralString = """
SELECT _named FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'migration' AND p.proname IN ('bar_stream', 'refuse_writes') AND _named <> n.nspname
""".replace("_named", NAMED_IN_BODY)


def our_schemas(connection: Connected) -> list[str]:
    """The schemas of the database in which this program keeps its own, by whatever setting; mostly one, or none."""
    found = connection.execute(TRUSTED + _SCHEMAS).fetchall()
    return list(dict.fromkeys(schema for schema, name, columns in found if EVERYWHERE[name].items() <= columns.items()))


def require_no_other(connection: Connected, side: str) -> None:
    """Before a session is used that finds nothing of ours: nothing is there under another name, either.

    Raises:
        LedgerError: It is.
    """
    found, schema = our_schemas(connection), own_schema(connection)
    if found and schema not in found:
        raise LedgerError(
            f"this program keeps its own in schema {' and '.join(found)} of the {side}, and MIGRATION_OWN_SCHEMA names"
            f" {schema}",
            where=f"the {side}",
            state_left="nothing was touched",
            next_step=how_to_agree(found),
        )


def require_not_renamed(connection: Connected) -> None:
    """The functions in our schema call it what it is called: ALTER SCHEMA … RENAME leaves their bodies as they were.

    Raises:
        LedgerError: They call it something else.
    """
    found = connection.execute(_RENAMED).fetchone()
    if found is not None:
        schema, before = own_schema(connection), found[0]
        raise LedgerError(
            f"schema {schema} was renamed: the functions in it go on calling it {before}",
            where=f"database {connection.info.dbname}",
            state_left="nothing was touched",
            next_step=f"in that database: ALTER SCHEMA {schema} RENAME TO {before}; and let every process have"
            f" MIGRATION_OWN_SCHEMA={before}, as on the other side",
        )


def begin_alone(connection: Connected, side: str) -> None:
    """Before the first of our objects is made, in the transaction that makes it: nobody makes them under another name.

    Raises:
        LedgerError: Somebody has, or a schema stands in the way.
    """
    try:
        with connection.transaction():
            connection.execute(_ONE_AT_A_TIME)
    except errors.DuplicateSchema:
        raise LedgerError(
            "the schema migration_assets_begins is there, whose name this program needs for a moment",
            where=f"the {side}",
            state_left="nothing was made",
            next_step="rename it, or drop it: this program never leaves one",
        ) from None
    require_no_other(connection, side)


def how_to_agree(found: Collection[str]) -> str:
    """What is to be done where the setting and the database name different schemas."""
    return (
        f"let every process have MIGRATION_OWN_SCHEMA={min(found)}: one schema serves all tables of a database. Only"
        " where nothing is migrated with it any more (`migration-assets abandon` undoes one) may it be dropped, and"
        " another one begun"
    )
