"""What retention asks for now: which quarters stay, and which weeks are to be archived, archived anew, or to leave."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalQuarter, FiscalWeek
from migration_assets.domain.states import SliceState
from migration_assets.ledger.archives import ArchiveRecord, read_archives
from migration_assets.ledger.charge import is_abandoned, is_base_in_charge
from migration_assets.ledger.definitions import altered_since
from migration_assets.ledger.retirements import Retirement, is_over, read_retirement
from migration_assets.ledger.retirements import Step as RetirementStep
from migration_assets.ledger.schema import ensure_ledger, has_ledger
from migration_assets.ledger.slices import SliceRecord, read_slices
from migration_assets.postgres.catalogue import changes_by_leaf
from migration_assets.postgres.sessions import Connected
from migration_assets.runtime import Migration


@dataclass(frozen=True)
class RetentionPolicy:
    """How many quarters stay in the base: today's and those before it; future quarters stay in any case."""

    calendar: FiscalCalendar
    quarters: int

    def __post_init__(self) -> None:
        if self.quarters < 1:
            raise ValueError("today's quarter always stays")

    def oldest_kept(self, now: datetime) -> FiscalQuarter:
        """The oldest quarter that stays, but no earlier than the first quarter that can exist."""
        today = self.calendar.quarter_of(now).ordinal
        return FiscalQuarter.from_ordinal(max(today - self.quarters + 1, FiscalQuarter(1, 1).ordinal))

    def is_due(self, week: FiscalWeek, now: datetime) -> bool:
        """Whether the week is older than the quarters that stay."""
        return week.quarter < self.oldest_kept(now)

    def due(self, weeks: Iterable[FiscalWeek], now: datetime) -> list[FiscalWeek]:
        """The weeks that are older than the quarters that stay, oldest first."""
        return sorted(week for week in weeks if self.is_due(week, now))

    def why_not_due(self, week: FiscalWeek, now: datetime) -> str | None:
        """Why the week is not due to leave, as a text for people; None where it is due."""
        if self.is_due(week, now):
            return None
        return (
            f"it is not older than the {self.quarters} quarters that stay in the base"
            f" ({self.oldest_kept(now)} and later, MIGRATION_RETENTION_QUARTERS)"
        )


class Step(Enum):
    """What is to be done with a week."""

    ARCHIVE = "archive"
    RETIRE = "retire"


@dataclass(frozen=True)
class DueWeek:
    """One week that is due: for what, and why."""

    week: FiscalWeek
    step: Step
    why: str


@dataclass(frozen=True)
class Due:
    """All weeks that are due, oldest first; `why_nothing` says what was examined if there are none."""

    weeks: tuple[DueWeek, ...]
    why_nothing: str


def retention_policy(migration: Migration) -> RetentionPolicy:
    """The policy that the settings describe."""
    return RetentionPolicy(migration.calendar, migration.settings.retention_quarters)


def due_weeks(migration: Migration) -> Due:
    """Ask the ledger what is due. Weeks are due for retirement only if the settings allow automatic retirement."""
    relation = migration.spec.relation
    policy, now = retention_policy(migration), migration.now()
    oldest = policy.oldest_kept(now)
    with migration.databases.session("base", "retention") as base:
        if not has_ledger(base):
            return Due((), "nothing is due: nothing was migrated yet")
        ensure_ledger(base)
        own, abandoned = is_base_in_charge(base, relation), is_abandoned(base, relation)
        records = [record for record in read_slices(base, relation) if policy.is_due(record.week, now)]
        retires = migration.settings.auto_retire and not abandoned
        weeks = tuple(_due(base, migration, records, now, unsigned=own, retires=retires))
    left = [record for record in records if record.state in {SliceState.ARCHIVED, SliceState.RETIRED}]
    if abandoned and left:
        why = f"{len(left)} older weeks stay where they are, since the legacy is in charge and no stream follows it"
        return Due(weeks, f"nothing is due: {oldest} and later stay; {why}")
    waiting = sum(record.state not in {SliceState.ARCHIVED, SliceState.RETIRED} for record in records)
    return Due(
        weeks,
        f"nothing is due: {oldest} and later stay; of {len(records)} older weeks {waiting} are not signed off yet",
    )


def _due(
    base: Connected,
    migration: Migration,
    records: list[SliceRecord],
    now: datetime,
    *,
    unsigned: bool,
    retires: bool,
) -> Iterator[DueWeek]:
    spec = migration.spec
    archives = {archive.week: archive for archive in read_archives(base, spec.relation)}
    counted = changes_by_leaf(base, spec.table, [record.leaf for record in records])
    proofs = [(r.week, r.leaf, archives[r.week].definitions) for r in records if r.week in archives]
    altered = altered_since(base, spec, proofs, None)
    for record in records:
        changes = counted.get(record.leaf, 0)
        why = _why_archive(record, archives.get(record.week), changes, altered.get(record.week), unsigned=unsigned)
        if why is not None:
            yield DueWeek(record.week, Step.ARCHIVE, why)
        elif retires:
            retirement = read_retirement(base, spec.relation, record.week)
            if (why := _why_retire(record, retirement, now)) is not None:
                yield DueWeek(record.week, Step.RETIRE, why)


def _why_archive(
    record: SliceRecord, archive: ArchiveRecord | None, changes: int, altered: str | None, *, unsigned: bool
) -> str | None:
    if record.state is SliceState.SIGNED_OFF:
        return "signed off and old enough"
    if unsigned and record.state not in {SliceState.ARCHIVED, SliceState.RETIRED}:
        return "old enough, and the base is in charge"
    if record.state is SliceState.ARCHIVED and archive is not None and changes > archive.leaf_changes:
        # The server's counters are only a hint; the archive's own fingerprint decides when the week is to leave.
        return f"{changes - archive.leaf_changes} row changes since its archive {archive.id}"
    if record.state is SliceState.ARCHIVED and archive is not None and altered:
        return f"{altered} since its archive {archive.id}"
    return None


def _why_retire(record: SliceRecord, retirement: Retirement | None, now: datetime) -> str | None:
    if record.state is SliceState.ARCHIVED:
        return "archived and old enough"
    if record.state is SliceState.RETIRED and retirement is not None:
        if retirement.step is RetirementStep.DETACHING:
            return "its retirement was interrupted"
        if is_over(retirement.step, retirement.drop_after, now):
            return "its quarantine is over"
    return None
