"""Transactions that read a table in a safe snapshot: the table is locked before it is taken, until the last read.

An ALTER TABLE that rewrites a table, and a TRUNCATE, are not MVCC-safe: an older snapshot sees an EMPTY table
afterwards. So a reader locks the table in ACCESS SHARE mode before its snapshot is taken. LOCK TABLE takes no snapshot,
so it may come before the statement that does, and before SET TRANSACTION SNAPSHOT. An importer locks before the import:
if the import succeeds, the exporter's transaction is still open, and with it the lock from before the snapshot.

An ALTER TABLE of others that comes between exporter and importer waits for the exporter and blocks the importer, and
all writers of the table wait behind it. So an importer waits only for `IMPORT_LOCK_MS`: then the whole step releases
its locks, and is tried again when the ALTER TABLE is done.
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
# Longer than the brief locks of our own steps, such as a cut's. Writers may wait behind it, so it is short.
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
    """The tables that a reader of these weeks locks in the base, parents first: root, quarters and existing leaves.

    It takes a snapshot, so a reader must not call it in its own transaction before the tables are locked.
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
    """Lock the tables, without their partitions, in ACCESS SHARE mode until the transaction ends: no rewrite can begin.

    Raises:
        psycopg.errors.LockNotAvailable: Another session alters one of them, or waits to; it may be tried again.
    """
    connection.execute(locking(tables))


def locking(tables: Sequence[QualifiedName]) -> sql.Composed:
    """The LOCK TABLE statement of a reader."""
    names = sql.SQL(", ").join(sql.SQL("ONLY {}").format(table_name(table)) for table in tables)
    return sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(names)


def begin_reading(connection: Connected, tables: Sequence[QualifiedName]) -> None:
    """Begin a read-only transaction with these tables locked. Its snapshot is taken by the first query, not here.

    Raises:
        psycopg.errors.LockNotAvailable: As `hold_tables`; the transaction is rolled back.
    """
    connection.execute(_READING)
    try:
        hold_tables(connection, tables)
    except psycopg.Error:
        if not connection.closed:
            connection.rollback()
        raise


def export_snapshot(connection: Connected) -> str:
    """Export the transaction's snapshot and return its name; it is taken now where no query took it before."""
    return str(require_row(connection.execute("SELECT pg_export_snapshot()").fetchone(), "a snapshot")[0])


@contextmanager
def reading(connection: Connected, tables: Sequence[QualifiedName]) -> Generator[Connected]:
    """Open a read-only transaction with its own snapshot, in which none of these tables can be rewritten."""
    begin_reading(connection, tables)
    try:
        yield connection
    finally:
        if not connection.closed:
            connection.rollback()


@contextmanager
def in_snapshot(connection: Connected, snapshot: str, tables: Sequence[QualifiedName]) -> Generator[Connected]:
    """Open a read-only transaction in a snapshot of another session, whose exporting transaction is still open.

    Args:
        connection: In no transaction.
        snapshot: Its name; the exporter must have locked the tables before it took the snapshot.
        tables: The tables that are read.

    Raises:
        TableBusyError: Another session alters one of the tables, or waits to.
        psycopg.OperationalError: The exporter is gone.
    """
    with _importing(connection, tables):
        try:
            connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
        except (errors.InvalidParameterValue, errors.UndefinedObject) as error:
            # Raised like a lost connection, so that the whole step is tried again.
            raise psycopg.OperationalError("the session that exported the snapshot was lost") from error
        yield connection


@contextmanager
def _importing(connection: Connected, tables: Sequence[QualifiedName]) -> Generator[None]:
    usual = require_row(connection.execute("SELECT current_setting('lock_timeout')").fetchone(), "a setting")[0]
    connection.execute(_READING)
    try:
        try:
            # Like LOCK TABLE, SET takes no snapshot.
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
    """The error; it names the sessions that alter the tables, if they still do. `connection` is in no transaction."""
    who = [str(one) for (one,) in connection.execute(_ALTERING, [[str(table) for table in tables]])]
    return TableBusyError(
        "another session alters the table, or waits to; we released our lock so that no writer waits behind it:"
        f" {', '.join(who) or 'that session is done by now'}",
        where=", ".join(str(table) for table in tables[-1:]),
        state_left="nothing of this step was changed",
        next_step="let the ALTER TABLE (or whatever locks the table) end, then run this again",
    )
