"""A person who looks before he leaps: the code that a dry run gives, for the step that asks for it."""

import re

from migration_assets.abandon.abandon import abandon_migration
from migration_assets.domain.errors import StreamError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.states import CutoverKind
from migration_assets.readiness.readiness import examine_cutover
from migration_assets.readiness.step import give_code_for, preview_rollback
from migration_assets.retirement.leaving import Retired
from migration_assets.retirement.retiring import retire_week
from migration_assets.runtime import Migration


def code_for_cutover(migration: Migration) -> str:
    """Of readiness; empty where that finds something, and gives none."""
    return give_code_for(migration, CutoverKind.CUTOVER).code if examine_cutover(migration).ready else ""


def code_for_rollback(migration: Migration) -> str:
    """Of a look at it; empty while there is nothing to roll back."""
    looked = preview_rollback(migration)
    return "" if looked is None else looked.confirmation.code


def code_for_abandon(migration: Migration) -> str:
    """Of its dry run; empty where there is nothing to abandon."""
    try:
        looked = abandon_migration(migration)
    except StreamError:
        return ""
    return looked.confirmation.code if looked.confirmation is not None else ""


def code_to_retire(migration: Migration, week: FiscalWeek) -> str:
    """Of its dry run; empty where something stands in the way, or nothing is to be decided."""
    looked = retire_week(migration, week)
    return "" if looked.confirmation is None else looked.confirmation.code


def let_leave(migration: Migration, week: FiscalWeek) -> Retired:
    """Look, and then do it."""
    return retire_week(migration, week, dry_run=False, confirm=code_to_retire(migration, week))


def code_in(text: str) -> str:
    """The code that a page or an output shows."""
    found = re.search(r"[A-Z0-9]{4}(-[A-Z0-9]{4}){2}(?= )", text)
    assert found is not None, text
    return found[0]
