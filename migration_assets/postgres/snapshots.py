"""Transactions whose picture of a table is true: the table is locked before the picture is taken, until the last read.

An ALTER TABLE that rewrites a table, and a TRUNCATE, are not MVCC-safe: a snapshot that is older sees an EMPTY table
afterwards. So whoever will read rows in a snapshot locks the table in ACCESS SHARE mode first. LOCK TABLE takes no
snapshot: it may come before the statement that does, and before SET TRANSACTION SNAPSHOT. Whoever imports a snapshot
locks before the import: that it succeeds says that the exporter, who locked before it took the snapshot, still holds.

A stranger's ALTER TABLE that comes between the exporter and an importer waits for the one and keeps out the other, and
everybody who writes to the table stands behind it. So an importer does not wait: the whole step lets go at once, and
is tried again when the ALTER is through.
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import errors, sql

from migration_assets.domain.errors import TableBusyError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.table_spec import QualifiedName, TableSpec, leaf_name, quarter_table_name
from migration_assets.postgres.activity import APPLICATION
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import table_name

_READING = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
# Longer than any lock that is only held for a moment, as a cut's; writers may stand behind it.
IMPORT_LOCK_MS = 500
_ALTERING = sql.SQL("""
SELECT DISTINCT format('backend %%s (%%s, %%s)', k.pid, coalesce(a.usename::text, '?'),
                       {application})
FROM pg_locks k LEFT JOIN pg_stat_activity a USING (pid)
WHERE k.locktype = 'relation' AND k.mode = 'AccessExclusiveLock' AND k.pid IS NOT NULL
      AND k.relation = ANY (SELECT to_regclass(t) FROM unnest(%s::text[]) AS t)
      AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database())
""").format(application=APPLICATION)


def base_tables(base: Connected, spec: TableSpec, weeks: Iterable[FiscalWeek]) -> list[QualifiedName]:
    """What a reader of these weeks locks in the base, parents first: the root, the quarters and the leaves that exist.

    Not for use in the reader's own transaction before it has its locks: it takes a snapshot.
    """
    wanted = sorted(weeks)
    names = [spec.table.name]
    names += dict.fromkeys(quarter_table_name(spec.table.name, week.quarter) for week in wanted)
    names += [leaf_name(spec.table.name, week) for week in wanted]
    rows = base.execute(
        "SELECT relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE nspname = %s AND relname = ANY(%s) AND relkind IN ('r', 'p')",
        [spec.table.schema, names],
    )
    there = {str(name) for (name,) in rows}
    return [spec.table.sibling(name) for name in names if name in there]


def hold_tables(connection: Connected, tables: Sequence[QualifiedName]) -> None:
    """Lock the tables themselves, without what hangs below them, until the transaction ends: nobody rewrites them.

    Raises:
        psycopg.errors.LockNotAvailable: Somebody alters one of them, or waits to do so; it may be tried again.
    """
    connection.execute(locking(tables))


def locking(tables: Sequence[QualifiedName]) -> sql.Composed:
    """The statement by which a reader locks the tables."""
    names = sql.SQL(", ").join(sql.SQL("ONLY {}").format(table_name(table)) for table in tables)
    return sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(names)


def begin_reading(connection: Connected, tables: Sequence[QualifiedName]) -> None:
    """Begin a transaction that reads these tables; its first query takes its snapshot, and until then none is taken.

    Raises:
        psycopg.errors.LockNotAvailable: As `hold_tables`; the transaction is over.
    """
    connection.execute(_READING)
    try:
        hold_tables(connection, tables)
    except psycopg.Error:
        if not connection.closed:
            connection.rollback()
        raise


def export_snapshot(connection: Connected) -> str:
    """The name of the transaction's snapshot, which is taken now where it was not before."""
    return str(require_row(connection.execute("SELECT pg_export_snapshot()").fetchone(), "a snapshot")[0])


@contextmanager
def reading(connection: Connected, tables: Sequence[QualifiedName]) -> Generator[Connected]:
    """A read-only transaction with a snapshot of its own, in which these tables are what they were at its beginning."""
    begin_reading(connection, tables)
    try:
        yield connection
    finally:
        if not connection.closed:
            connection.rollback()


@contextmanager
def in_snapshot(connection: Connected, snapshot: str, tables: Sequence[QualifiedName]) -> Generator[Connected]:
    """A read-only transaction in a snapshot that another session exported and still holds, as it holds the tables.

    Args:
        connection: In no transaction.
        snapshot: Of a transaction that locked the tables before it took it.
        tables: That are read.

    Raises:
        TableBusyError: Somebody alters one of the tables, or waits to do so.
        psycopg.OperationalError: The exporter is gone.
    """
    with _importing(connection, tables):
        try:
            connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
        except (errors.InvalidParameterValue, errors.UndefinedObject) as error:
            # As if the connection itself had been lost: the whole step is worth another try.
            raise psycopg.OperationalError("the session that exported the snapshot was lost") from error
        yield connection


@contextmanager
def _importing(connection: Connected, tables: Sequence[QualifiedName]) -> Generator[None]:
    usual = require_row(connection.execute("SELECT current_setting('lock_timeout')").fetchone(), "a setting")[0]
    connection.execute(_READING)
    try:
        try:
            # SET takes no snapshot either.
            connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(f"{IMPORT_LOCK_MS}ms")))
            hold_tables(connection, tables)
        except errors.LockNotAvailable as error:
            connection.rollback()
            raise _table_busy(connection, tables) from error
        connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(usual)))
        yield
    finally:
        if not connection.closed:
            connection.rollback()


def _table_busy(connection: Connected, tables: Sequence[QualifiedName]) -> TableBusyError:
    """The error; names who alters, where that is still so. The session is in no transaction."""
    who = [str(one) for (one,) in connection.execute(_ALTERING, [[str(table) for table in tables]])]
    return TableBusyError(
        "somebody alters the table, or waits to do so, and it was let go at once, so that nobody waits behind that:"
        f" {', '.join(who) or 'it is over already'}",
        where=", ".join(str(table) for table in tables[-1:]),
        state_left="nothing of this step was changed",
        next_step="let the ALTER TABLE (or whatever locks the table) end, then run this again",
    )
