"""When each state of a cutover began and how long it took, as the ledger's timeline tells it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from migration_assets.domain.cutover_state import CutoverState


@dataclass(frozen=True)
class Step:
    """One state of the machine; `finished` is None while it is under way. Times by the base's clock."""

    state: CutoverState
    started: datetime
    finished: datetime | None

    @property
    def seconds(self) -> float | None:
        """None while it is under way."""
        return None if self.finished is None else (self.finished - self.started).total_seconds()


def steps_of(timeline: Mapping[str, Mapping[str, str]]) -> tuple[Step, ...]:
    """The states in the order in which they were reached; jsonb keeps none."""
    steps = [
        Step(CutoverState(state), datetime.fromisoformat(times["started"]), _time(times.get("finished")))
        for state, times in timeline.items()
        if "started" in times
    ]
    order = list(CutoverState)
    return tuple(sorted(steps, key=lambda step: (step.started, order.index(step.state))))


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
