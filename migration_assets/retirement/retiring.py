"""The steps that take a week out of the base and bring it back, by the shortest way that is left.

The code for letting a week leave is bound to the files that hold its rows, and to what would become of it now. A slice
on its way out comes back out of quarantine, or from half a detach.
"""

import logging
import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from migration_assets.archive.archiving import archive_store, reread
from migration_assets.copying.throttle import CopyLimits
from migration_assets.domain.confirmation import Deed
from migration_assets.domain.errors import RestoreError
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.states import SliceState
from migration_assets.ledger.archives import ArchiveRecord, read_archive
from migration_assets.ledger.confirmations import Confirmation, give_code
from migration_assets.ledger.retirements import Retirement, Step, note_returned, read_retirement
from migration_assets.ledger.retirements import Step as RetirementStep
from migration_assets.ledger.slices import SliceRecord, end_attempt, require_slice, slice_lock
from migration_assets.ledger.steps import open_ledger, prepare_ledger, run_step
from migration_assets.postgres.retries import retry_locked
from migration_assets.postgres.sessions import Connected, set_limits
from migration_assets.retirement.checks import LateBooking, difference, late_bookings, leaf_of, of_table
from migration_assets.retirement.leaving import SHORT_LOCK_MS, Retired, attempted, leaving_session, retire_slice
from migration_assets.retirement.policy import retention_policy
from migration_assets.retirement.quarantine import (
    Leaf,
    Place,
    attach_again,
    detach_leaf,
    lock_alone,
    place_of,
    take_from_quarantine,
)
from migration_assets.retirement.restoring import restore_week
from migration_assets.runtime import Migration
from migration_assets.stream.plan import StreamPlan


def examined_week(base: Connected, relation: str, week: FiscalWeek, quarantine: timedelta) -> dict[str, Any]:
    """What a code is bound to: archive, sign-off, how far the week has got, and how long it would lie in quarantine."""
    archive = read_archive(base, relation, week)
    retirement = read_retirement(base, relation, week)
    signed = base.execute(
        "SELECT max(id) FROM migration.sign_offs WHERE relation = %s AND quarter = %s", [relation, week.quarter.key]
    ).fetchone()
    return {
        "the archive": None if archive is None else [archive.generation, archive.manifest_sha256],
        "the sign-off": signed and signed[0],
        "where the week is": retirement.step if retirement and retirement.under_way else "in the root",
        "the time in quarantine": str(quarantine),
    }


@dataclass(frozen=True)
class Returned:
    """A slice that is in the root again. `seconds` is how long the transaction that attached it took.

    `equal` says whether it holds what was archived: a week that had not left yet may have got rows until then.
    """

    week: FiscalWeek
    fingerprint: Fingerprint
    equal: bool
    seconds: float


def return_slice(plan: StreamPlan, week: FiscalWeek, *, now: datetime, run_id: str | None = None) -> Returned:
    """Take a slice back into the root with every row that it has; all or nothing, and safe to repeat after any crash.

    The slice is then archived and not under CDC: `change_stream` takes it in again.

    Args:
        plan: The stream and its limits; the stream need not exist any more.
        week: The slice.
        now: The current time by the settings' clock.
        run_id: Recorded in the ledger.

    Raises:
        RestoreError: The slice is not on its way out (a dropped one comes back from its archive), or what is in
            quarantine is not what was archived.
        RetirementError: Open transactions keep an interrupted detach from finishing; names them.
        PartitionError: The root's indexes were changed since the slice left.
        SliceBusyError: Another step works on the slice.
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
                # A detach that has begun can only be finished first.
                detach_leaf(base, leaf, patience_seconds=patience, where=week.key)
            began = time.monotonic()

            def back() -> Fingerprint:
                with base.transaction():
                    set_limits(base, lock=SHORT_LOCK_MS)
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
    """Attach the leaf from wherever it is; returns its fingerprint."""
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
            f"what is in quarantine has {difference(found, archive.native)} the archive: it was changed there",
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
        "it was dropped; its rows are only in the archive" if dropped else f"it is {record.state}, in the root",
        where=record.week.key,
        state_left="nothing was touched",
        next_step="restore it from its archive: materialize restored_slice"
        if dropped
        else "there is nothing to return; see `migration-assets status`",
    )


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Back:
    """A week that is in the root again, or that could be: `source` is quarantine, Parquet, or a drill."""

    week: FiscalWeek
    source: str
    fingerprint: Fingerprint
    seconds: float


def retire_week(
    migration: Migration,
    week: FiscalWeek,
    *,
    dry_run: bool = True,
    confirm: str = "",
    run_id: str | None = None,
) -> Retired:
    """Let the week leave the base as far as it may now; see `retire_slice`.

    A dry run that finds no obstacle gives the code that each of the two steps (out of the root, and the drop) requires
    as `confirm`, which may also contain other weeks' codes. With MIGRATION_AUTO_RETIRE no code is required.

    Raises:
        ConfirmationError: The code is missing or invalid; nothing was touched.
    """
    store, relation = archive_store(migration), migration.spec.relation
    quarantine = timedelta(days=migration.settings.quarantine_days)
    deed = _deed(relation, week)
    examined = partial(examined_week, relation=relation, week=week, quarantine=quarantine)
    confirmation = None if migration.settings.auto_retire else Confirmation(deed, examined, confirm)

    def read_again(archive: ArchiveRecord) -> None:
        timeouts = CopyLimits.of(migration.settings).timeouts()
        with migration.databases.session("base", f"{week.key}:reread", timeouts) as base:
            reread(store, base, archive)

    not_due = retention_policy(migration).why_not_due(week, migration.now())
    done = run_step(
        migration,
        f"retiring of {week.key}",
        lambda: retire_slice(
            StreamPlan.of(migration, run_id),
            week,
            reread=read_again,
            now=migration.now(),
            quarantine=quarantine,
            outside_retention=not_due or True,
            dry_run=dry_run,
            confirmation=confirmation,
        ),
    )
    if confirmation is None or not dry_run or not done.may_go_further(migration.now()):
        return done
    with migration.databases.session("base", f"{week.key}:code") as base:
        return replace(done, confirmation=give_code(base, deed, examined, run_id=run_id))


def _deed(relation: str, week: FiscalWeek) -> Deed:
    command = f"migration-assets retire {week.quarter.key} {week.name}"
    how = (
        f"`{command}` gives one where nothing stands in the way, and so does the job retire_slices as a dry run; then"
        f" `{command} --apply --confirm CODE`, or the job with `dry_run: false` and `confirm`"
    )
    return Deed(relation, "retire", week.key, how)


def bring_back(migration: Migration, week: FiscalWeek, *, run_id: str | None = None) -> Back:
    """Bring the week back, out of quarantine where its rows are still there, else from the archive; proven equal."""
    started = time.monotonic()
    with open_ledger(migration, f"{week.key}:restore") as base:
        retirement = read_retirement(base, migration.spec.relation, week)
    if retirement is not None and retirement.under_way:
        returned = run_step(
            migration,
            f"return of {week.key}",
            lambda: return_slice(StreamPlan.of(migration, run_id), week, now=migration.now(), run_id=run_id),
        )
        return Back(week, "quarantine", returned.fingerprint, time.monotonic() - started)
    restored = restore_week(migration, week, run_id=run_id)
    return Back(week, "Parquet", restored.fingerprint, time.monotonic() - started)


def late_in(migration: Migration, week: FiscalWeek) -> LateBooking | None:
    """The late booking of a week that left the stream; None where there is none. See `late_bookings`."""
    prepare_ledger(migration, "retirement")
    return next((one for one in late_bookings(StreamPlan.of(migration), week) if one.week == week), None)


def told(done: Retired) -> str:
    """Say in one line where the week is now, or what prevents it from leaving."""
    if done.obstacles:
        return f"stays: {'; '.join(done.obstacles)}"
    size = f"{done.bytes / 1e6:,.1f} MB"
    match done.step:
        case RetirementStep.QUARANTINED if done.drop_after is not None:
            return f"lies in quarantine ({done.leaf}, {size}), to be dropped after {done.drop_after:%Y-%m-%d %H:%M} UTC"
        case RetirementStep.DROPPED:
            return f"has left the base, {size} freed; its rows are in {done.archive.location if done.archive else '?'}"
        case RetirementStep.DETACHING:
            return "its retirement was interrupted: it goes on where it stopped and needs no code"
        case _:
            return f"may leave: nothing stands in the way ({size})"
