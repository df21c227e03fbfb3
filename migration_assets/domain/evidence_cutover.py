"""What an evidence pack shows of cutovers, rollbacks and the decommission: pure data."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from migration_assets.domain.cutover_state import BEFORE_OPEN, CutoverKind, CutoverState, SideName
from migration_assets.domain.fingerprint import Fingerprint


@dataclass(frozen=True)
class StepTimes:
    """One step of a cutover; `finished` is None where it never was."""

    state: CutoverState
    started: datetime
    finished: datetime | None


@dataclass(frozen=True)
class CutoverFacts:
    """One cutover, rehearsal or rollback, `outcome` as the ledger says; its steps in the order that they began in.

    `done_by` says who really did it, see `doer_text`; empty where the ledger did not note it yet.
    """

    id: int
    kind: CutoverKind
    rehearse: bool
    approved_by: str
    outcome: str
    started_at: datetime
    finished_at: datetime | None
    held_at: datetime | None
    opened_at: datetime | None
    released_at: datetime | None
    downtime_ms: float | None
    compared_weeks: int | None
    compared_rows: int | None
    error: str | None
    steps: tuple[StepTimes, ...]
    done_by: str = ""

    @property
    def stopped_at(self) -> CutoverState | None:
        """The last step before the opening that was begun; None where the target was opened, or no step is known."""
        if self.opened_at is not None:
            return None
        return next((step.state for step in reversed(self.steps) if step.state in BEFORE_OPEN), None)

    @property
    def without_writes(self) -> tuple[StepTimes, ...]:
        """The steps while no side accepted writes, cut to that time; empty where that never was, or is not known."""
        if self.held_at is None or self.downtime_ms is None:
            return ()
        end = self.held_at + timedelta(milliseconds=self.downtime_ms)
        found: list[StepTimes] = []
        for step, after in zip(self.steps, (*self.steps[1:], None), strict=False):
            # A step lasts until the next one begins.
            first, last = max(step.started, self.held_at), min(after.started if after else end, end)
            if first < last:
                found.append(StepTimes(step.state, first, last))
        return tuple(found)


@dataclass(frozen=True)
class DecommissionFacts:
    """How the old database was closed; `finished_at` is None while it is not.

    `final` is its last fingerprint, over `weeks` weeks with rows; `complete`: all that the new one had was in it then.
    """

    approved_by: str
    note: str
    scope: str
    started_at: datetime
    finished_at: datetime | None
    watched_since: datetime | None
    last_read_at: datetime | None
    final: Fingerprint | None
    weeks: int
    complete: bool
    done_by: str = ""


def last_opened(cutovers: Sequence[CutoverFacts]) -> CutoverFacts | None:
    """The newest one that let writes in somewhere: its target is in charge. None: the legacy is, as ever."""
    return next((one for one in reversed(cutovers) if one.opened_at is not None), None)


def in_charge(cutovers: Sequence[CutoverFacts]) -> SideName:
    """The side that writes belong to."""
    opened = last_opened(cutovers)
    return opened.kind.target if opened else "legacy"
