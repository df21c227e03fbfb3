"""A week out of the base, behind every gate; and back, by the shortest way that is left."""

import logging
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

from migration_assets.archive.archiving import archive_store, reread
from migration_assets.copying.copy_plan import CopyLimits
from migration_assets.domain.confirmation import Deed
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.archives import ArchiveRecord
from migration_assets.ledger.confirmations import Confirmation, give_code
from migration_assets.ledger.retirements import Step as RetirementStep
from migration_assets.ledger.retirements import read_retirement
from migration_assets.ledger.upgrading import prepare_ledger
from migration_assets.postgres.retries import retry_transient
from migration_assets.retirement.checks import LateBooking, late_bookings
from migration_assets.retirement.confirming import examined_week
from migration_assets.retirement.machine import Retired, retire_slice
from migration_assets.retirement.policy import retention_policy
from migration_assets.retirement.restoring import restore_week
from migration_assets.retirement.returning import return_slice
from migration_assets.runtime import Migration
from migration_assets.stream.plan import StreamPlan

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
    """Let the week leave, as far as it may now; see `retire_slice`.

    A dry run that finds no obstacle gives the code that each of the two steps asks for, out of the root and the drop,
    as `confirm` (which may hold other weeks' codes, too). With MIGRATION_AUTO_RETIRE nobody is asked.

    Raises:
        ConfirmationError: The code is missing or not good; nothing was touched.
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

    prepare_ledger(migration, "retirement")
    not_due = retention_policy(migration).why_not_due(week, migration.now())
    done = retry_transient(
        lambda: retire_slice(
            StreamPlan.of(migration, run_id),
            week,
            reread=read_again,
            now=migration.now(),
            quarantine=quarantine,
            outside_retention=not_due or True,
            dry_run=dry_run,
            confirmation=confirmation,
            run_id=run_id,
        ),
        what=f"retiring of {week.key}",
        attempts=migration.settings.retry_attempts,
        log=log,
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
    """Out of quarantine where the rows are still there, else from the archive; proven equal in both cases."""
    started = time.monotonic()
    prepare_ledger(migration, "retirement")
    with migration.databases.session("base", f"{week.key}:restore") as base:
        retirement = read_retirement(base, migration.spec.relation, week)
    if retirement is not None and retirement.under_way:
        returned = retry_transient(
            lambda: return_slice(StreamPlan.of(migration, run_id), week, now=migration.now(), run_id=run_id),
            what=f"return of {week.key}",
            attempts=migration.settings.retry_attempts,
            log=log,
        )
        return Back(week, "quarantine", returned.fingerprint, time.monotonic() - started)
    restored = restore_week(migration, week, run_id=run_id)
    return Back(week, "Parquet", restored.fingerprint, time.monotonic() - started)


def late_in(migration: Migration, week: FiscalWeek) -> LateBooking | None:
    """What the legacy has got of a week since that left the stream; None where nothing. See `late_bookings`."""
    prepare_ledger(migration, "retirement")
    return next((one for one in late_bookings(StreamPlan.of(migration), week) if one.week == week), None)


def told(done: Retired) -> str:
    """One line for people: where the week is now, or what stands in the way."""
    if done.obstacles:
        return f"stays: {'; '.join(done.obstacles)}"
    size = f"{done.bytes / 1e6:,.1f} MB"
    match done.step:
        case RetirementStep.QUARANTINED if done.drop_after is not None:
            return f"lies in quarantine ({done.leaf}, {size}), to be dropped after {done.drop_after:%Y-%m-%d %H:%M} UTC"
        case RetirementStep.DROPPED:
            return f"has left the base, {size} freed; its rows are in {done.archive.location if done.archive else '?'}"
        case RetirementStep.DETACHING:
            return "its leaving was interrupted: it goes on where it stopped, and asks for no code"
        case _:
            return f"may leave: nothing stands in the way ({size})"
