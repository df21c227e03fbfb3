"""How an error on purpose is shown in Dagster."""

from collections.abc import Generator
from contextlib import contextmanager

import dagster as dg
import psycopg

from migration_assets.domain.errors import MigrationError


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
        # Tried again as often as it was worth it; what the server said comes first, the stack trace after it.
        raise dg.Failure(
            description=f"PostgreSQL: {str(error).strip()}\nState left: every step is one transaction, so nothing is"
            " half-done.\nNext: mend the cause, then materialize this partition again.",
            metadata={"sqlstate": dg.MetadataValue.text(error.sqlstate or "none: the connection itself failed")},
            allow_retries=False,
        ) from error


def failure(error: MigrationError) -> dg.Failure:
    """The Failure for one of our errors."""
    metadata = {"where": error.where, "state left": error.state_left, "next": error.next_step}
    return dg.Failure(
        description=str(error),
        metadata={name: dg.MetadataValue.text(text) for name, text in metadata.items() if text},
        allow_retries=False,
    )
