"""How a slice looks: a mark that is read without colours, a colour that is seen from afar, a word."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.freshness import Freshness, LastValidation
from migration_assets.domain.slice_state import SliceState
from migration_assets.ledger.slices import SliceRecord
from migration_assets.proof.sign_offs import last_validation
from migration_assets.watch.overview import Overview


@dataclass(frozen=True)
class Mark:
    """`plain` is for terminals without Unicode, `style` for text, `cell` for a coloured cell."""

    symbol: str
    plain: str
    style: str
    cell: str
    word: str


STATES: Mapping[SliceState, Mark] = {
    SliceState.ABSENT: Mark("·", ".", "dim", "bright_black", "absent"),
    SliceState.COPIED: Mark("○", "c", "yellow", "black on color(179)", "copied"),
    SliceState.STREAMING: Mark("≈", "s", "cyan", "black on color(74)", "streaming"),
    SliceState.VALIDATED: Mark("✓", "v", "green", "bold black on color(78)", "validated"),
    SliceState.SIGNED_OFF: Mark("★", "S", "bold green", "bold white on color(28)", "signed off"),
    SliceState.ARCHIVED: Mark("▤", "A", "blue", "bold white on color(61)", "archived"),
    SliceState.RETIRED: Mark("-", "R", "magenta", "white on color(96)", "retired"),
}
WORKING = Mark("»", ">", "bold blue", "bold white on color(27)", "at work")
STALE = Mark("~", "~", "yellow", "bold black on color(220)", "proof too old")
DIFFERS = Mark("✗", "X", "bold red", "bold white on color(160)", "DIFFERS")
FAILED = Mark("!", "!", "bold red", "bold white on color(160)", "failed")


@dataclass(frozen=True)
class Seen:
    """What is needed to say how fresh a proof is; without `now` no age is told."""

    now: datetime | None = None
    max_age: timedelta = timedelta(days=1)
    changes: Mapping[str, int] = field(default_factory=dict[str, int])
    altered: Mapping[FiscalWeek, str] = field(default_factory=dict[FiscalWeek, str])

    @classmethod
    def of(cls, overview: Overview, max_age: timedelta) -> "Seen":
        """As the overview has it; while the base is in charge nothing can be validated, and no proof is too old."""
        now = None if overview.cutover.in_charge == "base" else overview.now
        return cls(now, max_age, overview.changes, overview.altered)

    def last(self, record: SliceRecord) -> LastValidation:
        """The slice's last validation, with what the stream applied since then."""
        return last_validation(record, self.changes.get(record.leaf), self.altered.get(record.week))

    def freshness(self, record: SliceRecord) -> Freshness:
        """Without a clock nothing is too old."""
        last = self.last(record)
        return Freshness.NEVER if last.at is None else last.freshness(now=self.now or last.at, max_age=self.max_age)


def differs(record: SliceRecord) -> bool:
    """Whether the last look at both sides found that they differ, and nothing was done about it since then."""
    if record.state is SliceState.ABSENT:
        return False
    if record.validated_at is not None:
        return Seen().freshness(record) is Freshness.FAILED
    return record.verified_equal is False or record.legacy != record.base


def failed(record: SliceRecord) -> bool:
    """Whether the newest try at it went wrong, whatever it holds."""
    return not record.working and record.last_outcome not in {None, "succeeded", "running"}


def mark_of(record: SliceRecord, seen: Seen) -> Mark:
    """The one thing to know of a slice: that it differs, is at work, failed, is stale; or else its state."""
    if differs(record):
        return DIFFERS
    if record.working:
        return WORKING
    if failed(record):
        return FAILED
    proven = record.state in {SliceState.VALIDATED, SliceState.SIGNED_OFF}
    return STALE if proven and seen.freshness(record) is not Freshness.FRESH else STATES[record.state]
