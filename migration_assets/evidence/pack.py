"""What an evidence pack shows: facts of the ledger as of one moment, cutovers included. Pure data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from migration_assets.domain.evidence_chain import Break, Head
from migration_assets.domain.fingerprint import EMPTY, Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.domain.states import BEFORE_OPEN, CutoverKind, CutoverState, SideName


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


@dataclass(frozen=True)
class ArchiveFacts:
    """A week's files; `location` without credentials, `checksum` as both engines computed it."""

    location: str
    rows: int
    checksum: str
    files: int
    bytes: int
    manifest_sha256: str
    archived_at: datetime
    verified_at: datetime
    verified_equal: bool


@dataclass(frozen=True)
class DepartureFacts:
    """The newest time that a week left the base: which step it is at, since when."""

    step: str
    at: datetime


@dataclass(frozen=True)
class WeekEvidence:
    """One week. Where the quarter is signed off, both fingerprints and the comparison are those that were signed.

    Attributes:
        week: Which week.
        lower_bound: Its first instant, as the base writes it.
        upper_bound: The first instant after it.
        state: What the ledger calls it now.
        legacy: The old table's fingerprint, at the comparison.
        base: The new table's, at the same point.
        compared_at: When both were compared; None where they never were.
        marker: The cut at which that was.
        copied_at: When its copy ended.
        copy_seconds: How long that took.
        copy_bytes: How large the copied rows are in the base.
        comparisons: How often both sides were compared exactly.
        differing: How many of those found a difference.
        repairs: How many times rows were mended, those that were undone left out.
        archive: Its files, where it has any.
        departure: Whether and how it left the base.
    """

    week: FiscalWeek
    lower_bound: str
    upper_bound: str
    state: str
    legacy: Fingerprint | None
    base: Fingerprint | None
    compared_at: datetime | None
    marker: int | None
    copied_at: datetime | None = None
    copy_seconds: float | None = None
    copy_bytes: int | None = None
    comparisons: int = 0
    differing: int = 0
    repairs: int = 0
    archive: ArchiveFacts | None = None
    departure: DepartureFacts | None = None

    @property
    def equal(self) -> bool:
        """Whether both sides were the same at the comparison that counts."""
        return self.legacy is not None and self.legacy == self.base

    @property
    def megabytes_per_second(self) -> float | None:
        """10^6 bytes a second of its copy; None where that is not known."""
        return self.copy_bytes / 1e6 / self.copy_seconds if self.copy_bytes and self.copy_seconds else None


@dataclass(frozen=True)
class SignatureFacts:
    """Who approved what the ledger proved; `max_age` is how old a proof could be then, `done_by` see `doer_text`."""

    id: int
    approved_by: str
    note: str
    signed_at: datetime
    sha256: str
    max_age: timedelta | None
    versions: Mapping[str, str]
    done_by: str = ""


@dataclass(frozen=True)
class ReconciliationRecord:
    """All weeks of a quarter compared at one cut."""

    marker: int
    equal: bool
    duplicate_keys: int
    at: datetime


class Verdict(StrEnum):
    """What the ledger says of a quarter."""

    PROVEN = "proven"
    OPEN = "not signed off"
    VOID = "no longer proven"
    EMPTY = "holds nothing yet"


@dataclass(frozen=True)
class QuarterEvidence:
    """One quarter: its 13 weeks, everything that was signed (newest last), and why that does not stand any more."""

    quarter: FiscalQuarter
    weeks: tuple[WeekEvidence, ...]
    signatures: tuple[SignatureFacts, ...]
    void: tuple[str, ...]
    reconciliations: tuple[ReconciliationRecord, ...]

    @property
    def signature(self) -> SignatureFacts | None:
        """The newest one."""
        return self.signatures[-1] if self.signatures else None

    @property
    def verdict(self) -> Verdict:
        """Proven only where a signature stands."""
        if self.signatures:
            return Verdict.VOID if self.void else Verdict.PROVEN
        return Verdict.OPEN if self.legacy.rows or self.base.rows else Verdict.EMPTY

    @property
    def legacy(self) -> Fingerprint:
        """The old table's, which is the sum of its weeks'."""
        return sum((week.legacy or EMPTY for week in self.weeks), EMPTY)

    @property
    def base(self) -> Fingerprint:
        """The new table's, which is the sum of its weeks'."""
        return sum((week.base or EMPTY for week in self.weeks), EMPTY)


@dataclass(frozen=True)
class Reading:
    """The worst of a short while: `at` is its beginning, `value` None where nothing could be measured."""

    at: datetime
    value: float | None


@dataclass(frozen=True)
class HoldCosts:
    """For how long cuts made the old table's writers wait, in milliseconds."""

    cuts: int
    median: float
    p99: float
    longest: float


@dataclass(frozen=True)
class PackFacts:
    """Everything on one page.

    Attributes:
        relation: The table's key in the ledger.
        control_column: Decides a row's week.
        time_zone: Whose midnights separate the weeks.
        quarter: Whose page it is; None for the whole migration.
        written_at: By the base's clock, like all other times.
        versions: Of what is at work now.
        quarters: Those on this page, oldest first.
        held: Quarters of which the old database holds rows; None where it could not be asked, or was not.
        lags: Seconds.
        holds: Milliseconds.
        costs: Of all cuts on this page.
        head: The chain's newest record when this was read.
        breaks: What does not hold of the chain.
        cutovers: Of the whole table, oldest first, on every page.
        decommission: Of the old database, where it was begun.
    """

    relation: str
    control_column: str
    time_zone: str
    quarter: FiscalQuarter | None
    written_at: datetime
    versions: Mapping[str, str]
    quarters: tuple[QuarterEvidence, ...]
    held: tuple[FiscalQuarter, ...] | None
    lags: tuple[Reading, ...]
    holds: tuple[Reading, ...]
    costs: HoldCosts | None
    head: Head
    breaks: tuple[Break, ...]
    cutovers: tuple[CutoverFacts, ...] = ()
    decommission: DecommissionFacts | None = None

    @property
    def unmoved(self) -> tuple[FiscalQuarter, ...]:
        """Quarters that the old database holds rows of, and the new one none.

        Once the applications work on the new one, a quarter that is open there has its rows from them, and the old one
        has them from there.
        """
        born = in_charge(self.cutovers) == "base"
        moved = {quarter.quarter for quarter in self.quarters if born or quarter.verdict is not Verdict.EMPTY}
        return tuple(quarter for quarter in self.held or () if quarter not in moved)

    @property
    def weeks(self) -> tuple[WeekEvidence, ...]:
        """Of all quarters, oldest first."""
        return tuple(week for quarter in self.quarters for week in quarter.weeks)
