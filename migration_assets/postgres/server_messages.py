"""What may be told of an error: what happened, never a row, a statement or a secret.

PostgreSQL's messages quote values at their end, and so do the lines below them: DETAIL has whole rows, CONTEXT a line
of a COPY. Errors are kept in the ledger and in Dagster's event log, and go out as alerts and to terminals.

Which of the two servers an error is of: the error itself does not say so, and a step has sessions on both.

A server has no disk, memory, lock or connection left: what is said of it, and what somebody does about it.
"""

import re

import psycopg

from migration_assets.domain.errors import MigrationError, NoRoomError
from migration_assets.domain.plain_text import UNPRINTABLE

LONGEST = 1000
"""Characters of a text that is told; nobody can make an alert of a megabyte."""

_NAME = r'"[^"]{1,200}"'
_TARGET = rf"logical replication target relation {_NAME}"
# What may be shown; a message that begins otherwise is not. Each pattern ends before a value can begin.
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
# Data exceptions, broken constraints, and whatever a function raised: their texts are made of values.
_TOLD_WITH_VALUES = ("22", "23", "P0")


def shown_message(message: str) -> str | None:
    """The part of a server's message that can hold no value; None where it is not known that there is one."""
    found = _SHOWN.match(message)
    return found.group() if found else None


def told_by_driver(text: str, sqlstate: str | None) -> str:
    """What a driver says that puts the server's message behind its own words, on one line and without values.

    Args:
        text: Of its error.
        sqlstate: None where it does not say the code: then only what is known to hold no value is told.
    """
    line = (text.strip().splitlines() or [""])[0]
    _, found, message = line.partition("ERROR: ")  # in another language the server says another word
    if sqlstate.startswith(_TOLD_WITH_VALUES) if sqlstate else found or "[PGRES_" in line:
        line = f"ERROR: {shown_message(message.strip()) or 'its text may hold values'}; the server's log has the rest"
    return clean(line)


def clean(text: str) -> str:
    """On one line and no longer than `LONGEST`, without what a terminal or a chat would act upon."""
    plain = " ".join(UNPRINTABLE.sub(" ", text).split())
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 1]}…"


def told(error: BaseException) -> str:
    """One line of what an error says, for people, logs, the ledger and alerts; never empty.

    Args:
        error: Any. Of a server's error the first line, as far as it holds no values. Of a lost or refused connection
            the same: it names host, port and database, and no password. Of an error of ours its first line, which says
            what happened and where.
    """
    text = _without_values(error) if isinstance(error, psycopg.Error) else str(error)
    return clean((text.strip().splitlines() or [""])[0]) or type(error).__name__


def named(error: BaseException) -> str:
    """The kind of an error and what it says, to be kept: an error of ours whole, of any other what may be told."""
    return f"{type(error).__name__}: {error if isinstance(error, MigrationError) else told(error)}"


def conceal(error: psycopg.Error) -> None:
    """Let the error's own text be what may be told, for whoever shows it or the error that it is the cause of.

    What it is made of (`diag`) stays: it is for whoever looks for it on purpose.
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
    if said is None:  # libpq's own, of connections; or psycopg's, of values that Python has no type for
        return (
            "DataError: a value that cannot be read or written" if isinstance(error, psycopg.DataError) else str(error)
        )
    if not _holds_values(error):
        # Of a hint the setting's name alone: what a limit is called helps, and any function may write a hint.
        limit = _LIMIT.search(error.diag.message_hint or "") if (error.sqlstate or "").startswith("53") else None
        return f"{said}: {limit.group()} of that server is too small" if limit else said
    diag = error.diag
    names = (("constraint", diag.constraint_name), ("column", diag.column_name), ("table", diag.table_name))
    where = ", ".join(f"{what} {name}" for what, name in names if name)
    shown = shown_message(said) or type(error).__name__
    return f"{shown}{f' ({where})' if where else ''}; the server's log has the rest"


_SIDE = "migration_assets_side"


def mark_side(error: psycopg.Error, side: str | None) -> None:
    """Note the side whose session raised the error; the first note stays."""
    if side is not None and side_of(error) is None:
        setattr(error, _SIDE, side)


def side_of(error: BaseException) -> str | None:
    """`legacy` or `base`; None where the session was of neither, or the error is no server's."""
    return getattr(error, _SIDE, None)


def on_side(error: BaseException) -> str:
    """For the middle of a sentence: ` on the legacy`, or nothing."""
    side = side_of(error)
    return f" on the {side}" if side else ""


def place(where: str, error: BaseException) -> str:
    """What an error of ours has as `where`: the step or slice, and the side, as far as they are known."""
    side = side_of(error)
    return f"{where}, the {side}" if where and side else where or (f"the {side}" if side else "")


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
