"""Streams query results as Arrow batches in an exported snapshot; the only module that imports ADBC."""

import re
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Self

import adbc_driver_manager
import psycopg
import pyarrow as pa
from adbc_driver_postgresql import StatementOptions, dbapi
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import LockNotAvailable
from psycopg.pq import Conninfo

from migration_assets.domain.errors import ArchiveError, ConnectionLostError, TableBusyError
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.postgres.retries import is_transient
from migration_assets.postgres.server_messages import advice_on_limit, told_by_driver
from migration_assets.postgres.sessions import BULK, OWN_ROLE, Timeouts, require_readable, session_settings
from migration_assets.postgres.snapshots import IMPORT_LOCK_MS, locking

_SNAPSHOT = re.compile(r"[0-9A-Fa-f-]+")
# The words that ADBC puts before the server's message.
_NOISE = re.compile(r"^([A-Z_]+: )?(\[libpq\] )?")
_LONGEST_REASON = 300
_PATIENCE_SECONDS = 0.2
_AT_THE_START = (
    "-c quote_all_identifiers=off -c default_transaction_deferrable=off -c statement_timeout=0 -c lock_timeout=0"
)


@contextmanager
def arrow_stream(
    url: str,
    snapshot: str,
    query: str,
    tables: Sequence[QualifiedName] = (),
    *,
    batch_bytes: int = 16 * 1024 * 1024,
    purpose: str = "archive",
    timeouts: Timeouts | None = None,
) -> Generator[pa.RecordBatchReader]:
    """Read a query's rows in another session's snapshot, batch by batch. Leaving the context early cancels the query.

    One batch is read ahead while the caller works on the one before, so two batches are in memory.

    Args:
        url: The base's URL; it appears in no error.
        snapshot: From `pg_export_snapshot()`, in a transaction that stays open until the context is entered.
        query: Without parameters, as the archive's `export_query` makes it.
        tables: The tables that the query reads. They are locked before the snapshot is imported, so that no ALTER TABLE
            rewrites them.
        batch_bytes: About how large a batch becomes, in bytes; a larger row is a batch of its own.
        purpose: Shown as `application_name`.
        timeouts: By default the query may take as long as it needs.

    Raises:
        ArchiveError: The server cannot be reached, the snapshot is gone, or the query failed, perhaps half-way. It is
            a ConnectionLostError where a later try may succeed.
        TableBusyError: Another session alters one of the tables, or waits to do so.
        SettingsError: The URL cannot be read.
    """
    with ExitStack() as cleanup:
        with _readable_errors(purpose, None, before=True):
            connection = _connect(url, purpose, timeouts or BULK)
            cleanup.callback(connection.close)
        with _readable_errors(purpose, connection, before=True):
            _begin(connection, snapshot, tables)
            cursor = connection.cursor()
            cleanup.callback(cursor.close)
            cursor.adbc_statement.set_options(**{StatementOptions.BATCH_SIZE_HINT_BYTES.value: str(batch_bytes)})
            worker = cleanup.enter_context(_Worker(cursor))
            worker.call(lambda: _execute(cursor, query))
            # Returns when the server has its first rows: after it has sorted them all.
            worker.result()
            source = cursor.fetch_record_batch()
        yield pa.RecordBatchReader.from_batches(source.schema, _read_ahead(source, worker, purpose, connection))


class _Worker:
    """Waits for the server in a thread of its own, so that the thread that waits for it can be interrupted."""

    def __init__(self, cursor: dbapi.Cursor) -> None:
        self._cursor = cursor
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="arrow")
        self._future: Future[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Repeated, because the thread may not have sent the query yet that is to be cancelled. A server that is gone
        # cannot be told to cancel, but then the thread does not wait for it either.
        while self._future is not None and not self._future.done():
            with suppress(adbc_driver_manager.Error):
                self._cursor.adbc_cancel()
            wait([self._future], timeout=_PATIENCE_SECONDS)
        self._pool.shutdown()

    def call(self, what: Callable[[], Any]) -> None:
        """Begin a call in the thread; only one may be under way."""
        self._future = self._pool.submit(what)

    def result(self) -> Any:
        """Wait for the call and return what it returned, or raise what it raised."""
        assert self._future is not None  # noqa: S101
        return self._future.result()


def _read_ahead(
    source: pa.RecordBatchReader, worker: _Worker, purpose: str, connection: dbapi.Connection
) -> Generator[pa.RecordBatch]:
    """Yield the batches, while the thread already reads the next one."""

    def read() -> pa.RecordBatch | None:
        try:
            return source.read_next_batch()
        except StopIteration:
            return None

    worker.call(read)
    while True:
        with _readable_errors(purpose, connection):
            batch = worker.result()
        if batch is None:
            return
        worker.call(read)
        yield batch


def _connect(url: str, purpose: str, timeouts: Timeouts) -> dbapi.Connection:
    require_readable(url)
    # The same parameters as in `sessions.connect`; settings of the session follow below.
    conninfo = make_conninfo(
        url,
        connect_timeout=10,
        client_encoding="UTF8",
        keepalives_idle=30,
        keepalives_interval=10,
        keepalives_count=3,
        options=_startup_options(url),
    )
    connection = dbapi.connect(conninfo, autocommit=True)  # pyright: ignore[reportUnknownMemberType]
    try:
        version = int(str(connection.adbc_get_info()["vendor_version"]))  # as libpq writes it: 180004
        settings = sql.SQL(", ").join(
            sql.SQL("pg_catalog.set_config({}, {}, false)").format(name, value)
            for name, value in session_settings(purpose, timeouts, version).items()
        )
        with connection.cursor() as cursor:
            _execute(cursor, sql.SQL("SELECT {}").format(settings).as_string())
            # An error half-way is only raised here.
            cursor.fetch_arrow_table()
            _execute(cursor, OWN_ROLE.as_string())
            cursor.fetch_arrow_table()
    except BaseException:
        connection.close()
        raise
    return connection


def _startup_options(url: str) -> str:
    """Startup options for the driver's first queries: it reads the names of all types before we can set anything."""
    # Options of the URL, or of the environment, are kept in front of ours: passing `options` would replace them.
    of_environment = next((one.val for one in Conninfo.get_defaults() if one.keyword == b"options"), None) or b""
    given = conninfo_to_dict(url).get("options") or of_environment.decode()
    return f"{given} {_AT_THE_START}".strip()


def _begin(connection: dbapi.Connection, snapshot: str, tables: Sequence[QualifiedName]) -> None:
    if _SNAPSHOT.fullmatch(snapshot) is None:
        raise ArchiveError("this is not the name of a snapshot", where=snapshot, state_left="nothing was read")
    with connection.cursor() as cursor:
        _execute(cursor, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        if tables:
            # Before the import, as `snapshots` explains.
            _execute(cursor, f"SET LOCAL lock_timeout = '{IMPORT_LOCK_MS}ms'")
            _execute(cursor, locking(tables).as_string())
        _execute(cursor, f"SET TRANSACTION SNAPSHOT '{snapshot}'")


def _execute(cursor: dbapi.Cursor, statement: str) -> None:
    cursor.execute(statement)  # pyright: ignore[reportUnknownMemberType]


def _is_lost(connection: dbapi.Connection) -> bool:
    """Whether the connection is lost. It is tried out, because errors half-way come as texts without a SQLSTATE."""
    try:
        with connection.cursor() as cursor:
            _execute(cursor, "ROLLBACK")  # works after any error of the server
    except adbc_driver_manager.Error:
        return True
    return False


@contextmanager
def _readable_errors(purpose: str, connection: dbapi.Connection | None, *, before: bool = False) -> Generator[None]:
    """Turn errors of ADBC, and those of Arrow that carry an error of ADBC half-way, into errors of ours."""
    try:
        yield
    except (adbc_driver_manager.Error, OSError, pa.ArrowException) as error:
        if isinstance(error, adbc_driver_manager.Error) and error.sqlstate == LockNotAvailable.sqlstate:
            raise TableBusyError(
                "another session alters the week's tables, or waits to; we released our locks so that it can go on",
                where=purpose,
                state_left="nothing was read",
                next_step="let the ALTER TABLE (or whatever locks them) end, then run this again",
            ) from None
        said = told_by_driver(_NOISE.sub("", str(error)), getattr(error, "sqlstate", None))
        reason = said[:_LONGEST_REASON] or type(error).__name__
        of_connecting = psycopg.OperationalError(reason)
        lost = _is_lost(connection) if connection is not None else is_transient(of_connecting)
        raise (ConnectionLostError if lost else ArchiveError)(
            f"reading from the base failed: {reason}",
            where=purpose,
            state_left="nothing was read" if before else "what was read so far must not be used",
            next_step=(advice_on_limit(of_connecting) or "look at the base's log") + ", then run it again",
        ) from None
