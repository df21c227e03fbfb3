"""What is not there is refused in the same words by every step on archives."""

from collections.abc import Callable

import pytest

from migration_assets.archive.archiving import archive_week, reread_archive
from migration_assets.domain.errors import ArchiveError, SliceStateError
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.retirement.restoring import drill_week, restore_week
from migration_assets.retirement.retiring import bring_back, retire_week
from migration_assets.runtime import Migration
from migration_assets_tests.archive.conftest import WEEKS

Step = Callable[[Migration, FiscalWeek], object]
NEVER = FiscalWeek(FiscalQuarter(2030, 1), 3)


@pytest.mark.parametrize("step", [archive_week, reread_archive, retire_week, bring_back, restore_week, drill_week])
def test_a_week_whose_quarter_was_never_opened(signed: Migration, step: Step) -> None:
    with pytest.raises(SliceStateError, match="the quarter is not open in the base") as caught:
        step(signed, NEVER)
    assert caught.value.where == "FY30-Q1|W03"
    assert caught.value.next_step == "materialize quarter_partitions for FY30-Q1"


@pytest.mark.parametrize("step", [reread_archive, drill_week])
def test_a_week_that_was_never_archived(signed: Migration, step: Step) -> None:
    with pytest.raises(ArchiveError, match="there is no archive of this week"):
        step(signed, WEEKS[6])
