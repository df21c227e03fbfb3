"""Giving a migration up, for somebody who asks; by default it is only said what would be done."""

import logging
from collections.abc import Callable

from migration_assets.postgres import abandon as undoing
from migration_assets.postgres.abandon import Abandoned
from migration_assets.postgres.retries import retry_transient
from migration_assets.runtime import Migration

__all__ = ["Abandoned", "abandon_migration", "clean_legacy"]

log = logging.getLogger(__name__)


def abandon_migration(
    migration: Migration,
    *,
    apply: bool = False,
    run_id: str | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Abandoned:
    """See `postgres.abandon.abandon`; tried again from its beginning where a server was lost for a moment."""
    return retry_transient(
        lambda: undoing.abandon(migration.stream_plan(run_id), apply=apply, on_step=on_step),
        what=f"abandoning {migration.spec.relation}",
        attempts=migration.settings.retry_attempts if apply else 1,
        log=log,
    )


def clean_legacy(
    migration: Migration,
    *,
    apply: bool = False,
    name: str | None = None,
    former_identity: str | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Abandoned:
    """The legacy alone, for a base that is gone; see `postgres.abandon.clean_legacy`."""
    return undoing.clean_legacy(
        migration.stream_plan(), apply=apply, name=name, former_identity=former_identity, on_step=on_step
    )
