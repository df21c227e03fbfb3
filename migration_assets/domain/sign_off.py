"""The facts that a sign-off is decided on, and what is still missing for one. Pure: no clock, no database."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from migration_assets.domain.definitions import Definitions
from migration_assets.domain.errors import SignOffError
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalQuarter, FiscalWeek
from migration_assets.domain.states import Freshness, LastValidation, SliceState, instant_text, span_text

_LIVE = "live"
_VALIDATE = "materialize validated_slice for this week"
_RECONCILE = "materialize reconciled_quarter"
_STREAM = "see `migration-assets stream status`"


@dataclass(frozen=True)
class WeekFacts:
    """The ledger's facts about one week; `state` is that before the sign-off, `marker` and `lsn` those of its proof."""

    week: FiscalWeek
    leaf: str
    lower_bound: str
    upper_bound: str
    state: SliceState
    method: str | None
    legacy: Fingerprint | None
    base: Fingerprint | None
    marker: int | None
    lsn: str | None
    validation: LastValidation
    definitions: Definitions | None = None


@dataclass(frozen=True)
class ReconciliationFacts:
    """The newest reconciliation of the quarter: read at `cut_at` (if the cut is known), recorded at `at`.

    `altered` says how the tables were altered since then, in words; None when no alteration is known.
    """

    marker: int
    lsn: str
    equal: bool
    duplicate_keys: int
    at: datetime
    cut_at: datetime | None = None
    altered: str | None = None

    @property
    def proven_at(self) -> datetime:
        """The moment that the comparison proves: the earlier of both times."""
        return self.at if self.cut_at is None else min(self.at, self.cut_at)


@dataclass(frozen=True)
class StreamFacts:
    """The ledger's facts about the change stream."""

    publication: str
    slot: str
    subscription: str
    status: str
    reason: str | None
    exact_since_marker: int | None
    exact_since_lsn: str | None
    exact_since: datetime | None


@dataclass(frozen=True)
class CutFacts:
    """One cut that the proof is based on, and how long it held the legacy's writers and the stream."""

    marker: int
    lsn: str
    at: datetime
    tries: int
    writers_held_ms: float
    longest_try_ms: float
    apply_held_ms: float | None


@dataclass(frozen=True)
class Versions:
    """The versions used for the proof: this package, both servers, and the fingerprint method."""

    package: str
    legacy: str
    base: str
    fingerprint: str


@dataclass(frozen=True)
class QuarterFacts:
    """All facts for a sign-off, read at one moment. `problems` are the observed problems of the stream."""

    relation: str
    quarter: FiscalQuarter
    weeks: tuple[WeekFacts, ...]
    reconciliation: ReconciliationFacts | None
    stream: StreamFacts | None
    problems: tuple[str, ...]
    cuts: tuple[CutFacts, ...]
    versions: Versions

    def __post_init__(self) -> None:
        weeks = [facts.week for facts in self.weeks]
        if len(set(weeks)) != len(weeks) or any(week.quarter != self.quarter for week in weeks):
            raise ValueError(f"expected distinct weeks of {self.quarter}, got: {', '.join(map(str, weeks))}")


@dataclass(frozen=True)
class Approval:
    """Who approves, when (by the base's clock), and how old a proof may be at that moment."""

    approved_by: str
    note: str
    at: datetime
    max_age: timedelta


@dataclass(frozen=True)
class Missing:
    """One thing that is missing: what, where (week or part), and the next step."""

    what: str
    where: str
    next_step: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. Next: {self.next_step}"


class SignOffRefusedError(SignOffError):
    """Not everything is proven; `missing` and the error's text list what is missing, one thing a line."""

    def __init__(self, missing: Sequence[Missing], *, where: str) -> None:
        self.missing = tuple(missing)
        things = "1 thing is missing" if len(missing) == 1 else f"{len(missing)} things are missing"
        super().__init__(
            "\n".join([f"cannot be signed off, {things}:", *(f"- {one}" for one in missing)]),
            where=where,
            state_left="nothing was signed, and no slice was changed",
            next_step="do what each line says, then sign again",
        )


def missing(facts: QuarterFacts, approval: Approval) -> list[Missing]:
    """Everything that these facts lack for a sign-off, in the order of the work; empty when nothing is missing."""
    return [*_approver(approval), *_weeks(facts, approval), *_reconciled(facts, approval), *_streaming(facts)]


def _approver(approval: Approval) -> Iterator[Missing]:
    if not any(letter.isprintable() and not letter.isspace() for letter in approval.approved_by):
        yield Missing("nobody is named", "approved_by", "name the person who approves")
    for where, text in (("approved_by", approval.approved_by), ("note", approval.note)):
        # PostgreSQL cannot store NUL, and UTF-8 cannot encode surrogates.
        if "\x00" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
            yield Missing("holds a character that cannot be stored", where, "write it in plain text")


def _weeks(facts: QuarterFacts, approval: Approval) -> Iterator[Missing]:
    known = {week.week: week for week in facts.weeks}
    if not known:
        yield Missing("was never opened", facts.quarter.key, "materialize quarter_partitions")
        return
    before: WeekFacts | None = None
    for week in FiscalCalendar.weeks_of(facts.quarter):
        here = known.get(week)
        if here is None:
            yield Missing("the ledger does not have this week", week.key, "materialize quarter_partitions")
        else:
            yield from (Missing(what, week.key, step) for what, step in _week(here, approval))
            if before is not None and before.upper_bound != here.lower_bound:
                gap = f"begins at {here.lower_bound}, the week before ends at {before.upper_bound}"
                yield Missing(gap, week.key, "check the fiscal settings: the weeks must cover the quarter")
        before = here


def _week(facts: WeekFacts, approval: Approval) -> Iterator[tuple[str, str]]:
    """Yield what is missing for one week and the next step; only for the first incomplete stage."""
    match facts.state:
        case SliceState.ABSENT:
            yield "was never copied", "materialize migrated_slice for it, then change_stream, then validated_slice"
            return
        case SliceState.COPIED:
            yield "is copied, but not under CDC", "materialize change_stream for the quarter, then validated_slice"
            return
        case SliceState.RETIRED:
            yield "is already retired", "nothing, if it was signed off before; else restore it, then change_stream"
            return
        case _:
            pass
    fresh = facts.validation.freshness(now=approval.at, max_age=approval.max_age)
    if fresh is Freshness.FAILED:
        yield _said(facts, approval), "repair it with the job repair_slices, then validate it again"
    elif fresh is not Freshness.FRESH:
        yield _said(facts, approval), _VALIDATE
    elif facts.state is SliceState.STREAMING:
        yield f"is {facts.state}, not validated, although {_said(facts, approval)}", _VALIDATE
    elif facts.legacy is None or facts.base is None or facts.lsn is None or facts.method is None:
        yield "its validation left no fingerprints or position in the ledger", _VALIDATE
    elif facts.legacy != facts.base:
        yield f"the ledger's fingerprints differ: legacy {facts.legacy}, base {facts.base}", _VALIDATE


def _said(facts: WeekFacts, approval: Approval) -> str:
    return facts.validation.describe(now=approval.at, max_age=approval.max_age)


def _reconciled(facts: QuarterFacts, approval: Approval) -> Iterator[Missing]:
    newest, where = facts.reconciliation, f"{facts.quarter.key} reconciliation"
    if newest is None:
        yield Missing("the quarter was never reconciled", where, _RECONCILE)
        return
    if not newest.equal:
        yield Missing(
            f"the newest one (marker {newest.marker}) found differences", where, f"repair_slices, then {_RECONCILE}"
        )
    if newest.duplicate_keys:
        found = f"{newest.duplicate_keys:,} key{'s' if newest.duplicate_keys > 1 else ''} in more than one week"
        yield Missing(found, where, f"repair_slices for the weeks it names, then {_RECONCILE}")
    if newest.altered:
        yield Missing(f"is stale: {newest.altered} since {instant_text(newest.proven_at)}", where, _RECONCILE)
    for week in facts.weeks:
        changed_at = week.validation.changed_at
        if changed_at is not None and changed_at >= newest.proven_at:
            what = f"{week.week.name} was changed at {instant_text(changed_at)}, after it"
            yield Missing(f"{what} ({instant_text(newest.proven_at)})", where, _RECONCILE)
    if abs(approval.at - newest.proven_at) > approval.max_age:
        old = f"taken at {instant_text(newest.proven_at)}, older than {span_text(approval.max_age)}"
        yield Missing(old, where, _RECONCILE)


def _streaming(facts: QuarterFacts) -> Iterator[Missing]:
    stream, where = facts.stream, "change stream"
    if stream is None:
        yield Missing("there is none", where, "materialize change_stream for the quarter")
    elif stream.status != _LIVE:
        yield Missing(f"is {stream.status}" + (f" ({stream.reason})" if stream.reason else ""), where, _STREAM)
    elif stream.exact_since_lsn is None:
        yield Missing("the ledger does not say since when it is exact", where, "materialize change_stream again")
    yield from (Missing(problem, where, _STREAM) for problem in facts.problems)
