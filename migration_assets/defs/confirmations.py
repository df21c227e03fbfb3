"""What a person confirms in the launchpad before many rows are deleted."""

from collections.abc import Mapping

from migration_assets.domain.deletions import parse_confirmations
from migration_assets.domain.fiscal_calendar import FiscalWeek

CODE = (
    "The code that a dry run shows, typed back: good once, for 15 minutes, as long as what was looked at is the same."
)
CODES = CODE + " Several may stand there, between blanks or commas: each week takes its own."
CONFIRM = (
    'Of these weeks so many rows may be deleted, as the refusal says: {"FY25-Q2|W05": 70}; only with the code that it'
    " shows, as `confirm`."
)
CODE_OF_REFUSAL = (
    "The code that the refusal showed, for the number in confirm_deletes: good once, for 15 minutes. Several may stand"
    " there, between blanks or commas."
)


def confirmed(config: Mapping[str, int]) -> dict[FiscalWeek, int]:
    """Keys of weeks and rows as the launchpad has them.

    Raises:
        CalendarError: A key is no week.
    """
    return parse_confirmations(f"{week}={rows}" for week, rows in config.items())
