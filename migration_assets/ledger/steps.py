"""How a step begins and how it is tried again: the one place where the ledger is made, gates are asked, retries run.

A step is one deed of a person, an asset or a job: copy a week, start the stream, archive a week. It needs the ledger in
the base, it may be refused by a gate before anything is touched, and it is run again from its beginning where a server
was lost for a moment. Gates that must hold until the end of a transaction are asked again inside the step's own
transactions; they stand there.
"""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

from migration_assets.ledger.schema import ensure_ledger
from migration_assets.postgres.retries import retry_transient
from migration_assets.postgres.sessions import Connected, Timeouts
from migration_assets.runtime import Migration

_Result = TypeVar("_Result")
log = logging.getLogger(__name__)


@contextmanager
def open_ledger(migration: Migration, purpose: str, timeouts: Timeouts | None = None) -> Generator[Connected]:
    """Open a session on the base in which the ledger exists and has this program's version.

    Args:
        migration: Whose base.
        purpose: Shown as `application_name`.
        timeouts: Of the session; the usual ones where none are given.

    Raises:
        LedgerError: A newer program wrote the ledger, or an older one is at work.
        ForeignObjectError: Somebody else's objects have its names.
    """
    with migration.databases.session("base", purpose, timeouts or Timeouts()) as base:
        ensure_ledger(base)
        yield base


def run_step(
    migration: Migration,
    what: str,
    work: Callable[[], _Result],
    *,
    gate: Callable[[Connected], object] | None = None,
    attempts: int | None = None,
) -> _Result:
    """Ask the gate, then do the work; begin again from the gate where a server was lost for a moment.

    Args:
        migration: Whose ledger and settings.
        what: Names the step in warnings and errors: `validation of FY25-Q2|W01`.
        work: The step itself. It must be safe to repeat from its beginning.
        gate: Raises where the step must not begin. It gets a session on the base that has a ledger; the legacy was not
            asked for anything yet.
        attempts: How often it is tried; `MIGRATION_RETRY_ATTEMPTS` where it is not given. 1 for what must not be
            repeated.

    Raises:
        UnavailableError: A server is away, and stays away.
        MigrationError: As the gate and the work.
    """

    def once() -> _Result:
        with open_ledger(migration, f"{what}:gate") as base:
            if gate is not None:
                gate(base)
        return work()

    return retry_transient(once, what=what, attempts=attempts or migration.settings.retry_attempts, log=log)


def prepare_ledger(migration: Migration, purpose: str) -> None:
    """Make or upgrade the ledger in a session of its own; try again where the base was lost for a moment.

    Args:
        migration: Whose base.
        purpose: Shown as `application_name`.

    Raises:
        UnavailableError: The base is away, and stays away.
        ForeignObjectError: Somebody else's objects have its names.
    """

    def once() -> None:
        with open_ledger(migration, purpose):
            pass

    retry_transient(once, what="the ledger", attempts=migration.settings.retry_attempts, log=log)
