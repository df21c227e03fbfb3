"""A server has no disk, memory, lock or connection left: what is said of it, and what somebody does about it."""

import psycopg

from migration_assets.domain.errors import NoRoomError
from migration_assets.postgres.error_sides import place, side_of
from migration_assets.postgres.server_messages import told

_ADVICE = {
    "53100": "free room on the disk of that server, or give it more",
    "53200": "let others on that server end what they do, or give it more memory; where its lock table is full, ALTER"
    " SYSTEM SET max_locks_per_transaction to twice what it is, and restart it",
    "53300": "free connections on that server or raise its limit (max_connections, max_wal_senders, or that of the role"
    " or database)",
    "53400": "raise the limit of that server, or free what it counts",
}
# While connecting there is no code, only the server's words.
_WORDS = {
    "too many clients": "53300",
    "connection slots": "53300",
    "too many connections": "53300",
    "requested standby connections exceeds": "53300",
    "out of shared memory": "53200",
}


def advice_on_limit(error: psycopg.Error) -> str | None:
    """What somebody does about a limit that a server has reached; None of any other error."""
    if error.sqlstate:
        return _ADVICE.get(error.sqlstate)
    said = str(error)
    return next((_ADVICE[code] for words, code in _WORDS.items() if words in said), None)


def limit_error(error: psycopg.Error, *, where: str = "") -> NoRoomError | None:
    """The error as a readable one, where a limit was reached; None of any other error."""
    advice = advice_on_limit(error)
    if advice is None:
        return None
    server = f"the {side}" if (side := side_of(error)) else "a server"
    code = f" (SQLSTATE {error.sqlstate})" if error.sqlstate else ""
    return NoRoomError(
        f"{server} has no room left: {told(error)}{code}",
        where=place(where, error),
        state_left="what was committed stays, everything else was rolled back; `status` shows what there is",
        next_step=f"{advice}, then run this again",
    )
