"""Whoever changes the other server holds a lock there, too, in the very session that makes the change.

The lock on the base is lost with its session. Where the base restarts, or an operator ends that session, the next run
may begin, while the first one is still at work on the legacy, or wakes up there hours later, and would drop a slot or
narrow a filter that is not its own any more. So the next run ends that session first, on the side that it changes.
"""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import LiteralString

from psycopg import errors

from migration_assets.domain.errors import StreamError
from migration_assets.postgres.change_stream.records import START_LOCK_CLASS, stream_lock
from migration_assets.postgres.sessions import Connected

HOLDERS: LiteralString = """
SELECT k.pid FROM pg_locks k
WHERE k.locktype = 'advisory' AND k.granted AND k.mode = 'ExclusiveLock' AND k.objsubid = 2
  AND k.classid = %(lock)s AND k.objid::bigint = hashtext(%(key)s)::bigint & 4294967295 AND k.pid <> pg_backend_pid()
  AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
"""Whoever else has the lock of that class (`lock`) and key alone; a shared look is nobody at work."""

# Who may not see when a session began takes it for old.
_SINCE_LONG: LiteralString = """
  AND coalesce((SELECT a.backend_start < clock_timestamp() - %(seconds)s * interval '1 s' FROM pg_stat_activity a
                WHERE a.pid = k.pid), true)
"""
_END_MS = 5_000
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublicationChange:
    """What is done to the publication under a cut's lock.

    Attributes:
        slot: The stream's, whose name tells two bases of one legacy apart.
        starter: The session on the base that holds the lock of class START_LOCK_CLASS.
        make: Called with the session that holds the legacy's writers, perhaps more than once.
    """

    slot: str
    starter: Connected
    make: Callable[[Connected], None]


@contextmanager
def claimed(
    connection: Connected, key: str, *, holder: Connected, lock_class: int = START_LOCK_CLASS
) -> Generator[None]:
    """While the body runs, `connection` changes its server for whoever holds the base's lock, and nobody else does.

    Args:
        connection: The session that makes the changes; once another run holds the base's lock, it is ended.
        key: What it is about: the stream's slot.
        holder: The session that holds the base's lock of this class, alone.
        lock_class: Of both locks.

    Raises:
        StreamError: A session is left over that our role may not end.
        psycopg.OperationalError: `holder` was lost, so that another run may have begun.
    """
    # First, too: whoever has lost the base's lock ends nobody who got it since.
    holder.execute("SELECT 1")
    left = end_holders(connection, key, lock_class)
    if left:
        log.warning("a run that had lost its lock on the base was still at work: its session %s was ended", left)
    with stream_lock(connection, key, lock_class=lock_class):
        # After the lock: whoever gets the base's from here on ends this session before he changes anything.
        holder.execute("SELECT 1")
        yield


def end_holders(connection: Connected, key: str, lock_class: int, *, older_than_seconds: float = 0.0) -> list[int]:
    """End whoever has the lock, and whose session began so long ago; their pids.

    Raises:
        StreamError: Our role may not.
    """
    asked = {"lock": lock_class, "key": key, "seconds": older_than_seconds}
    pids = [int(pid) for (pid,) in connection.execute(HOLDERS + _SINCE_LONG, asked).fetchall()]
    try:
        for pid in pids:
            connection.execute("SELECT pg_terminate_backend(%s, %s)", [pid, _END_MS])
    except errors.InsufficientPrivilege:
        raise StreamError(
            f"the session of an earlier run is left over, backend {pids}, and our role may not end it",
            where=key,
            state_left="nothing was changed by this run",
            next_step=f"as its role, or a superuser: SELECT pg_terminate_backend({pids[0]}); then run this again",
        ) from None
    return pids
