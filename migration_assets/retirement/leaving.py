"""A slice leaves the base: out of the stream, out of the root into quarantine, and finally dropped.

At every moment every row is in the root or beside it, until all of them are proven to be in the archive. Each
transaction has a last look before it. Killed anywhere, the same call goes on from there.
"""

import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from migration_assets.domain.confirmation import GivenCode
from migration_assets.domain.errors import LedgerError, RetirementError
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.states import SliceState
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.ledger.archives import ArchiveRecord, read_archive
from migration_assets.ledger.confirmations import Confirmation
from migration_assets.ledger.proofs import CutRecord
from migration_assets.ledger.retirements import (
    OnBegin,
    Retirement,
    Step,
    begin_retirement,
    is_over,
    note_dropped,
    note_quarantined,
    note_returned,
    read_retirement,
)
from migration_assets.ledger.slices import (
    Action,
    SliceRecord,
    begin_attempt,
    end_attempt,
    note_failure,
    require_slice,
    slice_lock,
)
from migration_assets.ledger.stream import StreamLock, stream_lock
from migration_assets.postgres.retries import retry_locked
from migration_assets.postgres.sessions import Connected, set_limits
from migration_assets.retirement.checks import (
    Reread,
    difference,
    leaf_of,
    must_be_released,
    obstacles,
    obstacles_to_drop,
    of_table,
    why_not_approved,
)
from migration_assets.retirement.quarantine import (
    Leaf,
    Place,
    attach_again,
    detach_leaf,
    drop_quarantined,
    lock_alone,
    make_quarantine,
    move_to_quarantine,
    place_of,
    size_of,
)
from migration_assets.stream.plan import SLICE_LOCK_MS, STREAM_LOCK_MS, StreamPlan
from migration_assets.stream.releasing import release_weeks
from migration_assets.stream.servers import require_servers

SHORT_LOCK_MS = 200


@dataclass(frozen=True)
class Leaving:
    """A slice on its way out: `record` was read under its lock, `archive` holds its rows."""

    record: SliceRecord
    retirement: Retirement
    archive: ArchiveRecord
    leaf: Leaf

    @property
    def week(self) -> FiscalWeek:
        """Which week."""
        return self.record.week


@contextmanager
def leaving_session(plan: StreamPlan, week: FiscalWeek, purpose: str) -> Generator[Connected]:
    """Open a session on the base that waits some seconds for a slice's lock and may work on its rows for hours."""
    timeouts = replace(plan.limits.timeouts(), lock=SLICE_LOCK_MS)
    with plan.databases.session("base", f"{week.key}:{purpose}", timeouts) as base:
        yield base


@contextmanager
def attempted(base: Connected, record: SliceRecord, action: Action, run_id: str | None) -> Generator[int]:
    """Record an attempt that the body ends when it succeeds; an error in the body is recorded as its failure."""
    attempt = begin_attempt(base, record, action, run_id)
    try:
        yield attempt
    except BaseException as error:
        note_failure(base, attempt, error)
        raise


def refused(week: FiscalWeek, obstacles: Sequence[str], state_left: str) -> RetirementError:
    """Return the error that lists all obstacles."""
    return RetirementError(
        "it must not leave the base: " + "; ".join(f"({number}) {what}" for number, what in enumerate(obstacles, 1)),
        where=week.key,
        state_left=state_left,
        next_step="clear these, then run this again; a dry run lists what is left of them",
    )


def leave_root(
    plan: StreamPlan, base: Connected, leaving: Leaving, attempt: int, *, now: datetime, quarantine: timedelta
) -> None:
    """Detach the leaf, compare it once more, and move it into quarantine; or put it back where somebody wrote to it.

    Raises:
        RetirementError: Open transactions prevent the detach; or the slice is back in the root; or its leaf is gone.
    """
    record, archive, leaf = leaving.record, leaving.archive, leaving.leaf
    patience = plan.limits.cut_patience_seconds
    make_quarantine(base)
    detach_leaf(base, leaf, patience_seconds=patience, where=leaving.week.key)
    began = time.monotonic()

    def last_look() -> Fingerprint:
        with base.transaction():
            set_limits(base, lock=SHORT_LOCK_MS)
            if place_of(base, leaf) is not Place.LOOSE:
                raise RetirementError(
                    f"its detached leaf {leaf.table} is not there: it was moved or dropped by hand",
                    where=leaving.week.key,
                    state_left=f"its rows are in the archive {archive.location}",
                    next_step="move it back, then run this again",
                )
            lock_alone(base, leaf.table)
            found = of_table(base, plan, leaf.table)
            if found == archive.native:
                move_to_quarantine(base, leaf)
                note_quarantined(base, leaving.retirement, archive.id, now=now, until=now + quarantine)
                end_attempt(base, attempt, "succeeded", base=found)
                return found
            attach_again(base, leaf)
            note_returned(base, record, leaving.retirement, found, equal=False, now=now,
                          seconds=time.monotonic() - began, run_id=plan.run_id)  # fmt: skip
        return found

    found = retry_locked(last_look, patience_seconds=patience)
    if found != archive.native:
        raise RetirementError(
            f"it was written to until it was detached: it has {difference(found, archive.native)} the archive",
            where=leaving.week.key,
            state_left="it is in the root again, with every row",
            next_step="materialize parquet_archive again, then run this again",
        )


def drop(
    plan: StreamPlan,
    base: Connected,
    leaving: Leaving,
    attempt: int,
    *,
    now: datetime,
    on_begin: OnBegin | None = None,
) -> None:
    """Drop what is in quarantine after proving once more, under a lock of its own, that it equals its archive.

    `on_begin` is called in the transaction that drops it; an error that it raises rolls everything back.

    Raises:
        RetirementError: It is not equal.
    """

    def look_and_drop() -> None:
        with base.transaction():
            set_limits(base, lock=SHORT_LOCK_MS)
            lock_alone(base, leaving.leaf.quarantined)
            found = of_table(base, plan, leaving.leaf.quarantined)
            if found != leaving.archive.native:
                raise refused(
                    leaving.week,
                    [f"what is in quarantine has {difference(found, leaving.archive.native)} the archive"],
                    f"its rows are in {leaving.leaf.quarantined}, as before",
                )
            if on_begin is not None:
                on_begin(base)
            drop_quarantined(base, leaving.leaf)
            note_dropped(base, leaving.retirement, now=now)
            end_attempt(base, attempt, "succeeded", base=found)

    retry_locked(look_and_drop, patience_seconds=plan.limits.cut_patience_seconds)


_BACK = Step.RETURNED


@dataclass(frozen=True)
class Retired:
    """How far a slice is on its way out.

    Attributes:
        week: The slice.
        obstacles: What prevents its next step; outside a dry run they are raised as an error instead.
        step: None while the slice is in the root and not on its way.
        archive: The archive of its rows; None if there is none.
        leaf: Where its rows are in the base; None once they were dropped.
        bytes: The size of that table with its indexes; after a drop, what this call freed.
        drop_after: The end of the quarantine, by the settings' clock.
        cut: The cut at which the stream let go of it, if this call did that.
        confirmation: The code that its next step requires, if a dry run gave one.
    """

    week: FiscalWeek
    obstacles: tuple[str, ...]
    step: Step | None
    archive: ArchiveRecord | None
    leaf: QualifiedName | None
    bytes: int
    drop_after: datetime | None = None
    cut: CutRecord | None = None
    confirmation: GivenCode | None = None

    def may_go_further(self, now: datetime) -> bool:
        """Whether it may go further now (leave the root, or be dropped) and nothing stands in the way.

        A leaving that was interrupted goes on without a decision.
        """
        return not self.obstacles and (self.step is None or is_over(self.step, self.drop_after, now))


@dataclass(frozen=True)
class _Call:
    """The arguments of `retire_slice`."""

    plan: StreamPlan
    week: FiscalWeek
    reread: Reread
    now: datetime
    quarantine: timedelta
    outside_retention: bool | str
    confirmation: Confirmation | None

    def confirm(self, base: Connected, *, looked: bool) -> None:
        """Require the code: before the look, which may take hours, if a code was given; otherwise after it.

        After the look, a missing code is reported together with what the look has found out.

        Raises:
            ConfirmationError: The code is missing or invalid.
        """
        if self.confirmation is not None and self.confirmation.given is not looked:
            self.confirmation.require(base)

    @property
    def spend(self) -> OnBegin | None:
        """The function that uses the code up, where one is asked for."""
        return self.confirmation.spend if self.confirmation is not None else None


def retire_slice(
    plan: StreamPlan,
    week: FiscalWeek,
    *,
    reread: Reread,
    now: datetime,
    quarantine: timedelta,
    outside_retention: bool | str,
    dry_run: bool = True,
    confirmation: Confirmation | None = None,
) -> Retired:
    """Take the slice as far out of the base as it may go now; a repeated call continues where it stopped.

    Args:
        plan: The stream and its limits; the stream need not exist any more.
        week: The slice.
        reread: Reads the archive's files again, byte by byte; raises ArchiveError if they are not what was proven.
            Called before the slice leaves the root, and again before it is dropped.
        now: The current time by the settings' clock.
        quarantine: How long its rows stay in the base after they have left the root; 0 drops them at once.
        outside_retention: Whether the policy lets it go; a text says why not.
        dry_run: Look only, and change nothing.
        confirmation: The code without which it neither leaves the root nor is dropped; None where nobody is asked. What
            a call that died has begun goes on without one, as far as into quarantine.

    Raises:
        ConfirmationError: The code is missing or invalid; nothing was touched.
        RetirementError: Lists all obstacles; or names the transactions that a DETACH waits for; or a booking was
            written meanwhile. Says where the rows are.
        SliceBusyError: Another step works on the slice.
        StreamError: The stream does not run, or another step works on it.
        CutError: Writers left no free moment for a cut.
    """
    call = _Call(plan, week, reread, now, quarantine, outside_retention, None if dry_run else confirmation)
    with leaving_session(plan, week, "retire") as base, ExitStack() as held:
        require_servers(plan.databases, base, plan.relation)
        record = require_slice(base, plan.relation, week)
        if record.state is SliceState.RETIRED:
            held.enter_context(slice_lock(base, record))
            return _look_further(call, base) if dry_run else _go_on(call, base, None, None)
        call.confirm(base, looked=False)
        # All files are read before the stream's lock is taken, so that no join waits for that.
        with slice_lock(base, record) as record:
            found = _look(call, base, record)
            if dry_run:
                return found
            archive = _require_allowed(call, base, record, found)
        call.confirm(base, looked=True)
        set_limits(base, lock=STREAM_LOCK_MS, whole_session=True)
        # Until the slice is `retired`, so that a step that computes a filter has it in the filter or knows that it is
        # gone.
        with stream_lock(base, plan.relation, lock=StreamLock.START):
            set_limits(base, lock=SLICE_LOCK_MS, whole_session=True)
            record = held.enter_context(slice_lock(base, record))
            attempt = held.enter_context(attempted(base, record, "retire", plan.run_id))
            cut = _set_out(call, base, record, archive)
        return _go_on(call, base, attempt, cut)


def _look(call: _Call, base: Connected, record: SliceRecord) -> Retired:
    """Look at a slice that is still in the root."""
    found = obstacles(call.plan, base, record, reread=call.reread, outside_retention=call.outside_retention)
    leaf = leaf_of(base, call.plan, record).table
    archive = read_archive(base, call.plan.relation, call.week)
    return Retired(call.week, tuple(found), None, archive, leaf, size_of(base, leaf))


def _require_allowed(call: _Call, base: Connected, record: SliceRecord, found: Retired) -> ArchiveRecord:
    if found.archive is not None and not found.obstacles:
        return found.archive
    with attempted(base, record, "retire", call.plan.run_id):
        raise refused(call.week, found.obstacles, "nothing was changed; it is in the base as before")


def _set_out(call: _Call, base: Connected, record: SliceRecord, archive: ArchiveRecord) -> CutRecord | None:
    """Release the slice from the stream and begin its retirement; the caller holds the stream's start and the slice."""
    now = read_archive(base, call.plan.relation, call.week)
    same = now is not None and now.id == archive.id and now.verified_equal
    approved = not list(why_not_approved(call.plan, base, record))
    if not (same and approved and record.state is SliceState.ARCHIVED):
        raise RetirementError(
            "it was worked on while its archive was read",
            where=call.week.key,
            state_left="nothing was changed; it is in the base as before",
            next_step="run this again",
        )
    cut = None
    if must_be_released(base, call.plan, record):
        cut = release_weeks(call.plan, base, [record], {call.week: archive.native})
    begin_retirement(base, record, archive, call.plan.run_id, call.spend)
    return cut


def _on_the_way(call: _Call, base: Connected) -> Leaving:
    """Read the retirement as the ledger has it now; the caller holds the slice."""
    record = require_slice(base, call.plan.relation, call.week)
    retirement = read_retirement(base, call.plan.relation, call.week)
    archive = read_archive(base, call.plan.relation, call.week)
    if retirement is None or archive is None or record.state is not SliceState.RETIRED or retirement.step is _BACK:
        raise LedgerError(
            f"it is {record.state}, and its retirement {retirement.step if retirement else 'unknown'}",
            where=call.week.key,
            state_left="nothing was touched",
            next_step="if it was returned just now, run this again; otherwise look at the ledger's tables retirements"
            " and archives",
        )
    return Leaving(record, retirement, archive, leaf_of(base, call.plan, record))


def _look_further(call: _Call, base: Connected) -> Retired:
    """Look at a slice that is on its way or gone."""
    leaving = _on_the_way(call, base)
    found: list[str] = []
    if _is_over(call, leaving):
        found = obstacles_to_drop(call.plan, base, leaving.record, leaving.archive, reread=call.reread)
    return replace(_shown(base, leaving), obstacles=tuple(found))


def _go_on(call: _Call, base: Connected, attempt: int | None, cut: CutRecord | None) -> Retired:
    """Go on with the retirement from wherever it is; the caller holds the slice."""
    plan, freed, may_drop = call.plan, None, True
    leaving = _on_the_way(call, base)
    with ExitStack() as attempts:
        if leaving.retirement.step is Step.DETACHING:
            attempt = attempt or attempts.enter_context(attempted(base, leaving.record, "retire", plan.run_id))
            leave_root(plan, base, leaving, attempt, now=call.now, quarantine=call.quarantine)
            leaving = _on_the_way(call, base)
            # A call that only finishes what another one has begun was never asked whether the leaf is to be dropped.
            may_drop = call.confirmation is None or call.confirmation.is_spent(base)
        if may_drop and _is_over(call, leaving):
            call.confirm(base, looked=False)
            found = obstacles_to_drop(plan, base, leaving.record, leaving.archive, reread=call.reread)
            if not found:
                call.confirm(base, looked=True)
            attempt = attempts.enter_context(attempted(base, leaving.record, "retire", plan.run_id))
            if found:
                raise refused(call.week, found, f"its rows are in {leaving.leaf.quarantined}, as before")
            freed = size_of(base, leaving.leaf.quarantined)
            drop(plan, base, leaving, attempt, now=call.now, on_begin=call.spend)
            leaving = _on_the_way(call, base)
    done = _shown(base, leaving)
    return replace(done, bytes=done.bytes if freed is None else freed, cut=cut)


def _is_over(call: _Call, leaving: Leaving) -> bool:
    """Return whether the quarantine has ended."""
    return is_over(leaving.retirement.step, leaving.retirement.drop_after, call.now)


def _shown(base: Connected, leaving: Leaving) -> Retired:
    step, leaf = leaving.retirement.step, leaving.leaf
    tables = {Place.QUARANTINED: leaf.quarantined, Place.GONE: None}
    table = None if step is Step.DROPPED else tables.get(place_of(base, leaf), leaf.table)
    size = size_of(base, table) if table else 0
    return Retired(leaving.week, (), step, leaving.archive, table, size, leaving.retirement.drop_after)
