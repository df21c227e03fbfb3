"""A step that changes the other server holds a lock there, too, in the very session that makes the change.

A lock on the base is lost with its session. If the base restarts, or an operator ends that session, the next run may
begin while the first one still works on the legacy, or wakes up there hours later, and would drop a slot or narrow a
filter that is no longer its own. So the next run first ends the earlier run's session on the side that it changes.
"""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg import errors

from migration_assets.domain.errors import StreamError
from migration_assets.ledger.session_locks import holder_pids, make_session_locks
from migration_assets.ledger.stream import StreamLock, stream_lock
from migration_assets.postgres.sessions import Connected

_END_MS = 5_000
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublicationChange:
    """A change of the publication that is made under a cut's lock.

    Attributes:
        slot: The stream's slot, whose name tells two bases of one legacy apart.
        starter: The session on the base that holds the lock of kind START.
        make: Called with the session that holds the legacy's writers, possibly more than once.
    """

    slot: str
    starter: Connected
    make: Callable[[Connected], None]


@contextmanager
def claimed(
    connection: Connected, key: str, *, holder: Connected, lock: StreamLock = StreamLock.START
) -> Generator[None]:
    """While the body runs, `connection` changes its server for the holder of the base's lock, and nobody else does.

    Args:
        connection: The session that makes the changes; it is ended as soon as another run holds the base's lock.
        key: What is claimed: the name of the stream's slot.
        holder: The session that holds the base's lock of that kind exclusively.
        lock: The kind of lock, on both sides.

    Raises:
        StreamError: An earlier run's session is left over that our role may not end.
        psycopg.OperationalError: `holder` was lost, so that another run may have begun.
    """
    # First, too: a run that has lost the base's lock must not end the one that got it since.
    holder.execute("SELECT 1")
    left = end_holders(connection, lock.named(key))
    if left:
        log.warning("a run that had lost its lock on the base was still at work: its session %s was ended", left)
    make_session_locks(connection)
    with stream_lock(connection, key, lock=lock):
        # After the lock: a run that gets the base's lock from here on ends this session before it changes anything.
        holder.execute("SELECT 1")
        yield


def end_holders(connection: Connected, name: str, *, older_than_seconds: float = 0.0) -> list[int]:
    """End the sessions that hold the lock of that name for at least so long; returns their pids.

    Raises:
        StreamError: Our role may not end one of them.
    """
    pids = holder_pids(connection, name, older_than_seconds=older_than_seconds)
    try:
        for pid in pids:
            connection.execute("SELECT pg_terminate_backend(%s, %s)", [pid, _END_MS])
    except errors.InsufficientPrivilege:
        raise StreamError(
            f"the session of an earlier run is left over, backend {pids}, and our role may not end it",
            where=name,
            state_left="nothing was changed by this run",
            next_step=f"as its role, or a superuser: SELECT pg_terminate_backend({pids[0]}); then run this again",
        ) from None
    return pids
