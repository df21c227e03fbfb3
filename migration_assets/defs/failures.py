"""How an error on purpose is shown in Dagster."""

from collections.abc import Generator
from contextlib import contextmanager

import dagster as dg

from migration_assets.domain.errors import MigrationError


@contextmanager
def readable_failures() -> Generator[None]:
    """Turn our own errors into a Failure whose text says what happened and what to do; never retried by Dagster.

    What is worth a retry was tried again below, where the reason is known.
    """
    try:
        yield
    except MigrationError as error:
        raise failure(error) from error


def failure(error: MigrationError) -> dg.Failure:
    """The Failure for one of our errors."""
    metadata = {"what": error.what, "where": error.where, "state left": error.state_left, "next": error.next_step}
    return dg.Failure(
        description=str(error),
        metadata={name: dg.MetadataValue.text(text) for name, text in metadata.items() if text},
        allow_retries=False,
    )
