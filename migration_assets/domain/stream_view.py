"""What a rule over looks at the stream sees and may answer, and what several rules measure alike. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeAlias

from migration_assets.domain.samples import ProblemCode, Severity, StreamSample, StreamThresholds
from migration_assets.domain.schema_name import DEFAULT_SCHEMA

# A raised alert stays open until its figure is below this part of the threshold.
CLEAR_BELOW = 0.8


@dataclass(frozen=True)
class View:
    """What a rule sees: the sample, earlier ones (oldest first), thresholds, open alerts, and our schema's name."""

    sample: StreamSample
    history: Sequence[StreamSample] = ()
    thresholds: StreamThresholds = field(default_factory=StreamThresholds)
    raised: Mapping[ProblemCode, Severity] = field(default_factory=dict[ProblemCode, Severity])
    own_schema: str = DEFAULT_SCHEMA

    @property
    def previous(self) -> StreamSample | None:
        """The sample before this one."""
        return self.history[-1] if self.history else None

    def level(self, code: ProblemCode, value: float, warning: float, critical: float) -> Severity | None:
        """Judge a figure; a severity that is already raised stays until the figure is well below its threshold."""
        for severity, threshold in ((Severity.CRITICAL, critical), (Severity.WARNING, warning)):
            open_severity = self.raised.get(code)
            stays = open_severity is Severity.CRITICAL or open_severity is severity
            if value > threshold * (CLEAR_BELOW if stays else 1.0):
                return severity
        return None


class Unknown:
    """A rule's answer when it cannot judge."""


UNKNOWN = Unknown()
# The severity and the problem in words; a third part is the next step, for problems that have more than one.
Verdict: TypeAlias = tuple[Severity, str] | tuple[Severity, str, str] | Unknown | None
Rule: TypeAlias = Callable[[View], Verdict]


def growth(view: View, count: Callable[[StreamSample], int | None]) -> int | None:
    """How much a counter grew since the last sample; a counter that fell was reset and started again at 0."""
    now = count(view.sample)
    before = count(view.previous) if view.previous else None
    if now is None or before is None:
        return None
    return now - before if now >= before else now


def size_text(count: int) -> str:
    """E.g. `1.2 GB`."""
    return f"{count / 1e9:,.1f} GB" if count >= 10**8 else f"{count / 1e6:,.1f} MB"


_GROWTH_SPAN = timedelta(minutes=15)
_SHORTEST_SPAN = timedelta(seconds=30)


def minutes_of_room(sample: StreamSample, history: Sequence[StreamSample], disk_gb: float | None) -> float | None:
    """Minutes until the slot's limit, or else the legacy's disk, is reached at the growth of the last 15 minutes.

    Infinite if the retained WAL does not grow; None if there is no limit, or too little history.
    """
    kept = sample.retained_wal_bytes
    room = sample.safe_wal_bytes
    if room is None and disk_gb is not None and kept is not None:
        room = disk_gb * 1e9 - kept
    earlier = [
        s
        for s in history
        if s.retained_wal_bytes is not None and _SHORTEST_SPAN <= sample.taken_at - s.taken_at <= _GROWTH_SPAN
    ]
    if room is None or kept is None or not earlier:
        return None
    grown = kept - (earlier[0].retained_wal_bytes or 0)
    if grown <= 0:
        return float("inf")
    seconds = (sample.taken_at - earlier[0].taken_at).total_seconds()
    return max(room, 0.0) / (grown / seconds) / 60
