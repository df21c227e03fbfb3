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
    """One step of a cutover; `finished` is None where the step was not finished."""

    state: CutoverState
    started: datetime
    finished: datetime | None


@dataclass(frozen=True)
class CutoverFacts:
    """One cutover, rehearsal or rollback; `outcome` is the ledger's, `steps` are in the order in which they began.

    `done_by` says who really did it, see `doer_text`; it is empty where an older ledger did not record it.
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
        """The last step before the opening that was begun; None where the target was opened, or no step is recorded."""
        if self.opened_at is not None:
            return None
        return next((step.state for step in reversed(self.steps) if step.state in BEFORE_OPEN), None)

    @property
    def without_writes(self) -> tuple[StepTimes, ...]:
        """The steps while no side accepted writes, cut to that time; empty where there was none, or it is not known."""
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
    """How the old database was closed; `finished_at` is None until it is closed.

    `final` is its last fingerprint, over `weeks` weeks with rows. `complete` says that it then contained all that the
    new database had.
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
    """Return the newest cutover or rollback that opened its target, the side in charge; None if there was none."""
    return next((one for one in reversed(cutovers) if one.opened_at is not None), None)


def in_charge(cutovers: Sequence[CutoverFacts]) -> SideName:
    """Return the side that accepts the applications' writes."""
    opened = last_opened(cutovers)
    return opened.kind.target if opened else "legacy"


@dataclass(frozen=True)
class ArchiveFacts:
    """A week's files; `location` has no credentials, `checksum` is the one that both engines computed."""

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
    """The newest time that a week left the base: its step, and since when."""

    step: str
    at: datetime


@dataclass(frozen=True)
class WeekEvidence:
    """One week. Where the quarter is signed off, both fingerprints and the comparison are those that were signed.

    Attributes:
        week: The week.
        lower_bound: Its first instant, as the base writes it.
        upper_bound: The first instant after it.
        state: Its present state in the ledger.
        legacy: The old table's fingerprint at the comparison.
        base: The new table's fingerprint at the same point.
        compared_at: When both were compared; None where they never were.
        marker: Number of the cut at which they were compared.
        copied_at: When its copy ended.
        copy_seconds: Duration of the copy.
        copy_bytes: Size of the copied rows in the base.
        comparisons: Number of exact comparisons of both sides.
        differing: Number of these that found a difference.
        repairs: Number of repairs, without those that were undone.
        archive: Its files, if it has an archive.
        departure: Its departure from the base, if any.
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
        """Whether both sides were equal at the comparison that counts."""
        return self.legacy is not None and self.legacy == self.base

    @property
    def megabytes_per_second(self) -> float | None:
        """Speed of its copy in 10^6 bytes a second; None where that is not known."""
        return self.copy_bytes / 1e6 / self.copy_seconds if self.copy_bytes and self.copy_seconds else None


@dataclass(frozen=True)
class SignatureFacts:
    """An approval of what the ledger proved; `max_age` is the greatest age of a proof that was allowed then."""

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
    """The state of a quarter according to the ledger."""

    PROVEN = "proven"
    OPEN = "not signed off"
    VOID = "no longer proven"
    EMPTY = "holds nothing yet"


@dataclass(frozen=True)
class QuarterEvidence:
    """One quarter: its 13 weeks, all signatures (newest last), and the reasons why the newest one is void."""

    quarter: FiscalQuarter
    weeks: tuple[WeekEvidence, ...]
    signatures: tuple[SignatureFacts, ...]
    void: tuple[str, ...]
    reconciliations: tuple[ReconciliationRecord, ...]

    @property
    def signature(self) -> SignatureFacts | None:
        """The newest signature."""
        return self.signatures[-1] if self.signatures else None

    @property
    def verdict(self) -> Verdict:
        """Proven only where the newest signature is not void."""
        if self.signatures:
            return Verdict.VOID if self.void else Verdict.PROVEN
        return Verdict.OPEN if self.legacy.rows or self.base.rows else Verdict.EMPTY

    @property
    def legacy(self) -> Fingerprint:
        """The old table's fingerprint of the quarter: the sum over its weeks."""
        return sum((week.legacy or EMPTY for week in self.weeks), EMPTY)

    @property
    def base(self) -> Fingerprint:
        """The new table's fingerprint of the quarter: the sum over its weeks."""
        return sum((week.base or EMPTY for week in self.weeks), EMPTY)


@dataclass(frozen=True)
class Reading:
    """The worst value of a short period: `at` is its beginning, `value` is None where nothing could be measured."""

    at: datetime
    value: float | None


@dataclass(frozen=True)
class HoldCosts:
    """How long cuts made writers of the old table wait, in milliseconds."""

    cuts: int
    median: float
    p99: float
    longest: float


@dataclass(frozen=True)
class PackFacts:
    """Everything on one page.

    Attributes:
        relation: The table's key in the ledger.
        control_column: The column that decides a row's week.
        time_zone: The time zone whose midnights separate the weeks.
        quarter: The quarter of the page; None for the whole migration.
        written_at: By the base's clock, like all other times.
        versions: Versions of the programs in use now.
        quarters: The quarters on this page, oldest first.
        held: Quarters of which the old database holds rows; None where it was not asked, or could not be.
        lags: The stream's lag over time, in seconds.
        holds: Waiting times of writers at cuts, in milliseconds.
        costs: A summary of the waiting times of all cuts on this page.
        head: The chain's newest record when this was read.
        breaks: What is broken in the chain.
        cutovers: Of the whole table, oldest first, on every page.
        decommission: Of the old database, if it was begun.
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
        """Quarters of which the old database holds rows and the new one none.

        While the base is in charge, an open quarter gets its rows from the applications there, and the old database has
        its rows from the base.
        """
        born = in_charge(self.cutovers) == "base"
        moved = {quarter.quarter for quarter in self.quarters if born or quarter.verdict is not Verdict.EMPTY}
        return tuple(quarter for quarter in self.held or () if quarter not in moved)

    @property
    def weeks(self) -> tuple[WeekEvidence, ...]:
        """The weeks of all quarters, oldest first."""
        return tuple(week for quarter in self.quarters for week in quarter.weeks)
