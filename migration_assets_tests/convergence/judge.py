"""Asks about weeks and accepts exactly one answer: what is damaged is found, what is clean is never reported.

Belongs here: one method for each question. Does not: in which order they are asked (`controller`, the matrix).
"""

import time
from dataclasses import dataclass, field

from migration_assets.copying.weeks import repair_week, validate_week, verify_week
from migration_assets.domain.errors import SliceMismatchError
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.proof.reconciliation import reconcile_quarter
from migration_assets.runtime import Migration
from migration_assets_tests.convergence.comparison import contents, states
from migration_assets_tests.convergence.damage import Expected, describe
from migration_assets_tests.convergence.table import CALENDAR

DUPLICATES_SHOWN = 20


@dataclass
class Journal:
    """What was done, when, and how long it took."""

    began: float = field(default_factory=time.monotonic)
    lines: list[str] = field(default_factory=list[str])

    def note(self, text: str) -> None:
        self.lines.append(f"{time.monotonic() - self.began:7.3f} {text}")


@dataclass
class Judge:
    """One migration, and the journal of what it answered."""

    migration: Migration
    journal: Journal = field(default_factory=Journal)

    def validate(self, week: FiscalWeek) -> None:
        """A clean week: it must be equal."""
        validated = validate_week(self.migration, week)
        assert validated.legacy == validated.base

    def require_found(self, week: FiscalWeek, expected: Expected) -> None:
        """A validation finds exactly what is wrong."""
        error = self._mismatch_of(week)
        assert error is not None, f"{week} was called equal; wrong is {describe(expected.lines[week])}"
        assert error.differences is not None, f"{week}: no differences were named"
        expected.require(week, error.differences, f"validation of {week}")
        assert error.legacy != error.base

    def _mismatch_of(self, week: FiscalWeek) -> SliceMismatchError | None:
        try:
            validated = validate_week(self.migration, week)
        except SliceMismatchError as error:
            return error
        self.journal.note(f"{week} was called equal: {validated}")
        return None

    def require_reconciled(self, quarter: FiscalQuarter, expected: Expected) -> None:
        """All 13 weeks at one cut: exactly the expected differences and duplicates."""
        reconciled = reconcile_quarter(self.migration, quarter)
        where = f"reconciliation of {quarter} at marker {reconciled.cut.marker}"
        assert sorted(week for week, _ in reconciled.weeks) == list(CALENDAR.weeks_of(quarter)), where
        for week, proof in reconciled.weeks:
            expected.require(week, proof.differences, where)
            assert proof.equal == (not expected.lines.get(week)), f"{where}: {week} {proof}"
        twice, wanted = {duplicate.key.strip("()") for duplicate in reconciled.duplicates}, expected.twice_in(quarter)
        assert len(twice) == min(len(wanted), DUPLICATES_SHOWN), f"{where}: twice are {twice}, expected {wanted}"
        assert twice <= wanted, f"{where}: {twice - wanted} are not twice in the base"
        assert reconciled.equal == (not any(expected.lines.get(week) for week, _ in reconciled.weeks)), where
        self.journal.note(f"reconciled {quarter}")

    def require_dry(self, week: FiscalWeek, expected: Expected) -> None:
        """A dry run says what is wrong, and leaves it so."""
        dry = repair_week(self.migration, week)
        assert dry.dry_run
        assert dry.repair_id is None
        expected.require(week, dry.differences, f"dry repair of {week}")
        assert (dry.legacy == dry.base) == (not expected.lines.get(week)), f"dry repair of {week}: {dry}"

    def repair(self, week: FiscalWeek, expected: Expected) -> int:
        """A repair mends exactly that; its id in the ledger."""
        repaired = repair_week(self.migration, week, dry_run=False)
        expected.require_counts(week, repaired.differences, f"repair of {week}")
        assert repaired.legacy == repaired.base, f"{week} was repaired to {repaired.base}, legacy {repaired.legacy}"
        assert repaired.repair_id is not None
        return repaired.repair_id

    def require_untouched(self) -> None:
        """What is copied and not under CDC is as it was copied; what was never copied is empty."""
        with self.migration.databases.session("base", "test") as base:
            for week, state in states(self.migration).items():
                if state == "absent":
                    assert not contents(base, week), f"{week} was never copied and has rows"
                elif state == "copied":
                    verify_week(self.migration, week)
