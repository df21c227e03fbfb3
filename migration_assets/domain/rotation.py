"""Whose turn it is to be validated: oldest proof first, as many weeks as the budget of rows allows. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from migration_assets.domain.fiscal_calendar import FiscalWeek

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Candidate:
    """A week under CDC; `busy` where somebody works on it now, or a run for it is on its way."""

    week: FiscalWeek
    rows: int
    validated_at: datetime | None
    busy: bool = False


def next_in_turn(candidates: Iterable[Candidate], *, budget_rows: int) -> list[FiscalWeek]:
    """The weeks to validate now, never validated ones first.

    The order is kept to: a week that does not fit is waited for and not passed by smaller ones. One that is larger
    than the whole budget has a turn of its own, or it would never have one.
    """
    waiting = sorted(
        (one for one in candidates if not one.busy), key=lambda one: (one.validated_at or _NEVER, one.week)
    )
    chosen: list[FiscalWeek] = []
    left = budget_rows
    for one in waiting:
        if chosen and one.rows > left:
            break
        chosen.append(one.week)
        left -= one.rows
    return chosen
