"""How an error on purpose is shown in Dagster."""

import traceback
from collections.abc import Generator
from contextlib import contextmanager

import dagster as dg
import psycopg

from migration_assets.domain.errors import MigrationError
from migration_assets.domain.plain_text import plain
from migration_assets.postgres.server_messages import limit_error, on_side, told


@contextmanager
def readable_failures() -> Generator[None]:
    """Turn our own errors into a Failure whose text says what happened and what to do; never retried by Dagster.

    What is worth a retry was tried again below, where the reason is known.
    """
    try:
        yield
    except MigrationError as error:
        # Its own stack trace would only bury the text.
        raise failure(error) from None
    except psycopg.Error as error:
        limit = limit_error(error)
        if limit is not None:
            raise failure(limit) from None
        # Tried again as often as it was worth it. The error itself is not chained: Dagster would keep all of it, and
        # what the server adds to its first line holds rows. Where it happened holds none.
        raise dg.Failure(
            description=f"PostgreSQL{on_side(error)}: {told(error)}\nState left: what was committed stays,"
            " everything else was rolled back.\nNext: mend the cause, then materialize this again: it goes on from"
            " there.",
            metadata={
                "sqlstate": dg.MetadataValue.text(error.sqlstate or "none: the connection itself failed"),
                "where": dg.MetadataValue.text("".join(traceback.format_tb(error.__traceback__)).strip()),
            },
            allow_retries=False,
        ) from None


def failure(error: MigrationError) -> dg.Failure:
    """The Failure for one of our errors."""
    metadata = {"where": error.where, "state left": error.state_left, "next": error.next_step}
    return dg.Failure(
        description=plain(str(error)),
        metadata={name: dg.MetadataValue.text(plain(text)) for name, text in metadata.items() if text},
        allow_retries=False,
    )
