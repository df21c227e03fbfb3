"""How many rows of a week may be deleted without asking, and how a person says that more may be."""

import pytest

from migration_assets.domain.confirmation import DeletionLimit, Deletions, parse_confirmations
from migration_assets.domain.errors import CalendarError, DeletionError
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek

WEEK = FiscalWeek(FiscalQuarter(2025, 2), 5)


@pytest.mark.parametrize(
    ("deleted", "legacy", "base", "asks"),
    [
        (0, 0, 0, False),
        (0, 0, 70, False),
        (1, 0, 1, True),
        (70, 0, 70, True),
        (69, 1, 70, False),
        (1_000, 5, 1_005, False),
        (1_001, 5, 1_006, True),
        (2_000, 8_000, 10_000, False),
        (2_001, 7_999, 10_000, True),
    ],
)
def test_a_share_a_number_and_an_empty_legacy_decide(deleted: int, legacy: int, base: int, asks: bool) -> None:
    assert DeletionLimit().asks(deleted, legacy=legacy, base=base) is asks


def test_the_refusal_names_its_confirmation_which_holds_for_that_week_and_number_alone() -> None:
    with pytest.raises(DeletionError) as caught:
        Deletions().require(WEEK, 70, legacy=0, base=70)
    text = "FY25-Q2|W05=70"
    assert f"--confirm-deletes '{text}'" in caught.value.next_step
    confirmed = parse_confirmations([text])
    Deletions(confirmed=confirmed).require(WEEK, 70, legacy=0, base=70)
    for week, deleted in ((WEEK, 71), (FiscalWeek(WEEK.quarter, 6), 70)):
        with pytest.raises(DeletionError):
            Deletions(confirmed=confirmed).require(week, deleted, legacy=0, base=deleted)


@pytest.mark.parametrize("text", ["", "FY25-Q2|W05", "FY25-Q2|W05=", "=70", "FY25-Q2=70", "FY25-Q2|W05=-1", "70"])
def test_a_confirmation_that_names_no_week_or_no_number_is_refused(text: str) -> None:
    with pytest.raises(CalendarError):
        parse_confirmations([text])
