"""A slice leaves the base: out of the stream, out of the root into quarantine, and in the end dropped.

Belongs here: the order of the steps; the way back stands in `returning`. At every moment every row is in the root or
beside it, until all of them are proven to be in the archive. Whatever dies, the same call again goes on from there.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from migration_assets.domain.confirmation import GivenCode
from migration_assets.domain.errors import LedgerError, RetirementError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.slice_state import SliceState
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.ledger.archives import ArchiveRecord, read_archive
from migration_assets.ledger.confirmations import Confirmation
from migration_assets.ledger.cuts import CutRecord
from migration_assets.ledger.locks import slice_lock
from migration_assets.ledger.retirements import (
    OnBegin,
    Step,
    begin_retirement,
    is_over,
    read_retirement,
)
from migration_assets.ledger.slices import SliceRecord, require_slice
from migration_assets.ledger.stream import StreamLock, stream_lock
from migration_assets.postgres.sessions import Connected
from migration_assets.retirement.checks import (
    Reread,
    leaf_of,
    must_be_released,
    obstacles,
    obstacles_to_drop,
    why_not_approved,
)
from migration_assets.retirement.leaving import (
    SLICE_LOCK_MS,
    Leaving,
    attempted,
    drop,
    leave_root,
    leaving_session,
    refused,
)
from migration_assets.retirement.quarantine import Place, place_of, size_of
from migration_assets.stream.plan import StreamPlan
from migration_assets.stream.releasing import release_weeks
from migration_assets.stream.servers import require_servers

# A quarter that joins holds the stream for as long as its rows take.
_STREAM_LOCK_MS = 600_000
_BACK = Step.RETURNED


@dataclass(frozen=True)
class Retired:
    """How far a slice is on its way out.

    Attributes:
        week: The slice.
        obstacles: What stands in the way of its next step; a run that is not dry raises them instead.
        step: None while it is in the root and not on its way.
        archive: What holds its rows; None where there is nothing.
        leaf: Where its rows are in the base; None once they were dropped.
        bytes: Of that table with its indexes; of a dropped one, what this call freed.
        drop_after: The end of the grace period, by the clock of the settings.
        cut: At which the stream let go of it, where this call made it do so.
        confirmation: The code that its next step asks for, of a dry run that somebody was told of.
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
        """Whether it may leave the root, or be dropped, and nothing stands in the way of that.

        Where its leaving was only interrupted there is nothing to decide any more.
        """
        return not self.obstacles and (self.step is None or is_over(self.step, self.drop_after, now))


@dataclass(frozen=True)
class _Call:
    """What `retire_slice` was given; see there."""

    plan: StreamPlan
    week: FiscalWeek
    reread: Reread
    now: datetime
    quarantine: timedelta
    outside_retention: bool | str
    confirmation: Confirmation | None

    def confirm(self, base: Connected, *, looked: bool) -> None:
        """Ask for the code: before the look, which may take hours, where one was given; else after it, which says more.

        Raises:
            ConfirmationError: It is missing or not good.
        """
        if self.confirmation is not None and self.confirmation.given is not looked:
            self.confirmation.require(base)

    @property
    def spend(self) -> OnBegin | None:
        """What uses the code up, where one is asked for."""
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
    run_id: str | None = None,
) -> Retired:
    """Take the slice as far out of the base as it may go now; run again, it goes on where it was left.

    Args:
        plan: The stream and its limits; the stream need not exist any more.
        week: The slice.
        reread: Reads its archive's files again, byte by byte; raises ArchiveError where they are not what was proven.
            Called before the slice leaves the root, and again before it is dropped.
        now: By the clock of the settings.
        quarantine: How long its rows stay in the base after they have left the root; 0 to drop them at once.
        outside_retention: Whether the policy lets it go; a text says why not.
        dry_run: Look only, and change nothing.
        confirmation: The code without which it neither leaves the root nor is dropped; None where nobody is asked. What
            a call that died has begun goes on without one, as far as into quarantine.
        run_id: Noted in the ledger.

    Raises:
        ConfirmationError: The code is missing or not good; nothing was touched.
        RetirementError: Lists everything that stands in the way; or names the transactions that a DETACH waits for; or
            a booking came in between. Says where the rows are.
        SliceBusyError: Somebody works on the slice.
        StreamError: The stream does not run, or somebody works on it.
        CutError: No moment for a cut.
    """
    plan = replace(plan, run_id=run_id or plan.run_id)
    call = _Call(plan, week, reread, now, quarantine, outside_retention, None if dry_run else confirmation)
    with leaving_session(plan, week, "retire") as base, ExitStack() as held:
        require_servers(plan.databases, base, plan.relation)
        record = require_slice(base, plan.relation, week)
        if record.state is SliceState.RETIRED:
            held.enter_context(slice_lock(base, record))
            return _look_further(call, base) if dry_run else _go_on(call, base, None, None)
        call.confirm(base, looked=False)
        # All files are read here: nobody who wants to join the stream waits for that.
        with slice_lock(base, record) as record:
            found = _look(call, base, record)
            if dry_run:
                return found
            archive = _require_allowed(call, base, record, found)
        call.confirm(base, looked=True)
        base.execute(f"SET lock_timeout = {_STREAM_LOCK_MS}".encode())
        # Until the slice is `retired`: whoever computes a filter has it in it or knows that it is gone.
        with stream_lock(base, plan.relation, lock=StreamLock.START):
            base.execute(f"SET lock_timeout = {SLICE_LOCK_MS}".encode())
            record = held.enter_context(slice_lock(base, record))
            attempt = held.enter_context(attempted(base, record, "retire", plan.run_id))
            cut = _set_out(call, base, record, archive)
        return _go_on(call, base, attempt, cut)


def _look(call: _Call, base: Connected, record: SliceRecord) -> Retired:
    """At a slice that is still in the root."""
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
    """Out of the stream, and on its way: the caller holds the stream's start and the slice."""
    now = read_archive(base, call.plan.relation, call.week)
    same = now is not None and now.id == archive.id and now.verified_equal
    approved = not list(why_not_approved(call.plan, base, record))
    if not (same and approved and record.state is SliceState.ARCHIVED):
        raise RetirementError(
            "somebody worked on it while its archive was read",
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
    """As the ledger has it now; the caller holds the slice."""
    record = require_slice(base, call.plan.relation, call.week)
    retirement = read_retirement(base, call.plan.relation, call.week)
    archive = read_archive(base, call.plan.relation, call.week)
    if retirement is None or archive is None or record.state is not SliceState.RETIRED or retirement.step is _BACK:
        raise LedgerError(
            f"it is {record.state}, and its retirement {retirement.step if retirement else 'unknown'}",
            where=call.week.key,
            state_left="nothing was touched",
            next_step="if somebody returned it just now, run this again; else look at the ledger's tables retirements"
            " and archives",
        )
    return Leaving(record, retirement, archive, leaf_of(base, call.plan, record))


def _look_further(call: _Call, base: Connected) -> Retired:
    """At a slice that is on its way or gone."""
    leaving = _on_the_way(call, base)
    found: list[str] = []
    if _is_over(call, leaving):
        found = obstacles_to_drop(call.plan, base, leaving.record, leaving.archive, reread=call.reread)
    return replace(_shown(base, leaving), obstacles=tuple(found))


def _go_on(call: _Call, base: Connected, attempt: int | None, cut: CutRecord | None) -> Retired:
    """From wherever it is on its way; the caller holds the slice."""
    plan, freed, may_drop = call.plan, None, True
    leaving = _on_the_way(call, base)
    with ExitStack() as attempts:
        if leaving.retirement.step is Step.DETACHING:
            attempt = attempt or attempts.enter_context(attempted(base, leaving.record, "retire", plan.run_id))
            leave_root(plan, base, leaving, attempt, now=call.now, quarantine=call.quarantine)
            leaving = _on_the_way(call, base)
            # Whoever only finishes what another call has begun was never asked whether it is to be dropped.
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
    """Whether the grace period has ended."""
    return is_over(leaving.retirement.step, leaving.retirement.drop_after, call.now)


def _shown(base: Connected, leaving: Leaving) -> Retired:
    step, leaf = leaving.retirement.step, leaving.leaf
    tables = {Place.QUARANTINED: leaf.quarantined, Place.GONE: None}
    table = None if step is Step.DROPPED else tables.get(place_of(base, leaf), leaf.table)
    size = size_of(base, table) if table else 0
    return Retired(leaving.week, (), step, leaving.archive, table, size, leaving.retirement.drop_after)
