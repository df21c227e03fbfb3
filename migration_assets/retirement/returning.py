"""A slice that is on its way out of the base comes back into the root, out of quarantine or from half a detach."""

import time
from dataclasses import dataclass, replace
from datetime import datetime

from migration_assets.domain.errors import RestoreError
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.slice_state import SliceState
from migration_assets.ledger.archives import ArchiveRecord, read_archive
from migration_assets.ledger.locks import slice_lock
from migration_assets.ledger.retirements import (
    Retirement,
    Step,
    note_returned,
    read_retirement,
)
from migration_assets.ledger.slices import SliceRecord, end_attempt, require_slice
from migration_assets.postgres.retries import retry_locked
from migration_assets.postgres.sessions import Connected
from migration_assets.retirement.checks import difference, leaf_of, of_table
from migration_assets.retirement.leaving import SHORT_LOCK_MS, attempted, leaving_session
from migration_assets.retirement.quarantine import (
    Leaf,
    Place,
    attach_again,
    detach_leaf,
    lock_alone,
    place_of,
    take_from_quarantine,
)
from migration_assets.stream.plan import StreamPlan


@dataclass(frozen=True)
class Returned:
    """A slice that is in the root again. `seconds` are those of the transaction that attached it.

    `equal` says whether it is what was archived: one that had not left yet may have got rows until then.
    """

    week: FiscalWeek
    fingerprint: Fingerprint
    equal: bool
    seconds: float


def return_slice(plan: StreamPlan, week: FiscalWeek, *, now: datetime, run_id: str | None = None) -> Returned:
    """Take a slice back into the root, with every row that it has; all or nothing, safe to repeat after any death.

    It is archived then, and not under CDC: `change_stream` takes it in again.

    Args:
        plan: The stream and its limits; the stream need not exist any more.
        week: The slice.
        now: By the clock of the settings.
        run_id: Noted in the ledger.

    Raises:
        RestoreError: It is not on its way out (what was dropped comes back from its archive), or what lies in
            quarantine is not what was archived.
        RetirementError: Transactions that a half-done detach waits for; names them.
        PartitionError: The root's indexes were changed since it left.
        SliceBusyError: Somebody works on the slice.
    """
    plan = replace(plan, run_id=run_id or plan.run_id)
    with (
        leaving_session(plan, week, "return") as base,
        slice_lock(base, require_slice(base, plan.relation, week)) as record,
    ):
        retirement = read_retirement(base, plan.relation, week)
        archive = read_archive(base, plan.relation, week)
        if record.state is not SliceState.RETIRED or retirement is None or archive is None or not retirement.under_way:
            raise _not_on_its_way(record, retirement)
        with attempted(base, record, "restore", plan.run_id) as attempt:
            leaf = leaf_of(base, plan, record)
            patience = plan.limits.cut_patience_seconds
            if place_of(base, leaf) is Place.PENDING:
                # There is no way back from a detach that has begun but through its end.
                detach_leaf(base, leaf, patience_seconds=patience, where=week.key)
            began = time.monotonic()

            def back() -> Fingerprint:
                with base.transaction():
                    base.execute("SELECT set_config('lock_timeout', %s, true)", [f"{SHORT_LOCK_MS}ms"])
                    found = _put_back(base, plan, leaf, retirement, archive)
                    note_returned(base, record, retirement, found, equal=found == archive.native, now=now,
                                  seconds=time.monotonic() - began, run_id=plan.run_id)  # fmt: skip
                    end_attempt(base, attempt, "succeeded", base=found)
                return found

            found = retry_locked(back, patience_seconds=patience)
    return Returned(week, found, found == archive.native, time.monotonic() - began)


def _put_back(
    base: Connected, plan: StreamPlan, leaf: Leaf, retirement: Retirement, archive: ArchiveRecord
) -> Fingerprint:
    """Attached, whatever way it had gone; what it holds."""
    place = place_of(base, leaf)
    if place is Place.ATTACHED and retirement.step is Step.DETACHING:
        return of_table(base, plan, leaf.table)
    if place is Place.LOOSE and retirement.step is Step.DETACHING:
        lock_alone(base, leaf.table)
    elif place is Place.QUARANTINED and retirement.step is Step.QUARANTINED:
        take_from_quarantine(base, leaf)
    else:
        raise RestoreError(
            f"its leaf is {place}, while the ledger says {retirement.step}: it was moved or dropped by hand",
            where=archive.week.key,
            state_left="nothing was changed",
            next_step=f"look for {leaf.table} and {leaf.quarantined}; the archive is in {archive.location}",
        )
    found = of_table(base, plan, leaf.table)
    if retirement.step is Step.QUARANTINED and found != archive.native:
        raise RestoreError(
            f"what lies in quarantine has {difference(found, archive.native)} the archive: it was changed there",
            where=archive.week.key,
            state_left="it was rolled back; its rows are in quarantine, as before",
            next_step=f"look at {leaf.quarantined}: put its rows back as they were; or drop it, note the retirement as"
            " 'dropped' in the ledger's table retirements, and restore the week from its archive",
        )
    attach_again(base, leaf)
    return found


def _not_on_its_way(record: SliceRecord, retirement: Retirement | None) -> RestoreError:
    dropped = record.state is SliceState.RETIRED and retirement is not None and retirement.step is Step.DROPPED
    return RestoreError(
        "it was dropped; its rows are in the archive alone" if dropped else f"it is {record.state}, in the root",
        where=record.week.key,
        state_left="nothing was touched",
        next_step="restore it from its archive: materialize restored_slice"
        if dropped
        else "there is nothing to return; see `migration-assets status`",
    )
