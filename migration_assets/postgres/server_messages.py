"""What may be told of a server's error: what happened and on which side, never a row, a statement or a secret.

Where a server has no disk, memory, lock or connection left, the text says so, and what to do about it.
"""

import re

import psycopg

from migration_assets.domain.errors import MigrationError, NoRoomError
from migration_assets.domain.plain_text import UNPRINTABLE

LONGEST = 1000
"""Most characters of a text that is shown, so that no server can cause an alert of a megabyte."""

_NAME = r'"[^"]{1,200}"'
_TARGET = rf"logical replication target relation {_NAME}"
# The beginnings of messages that may be shown; any other message is not. Each ends before a value can begin.
_MESSAGES = (
    rf"conflict detected on relation {_NAME}: conflict=\w+",
    rf"duplicate key value violates unique constraint {_NAME}",
    rf"new row for relation {_NAME} violates check constraint {_NAME}",
    rf"null value in column {_NAME} of relation {_NAME} violates not-null constraint",
    r"domain [\w.]+ does not allow null values",
    rf"value for domain [\w.]+ violates check constraint {_NAME}",
    rf"insert or update on table {_NAME} violates foreign key constraint {_NAME}",
    rf"no partition of relation {_NAME} found for row",
    rf"{_TARGET} does not exist",
    rf"{_TARGET} is missing replicated columns?: {_NAME}(, {_NAME})*",
    rf"{_TARGET} has incompatible generated columns?: {_NAME}(, {_NAME})*",
    rf"publisher did not send replica identity column expected by the {_TARGET}",
    r"invalid input value for enum [\w.]+",
    r"invalid input syntax for type [\w ]+",
    r"malformed (record|array|range|multirange) literal",
    r"value too long for type [\w ]+\(\d+\)",
    r"numeric field overflow",
    r"(smallint|integer|bigint) out of range",
    r"incorrect binary data format( in logical replication column \d+)?",
    r"permission denied for (table|schema|sequence|function|type|language) [\w.]+",
    rf"(relation|schema|type|function|column|role|collation) {_NAME} does not exist",
    r"could not (connect to the publisher|start WAL streaming|receive data from WAL stream)",
    r"(canceling statement|terminating connection) due to [\w -]+",
    r"division by zero",
    rf"(replication slot|publication) {_NAME} does not exist",
)
_SHOWN = re.compile("|".join(_MESSAGES))
_LIMIT = re.compile(r"\bmax_[a-z_]{1,40}\b")
# Data exceptions, broken constraints and errors that a function raised: their messages contain values.
_TOLD_WITH_VALUES = ("22", "23", "P0")


def shown_message(message: str) -> str | None:
    """The part of a server's message that can hold no value; None where no such part is known."""
    found = _SHOWN.match(message)
    return found.group() if found else None


def told_by_driver(text: str, sqlstate: str | None) -> str:
    """One line, without values, of an error of a driver that puts its own words before the server's message.

    Args:
        text: The error's text.
        sqlstate: None where the driver does not give it: then only what is known to hold no value is shown.
    """
    line = (text.strip().splitlines() or [""])[0]
    _, found, message = line.partition("ERROR: ")  # in another language the server says another word
    if sqlstate.startswith(_TOLD_WITH_VALUES) if sqlstate else found or "[PGRES_" in line:
        line = f"ERROR: {shown_message(message.strip()) or 'its text may hold values'}; the server's log has the rest"
    return clean(line)


def clean(text: str) -> str:
    """The text on one line, without control characters and no longer than `LONGEST`."""
    plain = " ".join(UNPRINTABLE.sub(" ", text).split())
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 1]}…"


def told(error: BaseException) -> str:
    """One line of what an error says, for people, logs, the ledger and alerts; never empty.

    Args:
        error: Any error. Of a server's error the first line is taken, as far as it holds no values; so it is of a lost
            or refused connection, where it names host, port and database, but no password. Of an error of ours the
            first line says what happened and where.
    """
    text = _without_values(error) if isinstance(error, psycopg.Error) else str(error)
    return clean((text.strip().splitlines() or [""])[0]) or type(error).__name__


def named(error: BaseException) -> str:
    """The error's class and text, for the ledger: the whole text of an error of ours, one safe line of any other."""
    return f"{type(error).__name__}: {error if isinstance(error, MigrationError) else told(error)}"


def conceal(error: psycopg.Error) -> None:
    """Let the error's own text be what may be told, wherever it or the error that it caused is shown.

    What it is made of (`diag`) stays, for code that asks for it on purpose.
    """
    if error.diag.message_primary is None:
        error.args = (_without_values(error),)
        return
    more = () if _holds_values(error) else (error.diag.message_detail, error.diag.message_hint)
    error.args = ("\n".join([_without_values(error), *(line for line in more if line)]),)


def _holds_values(error: psycopg.Error) -> bool:
    return (error.sqlstate or "").startswith(_TOLD_WITH_VALUES)


def _without_values(error: psycopg.Error) -> str:
    said = error.diag.message_primary
    if said is None:  # from libpq, on connections; or from psycopg, on values that Python has no type for
        return (
            "DataError: a value that cannot be read or written" if isinstance(error, psycopg.DataError) else str(error)
        )
    if not _holds_values(error):
        # From a hint only the name of the limit is shown, because any function may write a hint.
        limit = _LIMIT.search(error.diag.message_hint or "") if (error.sqlstate or "").startswith("53") else None
        return f"{said}: {limit.group()} of that server is too small" if limit else said
    diag = error.diag
    names = (("constraint", diag.constraint_name), ("column", diag.column_name), ("table", diag.table_name))
    where = ", ".join(f"{what} {name}" for what, name in names if name)
    shown = shown_message(said) or type(error).__name__
    return f"{shown}{f' ({where})' if where else ''}; the server's log has the rest"


_SIDE = "migration_assets_side"


def mark_side(error: psycopg.Error, side: str | None) -> None:
    """Mark the error with the side whose session raised it; an earlier mark stays."""
    if side is not None and side_of(error) is None:
        setattr(error, _SIDE, side)


def side_of(error: BaseException) -> str | None:
    """`legacy` or `base`; None where the error has no mark: the session was of neither, or no server raised it."""
    return getattr(error, _SIDE, None)


def on_side(error: BaseException) -> str:
    """` on the legacy` or ` on the base`, for the middle of a sentence; empty where the side is unknown."""
    side = side_of(error)
    return f" on the {side}" if side else ""


def place(where: str, error: BaseException) -> str:
    """The `where` of an error of ours: the step or slice, and the side, as far as they are known."""
    side = side_of(error)
    return f"{where}, the {side}" if where and side else where or (f"the {side}" if side else "")


_ADVICE = {
    "53100": "free room on the disk of that server, or give it more",
    "53200": "let other sessions on that server end, or give it more memory; where its lock table is full, ALTER"
    " SYSTEM SET max_locks_per_transaction to twice what it is, and restart it",
    "53300": "free connections on that server or raise its limit (max_connections, max_wal_senders, or that of the role"
    " or database)",
    "53400": "raise the limit of that server, or free what it counts",
}
# While connecting psycopg gives no SQLSTATE, only the server's message.
_WORDS = {
    "too many clients": "53300",
    "connection slots": "53300",
    "too many connections": "53300",
    "requested standby connections exceeds": "53300",
    "out of shared memory": "53200",
}


def advice_on_limit(error: psycopg.Error) -> str | None:
    """The next step where the server has reached a limit; None for any other error."""
    if error.sqlstate:
        return _ADVICE.get(error.sqlstate)
    said = str(error)
    return next((_ADVICE[code] for words, code in _WORDS.items() if words in said), None)


def limit_error(error: psycopg.Error, *, where: str = "") -> NoRoomError | None:
    """A `NoRoomError` for an error that says that a server has reached a limit; None for any other error."""
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


COMMITTED_STAYS = "what was committed stays, everything else was rolled back"
"""What is left by an error that no step has turned into one of ours."""


def server_error(error: psycopg.Error, *, next_step: str, code: bool = True) -> MigrationError:
    """A server's error as one of ours: the limit that was reached, or what the server says, without any row of data.

    Args:
        error: Its text may hold rows; only what may be shown of it is taken over.
        next_step: What to do, where no limit was reached; a limit has advice of its own.
        code: Whether the text ends with the SQLSTATE.
    """
    sqlstate = f" (SQLSTATE {error.sqlstate})" if code else ""
    return limit_error(error) or MigrationError(
        f"{told(error)}{sqlstate}",
        where=f"PostgreSQL{on_side(error)}",
        state_left=COMMITTED_STAYS,
        next_step=next_step,
    )
