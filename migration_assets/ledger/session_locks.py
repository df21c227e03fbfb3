"""Locks that a session holds until it ends, made of rows in a table of ours instead of advisory locks.

Every role that may connect to a database can take any advisory lock of it, and so stop every step that waits for it. A
row of `migration.session_locks` can be written only by who may write to our schema. Rows of one name are a queue: a
session has the lock once no row before its own is in the way. A row counts as long as the session that wrote it lives,
which the server itself tells: by its process, its role and its beginning. So a lock goes with its session, whatever
ended it.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import errors, pq, sql

from migration_assets.domain.errors import MigrationError
from migration_assets.ledger.own_objects import (
    SESSION_LOCKS,
    TAG,
    require_no_collision,
    require_trusted,
)
from migration_assets.postgres.activity import APPLICATION
from migration_assets.postgres.own_schema import begin_alone
from migration_assets.postgres.sessions import Connected, require_row

# The start of another role's session cannot be seen. One process at a time is asked for, and never the whole view,
# whose other rows are not needed here. A database may be another one's copy, made by pg_dump, rows and all: a session
# that works in that one does not work here.
ALIVE = sql.SQL(
    "EXISTS (SELECT FROM pg_stat_get_activity(k.pid) a WHERE a.usesysid = k.role"
    " AND a.datid = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND coalesce(a.backend_start = k.backend_start, true))"
)
"""Whether the session that wrote row `k` of migration.session_locks lives."""

_HOLDER = sql.SQL("""
SELECT k.pid FROM (
    SELECT * FROM migration.session_locks k WHERE k.name = %(lock)s AND {alive} ORDER BY k.id LIMIT 1
) k WHERE NOT k.shared AND k.pid <> pg_backend_pid()
""").format(alive=ALIVE)

_HELD = sql.SQL("EXISTS (SELECT FROM migration.session_locks k WHERE k.name = {name} AND {alive})")
_OTHERS = sql.SQL("""
SELECT DISTINCT k.pid FROM migration.session_locks k
WHERE k.pid <> pg_backend_pid() AND (%(besides)s = '' OR position(%(besides)s IN k.name) = 0) AND {alive} ORDER BY 1
""").format(alive=ALIVE)
_OLD_HOLDER = sql.SQL("{} AND k.since < clock_timestamp() - %(seconds)s * interval '1 s'").format(_HOLDER)

# One message and one transaction. The table's lock lets rows come one after the other, so that of two each sees the one
# before it; it does not block readers, nor sessions that release. What is lost in a crash is lost with the sessions.
_QUEUE = sql.SQL("""
LOCK TABLE migration.session_locks IN SHARE UPDATE EXCLUSIVE MODE;
SET LOCAL synchronous_commit = off;
DELETE FROM migration.session_locks WHERE id IN (
    SELECT k.id FROM migration.session_locks k WHERE NOT {alive} FOR UPDATE SKIP LOCKED);
INSERT INTO migration.session_locks (id, name, shared, pid, role, backend_start)
SELECT coalesce((SELECT max(id) FROM migration.session_locks), 0) + 1, {name}, {shared},
       a.pid, a.usesysid, a.backend_start
FROM pg_stat_get_activity(pg_backend_pid()) a
RETURNING id
""")
# By process, too: after a table that somebody dropped, rows are numbered anew.
_LEAVE = sql.SQL(
    "SET LOCAL synchronous_commit = off; DELETE FROM migration.session_locks WHERE id = {} AND pid = pg_backend_pid()"
)
_BEFORE = sql.SQL("""
FROM migration.session_locks k JOIN migration.session_locks mine ON mine.id = %(mine)s AND mine.name = k.name
WHERE k.id < mine.id AND NOT (k.shared AND mine.shared) AND k.pid <> mine.pid AND {alive}
  AND NOT EXISTS (SELECT FROM migration.session_locks own WHERE own.name = mine.name AND own.pid = mine.pid
                  AND own.id < mine.id AND (mine.shared OR NOT own.shared))
""").format(alive=ALIVE)
_IS_BEHIND = sql.SQL(
    "SELECT EXISTS (SELECT {before}) FROM migration.session_locks WHERE id = %(mine)s AND pid = pg_backend_pid()"
).format(before=_BEFORE)
_WHO = sql.SQL("""
SELECT format('backend %%s (role %%s, connected since %%s UTC, %%s)', a.pid, coalesce(a.usename::text, '?'),
              coalesce((a.backend_start AT TIME ZONE 'UTC')::timestamp(0)::text, '?'), {application})
FROM pg_stat_activity a WHERE a.pid = (SELECT k.pid {before} ORDER BY k.id LIMIT 1)
""").format(application=APPLICATION, before=_BEFORE)
# Somebody drops the table, or runs VACUUM on it by hand.
_AT_TABLE = sql.SQL("""
SELECT string_agg(format('backend %%s (role %%s, %%s), which holds the table of locks', a.pid,
                         coalesce(a.usename::text, '?'), {application}), '; ')
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.relation = to_regclass('migration.session_locks') AND l.granted AND l.pid <> pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.mode = ANY('{{ShareUpdateExclusiveLock,ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}}')
""").format(application=APPLICATION)
_SHORTEST, _LONGEST = 0.001, 0.05


@contextmanager
def session_lock(
    connection: Connected, name: str, refuse: Callable[[str], MigrationError], *, shared: bool = False
) -> Generator[None]:
    """Hold a lock while the body runs; it ends with the session. A session that has it already gets it again.

    Args:
        connection: The session that holds the lock, not in a transaction. It waits as long as its `lock_timeout`.
        name: What is locked, within that server's database.
        refuse: Makes the error for a wait that took too long, from a text that names the holder.
        shared: Whether other sessions may share the lock.

    Raises:
        MigrationError: Another session holds the lock; made by `refuse`.
        psycopg.Error: The session was lost, or our role may not write to the table.
    """
    number = _take(connection, name, refuse, shared=shared)
    try:
        yield
    finally:
        _leave(connection, number)


def lock_until_session_ends(connection: Connected, name: str, refuse: Callable[[str], MigrationError]) -> None:
    """Take an exclusive lock and keep it until the session ends; for sessions that cannot release it themselves.

    Such a session may be in a transaction, or read-only, when it is closed. Otherwise as `session_lock`.
    """
    _take(connection, name, refuse, shared=False)


def holder_pids(connection: Connected, name: str, *, older_than_seconds: float = 0.0) -> list[int]:
    """The pid of another session that holds the lock exclusively and asked for it at least so many seconds ago."""
    if not has_session_locks(connection):
        return []
    rows = connection.execute(_OLD_HOLDER, {"lock": name, "seconds": older_than_seconds}).fetchall()
    return [int(pid) for (pid,) in rows]


def holder_or_null(connection: Connected) -> sql.Composed:
    """An SQL expression: the pid of another session that holds lock `%(lock)s` exclusively, or NULL."""
    return sql.SQL("({})").format(_HOLDER if has_session_locks(connection) else sql.SQL("SELECT NULL::integer"))


def is_held(connection: Connected, name: sql.Composable) -> sql.Composed:
    """An SQL expression: whether a session holds the lock or waits for it; false if there is no table of locks."""
    if not has_session_locks(connection):
        return sql.Composed([sql.SQL("false")])
    return _HELD.format(name=name, alive=ALIVE)


def others_at_work(connection: Connected, *, besides: str) -> list[int]:
    """The pids of other sessions that hold or wait for locks, except locks whose name contains `besides`.

    No session takes a new lock while the caller's transaction holds the lock on our objects.
    """
    if not has_session_locks(connection):
        return []
    return [int(pid) for (pid,) in connection.execute(_OTHERS, {"besides": besides}).fetchall()]


def has_session_locks(connection: Connected) -> bool:
    """Whether the table is there and ours. An older ledger has none, nor has a legacy that was never prepared.

    On a standby an unlogged table cannot be read, and nobody works there.
    """
    row = connection.execute(
        "SELECT to_regclass('migration.session_locks') IS NOT NULL AND NOT pg_is_in_recovery()"
    ).fetchone()
    if not require_row(row, "to_regclass")[0]:
        return False
    require_trusted(connection)
    return True


def take_turn_at_partitions(base: Connected) -> None:
    """Keep others from making partitions, or from looking at all of them, until the caller's transaction ends."""
    # It blocks nobody who reads or writes the ledger's rows.
    base.execute("LOCK TABLE migration.slices IN SHARE UPDATE EXCLUSIVE MODE")


def take_turn_at_objects(connection: Connected) -> None:
    """Keep others from making or dropping anything of ours in that database, until the caller's transaction ends.

    Raises:
        ForeignObjectError: A foreign object has the name of our table of locks.
        psycopg.errors.LockNotAvailable: Another session holds it for longer than `lock_timeout`.
    """
    while True:
        with suppress(errors.UndefinedTable, errors.InvalidSchemaName), connection.transaction():
            make_session_locks(connection)
            connection.execute("LOCK TABLE migration.session_locks IN SHARE UPDATE EXCLUSIVE MODE")
            return
        # The session that was first dropped it: it is made anew.


def make_session_locks(legacy: Connected) -> None:
    """Create the table of locks if it is missing; on the base the ledger has it. Safe to repeat and concurrently.

    Raises:
        ForeignObjectError: A foreign object has its name.
    """
    if has_session_locks(legacy):
        return require_no_collision(legacy, {"session_locks"})
    while True:
        # Of two sessions that make it at once one fails, in spite of IF NOT EXISTS, and finds it made.
        with suppress(errors.UniqueViolation, errors.DuplicateTable, errors.DuplicateSchema), legacy.transaction():
            begin_alone(legacy, "legacy")
            legacy.execute("CREATE SCHEMA IF NOT EXISTS migration")
            require_no_collision(legacy, {"session_locks"})
            legacy.execute("CREATE UNLOGGED TABLE IF NOT EXISTS " + SESSION_LOCKS)
            legacy.execute(
                sql.SQL("COMMENT ON TABLE migration.session_locks IS {}").format(
                    sql.Literal(f"{TAG}who works here, as long as the session lives")
                )
            )
            return None


def _take(connection: Connected, name: str, refuse: Callable[[str], MigrationError], *, shared: bool) -> int:
    try:
        number = _stand_in_queue(connection, name, shared=shared)
    except errors.LockNotAvailable:
        who = connection.execute(_AT_TABLE, []).fetchone()
        raise refuse(str((who and who[0]) or "another session, which has just let go of the table of locks")) from None
    try:
        _wait(connection, number, refuse)
    except BaseException:
        _leave(connection, number)
        raise
    return number


def _leave(connection: Connected, number: int) -> None:
    # A lost connection has lost the lock by itself, and a dropped schema takes the lock with it.
    with suppress(psycopg.OperationalError, errors.UndefinedTable, errors.InvalidSchemaName):
        connection.execute(_LEAVE.format(sql.Literal(number)))


def _stand_in_queue(connection: Connected, name: str, *, shared: bool = False) -> int:
    if connection.info.transaction_status is not pq.TransactionStatus.IDLE:
        raise RuntimeError("a session lock must not be taken inside a transaction: other sessions would not see it")
    cursor = connection.execute(_QUEUE.format(alive=ALIVE, name=sql.Literal(name), shared=sql.Literal(shared)))
    while cursor.nextset():
        pass
    return int(require_row(cursor.fetchone(), "a place in the queue")[0])


def _wait(connection: Connected, number: int, refuse: Callable[[str], MigrationError]) -> None:
    began, pause = time.monotonic(), _SHORTEST
    patience: float | None = None
    mine = {"mine": number}
    while _is_behind(connection, mine, refuse):
        if patience is None:
            patience = _lock_timeout(connection)
        if patience and time.monotonic() - began > patience:
            who = connection.execute(_WHO, mine).fetchone()
            raise refuse(str(who[0]) if who else "another session, which has just ended")
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST)


def _is_behind(connection: Connected, mine: dict[str, int], refuse: Callable[[str], MigrationError]) -> bool:
    row = connection.execute(_IS_BEHIND, mine).fetchone()
    if row is None:
        raise refuse("no known session: the waiting row of this session was removed from the table of locks")
    return bool(row[0])


def _lock_timeout(connection: Connected) -> float:
    """The session's `lock_timeout` in seconds; 0 means no limit."""
    row = connection.execute("SELECT extract(epoch FROM current_setting('lock_timeout')::interval)::float8").fetchone()
    return float(require_row(row, "lock_timeout")[0])
