"""Shows errors in Dagster as a Failure whose text says what happened, what state is left and what to do next."""

import traceback
from collections.abc import Generator
from contextlib import contextmanager

import dagster as dg
import psycopg

from migration_assets.domain.errors import MigrationError
from migration_assets.domain.plain_text import plain
from migration_assets.postgres.server_messages import server_error

_AGAIN = "mend the cause, then materialize this again: it goes on from there."


@contextmanager
def readable_failures() -> Generator[None]:
    """Turn our own errors and those of the servers into a Failure that Dagster does not retry.

    Errors that are worth a retry were retried further down, where their cause is known.

    Raises:
        dg.Failure: The body raised a MigrationError or a psycopg.Error.
    """
    try:
        yield
    except MigrationError as error:
        # The stack trace would only bury the text.
        raise failure(error) from None
    except psycopg.Error as error:
        # The error itself is not chained: Dagster would keep all of it, and what the server adds below its first line
        # holds rows. The stack holds none.
        stack = "".join(traceback.format_tb(error.__traceback__)).strip()
        sqlstate = error.sqlstate or "none: the connection itself failed"
        shown = server_error(error, next_step=_AGAIN, code=False)
        raise failure(shown, sqlstate=sqlstate, stack=stack) from None


def failure(error: MigrationError, **more: str) -> dg.Failure:
    """The Failure for one of our errors.

    Args:
        error: Its text becomes the description; place, state left and next step also become metadata.
        more: Further metadata.
    """
    metadata = {"where": error.where, "state left": error.state_left, "next": error.next_step, **more}
    return dg.Failure(
        description=plain(str(error)),
        metadata={name: dg.MetadataValue.text(plain(text)) for name, text in metadata.items() if text},
        allow_retries=False,
    )
