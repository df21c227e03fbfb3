"""How many rows a Dagster run may delete: a number that a person confirms with the code given by the refusal.

A command is typed by a person each time, so its number is enough. A run can be executed again or launched by a link,
so it needs a code that is used up.
"""

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial

import psycopg

from migration_assets.domain.confirmation import Deed, confirmation_text
from migration_assets.domain.errors import DeletionError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.confirmations import Confirmation, examined_sides, give_code
from migration_assets.ledger.steps import prepare_ledger
from migration_assets.postgres.server_messages import told
from migration_assets.runtime import Migration

log = logging.getLogger(__name__)


@contextmanager
def confirmed_deletions(
    migration: Migration, rows: Mapping[FiscalWeek, int], code: str, *, run_id: str | None = None
) -> Generator[Mapping[FiscalWeek, int]]:
    """Yield the confirmed numbers for a body that may delete so many rows; a failure gives the codes back.

    Args:
        migration: The migration.
        rows: How many rows of each week may be deleted.
        code: The codes of all weeks, separated by blanks or commas.
        run_id: Recorded with a new code.

    Raises:
        ConfirmationError: A code is missing or invalid; the body did not run.
        DeletionError: The body was refused; the message contains the code that confirms it.
    """
    relation = migration.spec.relation
    examined = partial(examined_sides, relation=relation)
    confirmations = [
        Confirmation(_deed(relation, confirmation_text(week, number)), examined, code) for week, number in rows.items()
    ]
    if confirmations:
        prepare_ledger(migration, "deletions:code")
        with migration.databases.session("base", "deletions:code") as base, base.transaction():
            for one in confirmations:
                one.spend(base)
    try:
        yield rows
    except BaseException as error:
        _give_back(migration, confirmations)
        if not isinstance(error, DeletionError) or not error.asks_for:
            raise
        with migration.databases.session("base", "deletions:code") as base:
            given = give_code(base, _deed(relation, error.asks_for), examined, run_id=run_id)
        raise DeletionError(
            error.what,
            where=error.where,
            state_left=error.state_left,
            next_step=f"{error.next_step}, and with confirm: {given}",
            asks_for=error.asks_for,
        ) from None


def _give_back(migration: Migration, confirmations: list[Confirmation]) -> None:
    if not confirmations:
        return
    try:
        with migration.databases.session("base", "deletions:code") as base, base.transaction():
            for one in confirmations:
                one.give_back(base)
    except psycopg.OperationalError as error:
        # The first failure must be seen. Where the code is lost, the next run is refused and shows another one.
        log.warning("codes for deletions stay used, although nothing came of them: %s", told(error))


def _deed(relation: str, subject: str) -> Deed:
    how = "launch it without confirm_deletes: where so many rows would be deleted the refusal gives a code for them"
    return Deed(relation, "delete", subject, how)
