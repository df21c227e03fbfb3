"""What may be told of an error: what happened, never a row, a statement or a secret.

A server's error has a first line and further parts: DETAIL, HINT, CONTEXT, the statement. These hold values of rows
("Key (id)=(5) already exists", "Failing row contains (…)"). Errors are kept in the ledger and in Dagster's event log,
and go out as alerts: only the first line may be there.
"""

import re

import psycopg

from migration_assets.domain.errors import MigrationError

LONGEST = 1000
"""Characters of a text that is told; nobody can make an alert of a megabyte."""

# "invalid input syntax for type integer: "4111…"", "date/time field value out of range: "…"": what is quoted is a
# column's value wherever PostgreSQL complains about data (class 22).
_DATA = "22"
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
# What moves a terminal's cursor, ends a line or reverses a text's direction.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")


def clean(text: str) -> str:
    """On one line and no longer than `LONGEST`, without what a terminal or a chat would act upon."""
    plain = " ".join(_UNPRINTABLE.sub(" ", text).split())
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 1]}…"


def told(error: BaseException) -> str:
    """One line of what an error says, for people, logs, the ledger and alerts; never empty.

    Args:
        error: Any. Of a server's error only its first line is told, without the values of data. Of a lost or refused
            connection the same: it names host, port and database, and no password. Of an error of ours its first line,
            which says what happened and where.
    """
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    text = primary or (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith(_DATA):
        text = _QUOTED.sub("…", text)
    return clean(text) or type(error).__name__


def named(error: BaseException) -> str:
    """The kind of an error and what it says, to be kept: an error of ours whole, of any other what may be told."""
    return f"{type(error).__name__}: {error if isinstance(error, MigrationError) else told(error)}"
