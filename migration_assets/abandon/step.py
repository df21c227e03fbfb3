"""The step that gives a migration up; by default it only says what it would do."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from migration_assets.abandon import abandon as undoing
from migration_assets.abandon.abandon import Abandoned
from migration_assets.domain.confirmation import Deed
from migration_assets.ledger.confirmations import Confirmation, give_code
from migration_assets.ledger.examined_sides import examined_sides
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.postgres.retries import retry_transient
from migration_assets.runtime import Migration
from migration_assets.stream.plan import StreamPlan

__all__ = ["Abandoned", "abandon_migration", "clean_legacy"]

log = logging.getLogger(__name__)


def abandon_migration(
    migration: Migration,
    *,
    apply: bool = False,
    confirm: str = "",
    run_id: str | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Abandoned:
    """See `postgres.abandon.abandon`; tried again from its beginning where a server was lost for a moment.

    A dry run gives the code that the deed asks for, as `confirm`; what a run that died has begun goes on without one.

    Raises:
        ConfirmationError: The code is missing or not good; nothing was touched.
    """
    relation = migration.spec.relation
    examined = partial(examined_sides, relation=relation)
    confirmation = Confirmation(_deed(relation), examined, confirm)
    done = retry_transient(
        lambda: undoing.abandon(
            StreamPlan.of(migration, run_id), apply=apply, on_begin=confirmation.spend, on_step=on_step
        ),
        what=f"abandoning {relation}",
        attempts=migration.settings.retry_attempts if apply else 1,
        log=log,
    )
    if apply:
        return done
    with migration.databases.session("base", "abandon:code") as base:
        ensure_ledger(base)
        return replace(done, confirmation=give_code(base, _deed(relation), examined, run_id=run_id))


def _deed(relation: str) -> Deed:
    how = (
        "`migration-assets abandon` says what would be done, and gives one; then"
        " `migration-assets abandon --yes --confirm CODE`"
    )
    return Deed(relation, "abandon", "", how)


def clean_legacy(
    migration: Migration,
    *,
    apply: bool = False,
    confirm: str = "",
    name: str | None = None,
    former_identity: str | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Abandoned:
    """The legacy alone, for a base that is gone, and the ledger of codes with it; see `postgres.abandon`.

    So the code of its dry run says what that saw.
    """
    return undoing.clean_legacy(
        StreamPlan.of(migration),
        apply=apply,
        confirm=confirm,
        name=name,
        former_identity=former_identity,
        on_step=on_step,
    )
