"""The gate of every step that rests on the legacy's being the truth, and what to say where it does not."""

import logging

from migration_assets.domain.freshness import instant_text
from migration_assets.ledger.charge import base_in_charge_since, is_abandoned, require_legacy_in_charge
from migration_assets.postgres.retries import retry_transient
from migration_assets.runtime import Migration

log = logging.getLogger(__name__)


def require_legacy(migration: Migration, what: str) -> None:
    """Refuse while the base is in charge, before the legacy is asked for anything: it may be gone.

    Args:
        migration: Which.
        what: What is not done then, and why; follows a colon.

    Raises:
        BaseInChargeError: The base is in charge; nothing was touched.
    """

    def once() -> None:
        with migration.databases.session("base", "charge") as base:
            require_legacy_in_charge(base, migration.spec.relation, what)

    retry_transient(once, what="who is in charge", attempts=migration.settings.retry_attempts, log=log)


def why_nobody_compares(migration: Migration) -> tuple[str, bool] | None:
    """Why no week is compared with the legacy now, and whether that is well; None where the stream follows it."""
    with migration.databases.session("base", "charge") as base:
        since = base_in_charge_since(base, migration.spec.relation)
        if since is not None:
            return f"the base is in charge since {instant_text(since)}: bookings come to the base alone", True
        if is_abandoned(base, migration.spec.relation):
            return "nobody follows the legacy: what it has got by now is not known here", False
    return None
