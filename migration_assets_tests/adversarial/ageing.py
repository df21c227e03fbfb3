"""Weeks are signed, archived, retired and brought back, in any order, while applications write into them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from migration_assets.archive.archiving import archive_week
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.states import SliceState
from migration_assets.evidence.approval import sign_off_quarter
from migration_assets.retirement.retiring import bring_back
from migration_assets_tests.adversarial.life import Life
from migration_assets_tests.adversarial.mob import Mob
from migration_assets_tests.adversarial.strangers import VANDALS, WRITERS, late_in
from migration_assets_tests.adversarial.table import QUARTER, WEEKS
from migration_assets_tests.adversarial.whole import cut_over_in_peace, mend_and_prove, proven, some_steps, started
from migration_assets_tests.confirmed_deeds import let_leave

AGED = {"as_of": datetime(2024, 11, 1, tzinfo=UTC), "retention_quarters": 1, "quarantine_days": 0}
"""Settings under which the quarter's weeks may leave."""


@dataclass(frozen=True)
class Ageing:
    """The steps on a few weeks of one life that are old enough to leave."""

    life: Life
    weeks: list[FiscalWeek]

    def sign_off(self) -> None:
        self.life.step("sign-off", lambda: sign_off_quarter(self.life.migration, QUARTER, "Ada"))

    def archive(self) -> None:
        week = self.life.random.choice(self.weeks)
        self._perhaps_at_rest(lambda: self._archive(week))

    def retire(self) -> None:
        """Its archive may be missing or stale; a second call drops what the first has put into quarantine."""
        week, life = self.life.random.choice(self.weeks), self.life

        def steps() -> None:
            if life.random.random() < 0.8:
                self._archive(week)
            for _ in range(life.random.choice([1, 2, 2])):
                life.step(f"retire {week.name}", lambda: let_leave(life.migration, week))

        self._perhaps_at_rest(steps)

    def bring_back(self) -> None:
        """One of those that have left."""
        left = self.left()
        if left:
            self._bring_back(self.life.random.choice(left))

    def bring_all_back(self) -> None:
        for week in self.left():
            self._bring_back(week)
        if self.left():
            self.life.world.fault(f"weeks could not be brought back: {self.left()}")

    def left(self) -> list[FiscalWeek]:
        return [week for week, state in self.life.states().items() if state == SliceState.RETIRED]

    def _archive(self, week: FiscalWeek) -> None:
        self.life.step(f"archive {week.name}", lambda: archive_week(self.life.migration, week))

    def _bring_back(self, week: FiscalWeek) -> None:
        self.life.step(f"bring back {week.name}", lambda: bring_back(self.life.migration, week))

    def _perhaps_at_rest(self, call: Callable[[], object]) -> None:
        """A week into which applications write all the time never leaves."""
        if self.life.random.random() < 0.3:
            call()
            return
        with self.life.rest():
            call()


def ageing(life: Life, steps: int) -> None:
    """The legacy is in charge all the time; in the end every week is back, proven, and signed."""
    proven(life)
    life.migration = replace(life.migration, settings=life.migration.settings.model_copy(update=AGED))
    old = Ageing(life, life.random.sample(WEEKS, 3))

    def late(mob: Mob) -> str:
        return late_in(mob, mob.random.choice(old.weeks))

    retire = [old.retire] * 4
    with life.attacked([*WRITERS, *VANDALS, late], 0.4):
        some_steps(life, steps, old.sign_off, old.sign_off, old.archive, *retire, old.bring_back, old.bring_back)
    old.bring_all_back()
    started(life)
    mend_and_prove(life)
    cut_over_in_peace(life)
