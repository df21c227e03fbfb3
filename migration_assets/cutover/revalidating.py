"""Validates once more what changed, while everybody writes, so that little is left to compare while writes are held."""

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from migration_assets.cutover.comparing import to_compare
from migration_assets.cutover.plan import CutoverPlan
from migration_assets.domain.cutover_state import CutoverError
from migration_assets.domain.errors import CutError, SliceMismatchError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.postgres.sessions import Connected
from migration_assets.proof.validation import validate_slice

_ROUNDS = 3
log = logging.getLogger(__name__)


def revalidate(plan: CutoverPlan, base: Connected, legacy: Connected) -> list[FiscalWeek]:
    """Validate the weeks that changed since their validation, again where that makes them fewer.

    Before the cutover takes its locks: each validation takes its own, at a cut that holds writers for milliseconds.

    Returns:
        The weeks that changed again meanwhile: applications write to them all the time.

    Raises:
        CutoverError: Weeks differ; names them. Nothing was begun.
        SliceBusyError: Somebody works on one of them.
        StreamError: The stream does not run.
    """
    changed = _changed(plan, base, legacy)
    for _ in range(_ROUNDS):
        if not changed:
            break
        log.info("%d weeks changed since their validation; they are validated before writes are held", len(changed))
        with ThreadPoolExecutor(plan.stream.limits.parallel, thread_name_prefix="revalidate") as pool:
            wrong = [text for text in pool.map(partial(_validate, plan), changed) if text]
        if wrong:
            raise CutoverError(
                "the sides differ: " + "; ".join(wrong),
                where=plan.relation,
                state_left="nothing was held",
                next_step="`migration-assets repair` shows and repairs the rows; then run this again",
            )
        before, changed = changed, _changed(plan, base, legacy)
        if len(changed) >= len(before):
            break
    return changed


def _changed(plan: CutoverPlan, base: Connected, legacy: Connected) -> list[FiscalWeek]:
    """Of what is to be compared, the weeks that a cut can prove."""
    return [record.week for record in to_compare(base, legacy, plan) if record.under_cdc]


def _validate(plan: CutoverPlan, week: FiscalWeek) -> str | None:
    """What differs, or None."""
    try:
        validate_slice(plan.stream, week)
    except SliceMismatchError as error:
        return f"{week.key}: {error.what}"
    except CutError as error:
        # It is compared while writes are held then, if that ends in time.
        log.warning("%s was not validated before the cutover: %s", week.key, error)
    return None
