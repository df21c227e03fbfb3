"""`validate`, `repair` and `sign-off`: what proves, mends and approves."""

import shlex
import sys
from collections.abc import Sequence

import click

from migration_assets.commands.opening import opened
from migration_assets.commands.periods import confirm_deletes, parse_quarter, parse_weeks
from migration_assets.copying.weeks import repair_week, undo_repair, validate_week
from migration_assets.domain.errors import CutError, MigrationError, SliceBusyError, SliceMismatchError, SliceStateError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.sign_off import SignOffRefusedError
from migration_assets.evidence.approval import sign_off_quarter
from migration_assets.proof.reconciling import reconcile_quarter
from migration_assets.runtime import Migration
from migration_assets.stream.plan import StreamLimits
from migration_assets.terminal.differences import differences_table, missing_list, reconciled_page, week_line
from migration_assets.terminal.output import console, say
from migration_assets.terminal.week_progress import WeekByWeek

# Of one week alone: the others may still be looked at.
_OF_ONE_WEEK = (SliceStateError, SliceBusyError, CutError)


@click.command()
@click.argument("periods", nargs=-1, required=True, metavar="QUARTER [WEEK | WEEK-WEEK]...")
@click.option("--reconcile", is_flag=True, help="Compare whole quarters, each at one cut; looks for keys there twice.")
def validate(periods: tuple[str, ...], reconcile: bool) -> None:
    """Prove weeks equal at a cut while everybody goes on writing; exit code 1 on a mismatch.

    FY25-Q2 alone is all of its weeks; FY25-Q2 W05, FY25-Q2 W03-W07 and 'FY25-Q2|W05' are some.
    """
    if reconcile:
        _reconcile(periods)
        return
    weeks = parse_weeks(periods)
    if not _validate(opened(), weeks):
        sys.exit(1)


def _reconcile(periods: Sequence[str]) -> None:
    quarters = [parse_quarter(text) for text in periods]
    migration = opened()
    equal = True
    for quarter in dict.fromkeys(quarters):
        with console.status(f"Comparing {quarter.key} at one cut"):
            done = reconcile_quarter(migration, quarter)
        console.print(reconciled_page(done))
        equal = equal and done.equal
    if not equal:
        sys.exit(1)


def _validate(migration: Migration, weeks: Sequence[FiscalWeek]) -> bool:
    """Whether all are equal; ends with exit code 2 where one could not be looked at and none differs."""
    mismatches: list[tuple[FiscalWeek, SliceMismatchError]] = []
    errors: list[MigrationError] = []
    with WeekByWeek(console, "validated", len(weeks)) as progress:
        for week in weeks:
            progress.at(week)
            try:
                done = validate_week(migration, week)
            except SliceMismatchError as error:
                mismatches.append((week, error))
                progress.done(f"{week.key} DIFFERS  {error.differences}", "bold red")
            except _OF_ONE_WEEK as error:
                errors.append(error)
                progress.done(f"{week.key} not looked at: {error.what}", "yellow")
            else:
                progress.done(week_line(week, done.legacy, done.base, done.cut))
    for week, error in mismatches:
        if error.differences is not None:
            console.print(differences_table(week.key, error.differences))
    equal = len(weeks) - len(mismatches) - len(errors)
    say(f"{equal} of {len(weeks)} weeks are equal.", "green" if equal == len(weeks) else "bold red")
    if mismatches:
        periods = " ".join(week.name for week, _ in mismatches)
        say(f"Next: `migration-assets repair {mismatches[0][0].quarter.key} {periods}` shows what it would do.")
    elif errors:
        raise errors[0]
    return not mismatches


@click.command()
@click.argument("periods", nargs=-1, metavar="QUARTER WEEK...")
@click.option("--apply", "do_it", is_flag=True, help="Mend it; without this nothing is changed.")
@click.option("--undo", type=int, metavar="ID", help="Put back what repair ID changed.")
@confirm_deletes
def repair(periods: tuple[str, ...], do_it: bool, undo: int | None, confirmed: dict[FiscalWeek, int]) -> None:
    """Show what differs, and with --apply mend it and validate again. Shows keys and columns, never values."""
    if undo is not None:
        if do_it or periods:
            raise click.UsageError("--undo ID stands alone: the repair knows its week.")
        _undo(opened(), undo)
        return
    if not periods:
        raise click.UsageError("Name a quarter and its weeks: FY25-Q2 W05.")
    weeks = parse_weeks(periods)
    if len(periods) == 1 and "|" not in periods[0]:
        # All weeks are meant by chance more often than on purpose, and each is a pause of the stream.
        raise click.UsageError(f"Name the weeks: {periods[0]} W05, or {periods[0]} W01-W13 for all.")
    migration = opened()
    found = sum(_repair(migration, week, do_it=do_it, confirmed=confirmed) for week in weeks)
    if do_it and found:
        # A repair compares with what it read itself; this reads anew, at a cut of its own.
        if not _validate(migration, weeks):
            sys.exit(1)
    elif found:
        say(f"Nothing was changed. `migration-assets repair {shlex.join(periods)} --apply` mends it.", "yellow")


def _repair(migration: Migration, week: FiscalWeek, *, do_it: bool, confirmed: dict[FiscalWeek, int]) -> int:
    """How many rows differed."""
    with console.status(f"{'Repairing' if do_it else 'Looking at'} {week.key}"):
        done = repair_week(migration, week, dry_run=not do_it, confirmed_deletes=confirmed)
    if not done.differences.rows:
        console.print(week_line(week, done.legacy, done.base, done.cut))
        return 0
    console.print(differences_table(week.key, done.differences))
    extra = done.differences.extra
    limit = StreamLimits.of(migration.settings).deletions
    if not do_it and limit.asks(extra, legacy=done.legacy.rows, base=done.base.rows):
        say(f"{extra:,} rows would be deleted: --apply asks for --confirm-deletes '{week.key}={extra}', too.", "yellow")
    if do_it:
        say(f"Repaired (repair {done.repair_id}); `migration-assets repair --undo {done.repair_id}` takes it back.")
    return done.differences.rows


def _undo(migration: Migration, repair_id: int) -> None:
    with console.status(f"Undoing repair {repair_id}"):
        done = undo_repair(migration, repair_id)
    console.print(differences_table(done.week.key, done.differences))
    say(f"Repair {repair_id} of {done.week.key} is undone: the week is as untrue as it was before it.", "yellow")


@click.command("sign-off")
@click.argument("quarter")
@click.option("--approved-by", required=True, metavar="NAME", help="The person who approves.")
@click.option("--note", default="", help="What that person adds.")
def sign_off(quarter: str, approved_by: str, note: str) -> None:
    """Sign a quarter off, if the ledger proves it; else list what is missing, with exit code 1."""
    wanted = parse_quarter(quarter)
    migration = opened()
    try:
        with console.status(f"Reading what is proven of {wanted.key}"):
            signed = sign_off_quarter(migration, wanted, approved_by, note)
    except SignOffRefusedError as error:
        console.print(missing_list(wanted.key, error.missing))
        say(
            f"From here: `migration-assets validate {wanted.key}`, then `migration-assets validate {wanted.key}"
            " --reconcile`, then this again."
        )
        sys.exit(1)
    say(f"{wanted.key} is signed off by {signed.approved_by} (sign-off {signed.id}).", "bold green")
    say(f"SHA-256 of the evidence: {signed.sha256}")
