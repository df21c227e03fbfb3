"""The ledger, in place and of this version before a step begins."""

import logging

from migration_assets.ledger.own_objects import ledger_version
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.postgres.retries import retry_transient
from migration_assets.runtime import Migration

log = logging.getLogger(__name__)


def prepare_ledger(migration: Migration, purpose: str) -> None:
    """Make or upgrade it in a session of its own; tried again where the base was lost for a moment.

    Args:
        migration: Whose base.
        purpose: Shown as `application_name`.

    Raises:
        UnavailableError: The base is away, and stays away.
        ForeignObjectError: Somebody else's objects have its names.
    """

    def once() -> None:
        with migration.databases.session("base", purpose) as base:
            ensure_ledger(base)

    retry_transient(once, what="the ledger", attempts=migration.settings.retry_attempts, log=log)


def upgrade_ledger(migration: Migration) -> tuple[int, int]:
    """Make it, or bring it to this program's version; which one it had, 0 where there was none, and has now.

    Raises:
        LedgerError: A newer program wrote it.
        ForeignObjectError: Somebody else's objects have its names, or could run something as our role.
    """
    with migration.databases.session("base", "ledger") as base:
        before = ledger_version(base)
        return before, ensure_ledger(base)
