"""The transactions in which a slice leaves the root and the base, each with the last look before it.

Belongs here: what is done under the slice's lock and all at once. In which order, and whether at all: `retirement`.
"""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from migration_assets.domain.errors import RetirementError
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.archives import ArchiveRecord
from migration_assets.ledger.retirements import (
    OnBegin,
    Retirement,
    note_dropped,
    note_quarantined,
    note_returned,
)
from migration_assets.ledger.slices import (
    Action,
    SliceRecord,
    begin_attempt,
    end_attempt,
    note_failure,
)
from migration_assets.postgres.retries import retry_locked
from migration_assets.postgres.sessions import Connected
from migration_assets.retirement.checks import difference, of_table
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
)
from migration_assets.stream.plan import StreamPlan

SLICE_LOCK_MS = 5_000
SHORT_LOCK_MS = 200


@dataclass(frozen=True)
class Leaving:
    """A slice that is on its way: `record` read under its lock, `archive` what holds its rows."""

    record: SliceRecord
    retirement: Retirement
    archive: ArchiveRecord
    leaf: Leaf

    @property
    def week(self) -> FiscalWeek:
        """Which."""
        return self.record.week


@contextmanager
def leaving_session(plan: StreamPlan, week: FiscalWeek, purpose: str) -> Generator[Connected]:
    """A session on the base that waits for a slice's lock for seconds, and works on its rows for as long as needed."""
    timeouts = replace(plan.limits.timeouts(), lock=SLICE_LOCK_MS)
    with plan.databases.session("base", f"{week.key}:{purpose}", timeouts) as base:
        yield base


@contextmanager
def attempted(base: Connected, record: SliceRecord, action: Action, run_id: str | None) -> Generator[int]:
    """An attempt that the body ends where it succeeds; noted as failed where it does not."""
    attempt = begin_attempt(base, record, action, run_id)
    try:
        yield attempt
    except BaseException as error:
        note_failure(base, attempt, error)
        raise


def refused(week: FiscalWeek, obstacles: Sequence[str], state_left: str) -> RetirementError:
    """The error that lists everything that stands in the way."""
    return RetirementError(
        "it must not leave the base: " + "; ".join(f"({number}) {what}" for number, what in enumerate(obstacles, 1)),
        where=week.key,
        state_left=state_left,
        next_step="clear these, then run this again; a dry run lists what is left of them",
    )


def leave_root(
    plan: StreamPlan, base: Connected, leaving: Leaving, attempt: int, *, now: datetime, quarantine: timedelta
) -> None:
    """Detach, look for the last time, and into quarantine; or back, where somebody has written to it until then.

    Raises:
        RetirementError: Transactions in the way of the detach; or it is back in the root; or its leaf is gone.
    """
    record, archive, leaf = leaving.record, leaving.archive, leaving.leaf
    patience = plan.limits.cut_patience_seconds
    make_quarantine(base)
    detach_leaf(base, leaf, patience_seconds=patience, where=leaving.week.key)
    began = time.monotonic()

    def last_look() -> Fingerprint:
        with base.transaction():
            base.execute("SELECT set_config('lock_timeout', %s, true)", [f"{SHORT_LOCK_MS}ms"])
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
            f"somebody wrote to it until it was detached: it has {difference(found, archive.native)} the archive",
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
    """Drop what lies in quarantine, once more proven equal to its archive, under a lock of its own.

    `on_begin` is called in the transaction that drops it; what it raises ends that, and nothing was done.

    Raises:
        RetirementError: It is not equal.
    """

    def look_and_drop() -> None:
        with base.transaction():
            base.execute("SELECT set_config('lock_timeout', %s, true)", [f"{SHORT_LOCK_MS}ms"])
            lock_alone(base, leaving.leaf.quarantined)
            found = of_table(base, plan, leaving.leaf.quarantined)
            if found != leaving.archive.native:
                raise refused(
                    leaving.week,
                    [f"what lies in quarantine has {difference(found, leaving.archive.native)} the archive"],
                    f"its rows are in {leaving.leaf.quarantined}, as before",
                )
            if on_begin is not None:
                on_begin(base)
            drop_quarantined(base, leaving.leaf)
            note_dropped(base, leaving.retirement, now=now)
            end_attempt(base, attempt, "succeeded", base=found)

    retry_locked(look_and_drop, patience_seconds=plan.limits.cut_patience_seconds)
