"""The commands `validate`, `repair`, `sign-off` and `repair-legacy`.

Rows that differ are shown by their keys and columns, never by a value.
"""

import shlex
import sys
from collections.abc import Sequence
from itertools import groupby

import click
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from migration_assets.copying.weeks import repair_week, undo_repair, validate_week
from migration_assets.cutover import legacy_repair as steps
from migration_assets.domain.errors import CutError, MigrationError, SliceBusyError, SliceMismatchError, SliceStateError
from migration_assets.domain.fingerprint import Differences, Fingerprint, Kind
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.sign_off import Missing, SignOffRefusedError
from migration_assets.evidence.approval import sign_off_quarter
from migration_assets.ledger.proofs import CutRecord
from migration_assets.postgres.sessions import Side
from migration_assets.proof.reconciliation import Reconciled, reconcile_quarter
from migration_assets.runtime import Migration
from migration_assets.stream.plan import StreamLimits
from migration_assets.terminal.arguments import confirm_deletes, opened, parse_quarter, parse_weeks
from migration_assets.terminal.figures import WeekByWeek, count, milliseconds
from migration_assets.terminal.output import console, say

_STYLES = {Kind.MISSING: "red", Kind.EXTRA: "magenta", Kind.CHANGED: "yellow"}


def differences_table(where: str, differences: Differences, *, side: Side = "base") -> RenderableType:
    """Counts by kind, then the sample with the columns that differ; `side` is the one that lacks or has too much."""
    title = Text(where, "bold").append(f": {differences}", "not bold")
    if not differences.sample:
        return title
    # A key that holds the control column has it in every row.
    names = list(differences.sample[0].key)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim", border_style="dim")
    table.add_column(f"in the {side}", no_wrap=True)
    for name in names:
        table.add_column(Text(name), overflow="fold")
    table.add_column("columns that differ", overflow="fold")
    for one in differences.sample:
        table.add_row(
            Text(one.kind.value, _STYLES[one.kind]),
            *(Text(one.key.get(name, "")) for name in names),
            Text(", ".join(one.columns)),
        )
    more = differences.rows - len(differences.sample)
    rest = f"… and {count(more, 'row')} more." if more > 0 else ""
    return Group(title, table, Text(rest, "dim"))


def week_line(week: FiscalWeek, legacy: Fingerprint, base: Fingerprint, cut: CutRecord, *, found: str = "") -> Text:
    """One week at a cut, in one line."""
    equal = legacy == base and not found
    line = Text(f"{week.key} ", "bold").append(
        "equal" if equal else "DIFFERS", "not bold green" if equal else "bold red"
    )
    rows = count(base.rows, "row") if legacy.rows == base.rows else f"{legacy.rows:,} and {base.rows:,} rows"
    return line.append(f"  {rows}{f', {found}' if found else ''}{cut_text(cut)}", "not bold default")


def cut_text(cut: CutRecord) -> str:
    """`  marker 12, writers held 5.7 ms`."""
    tries = f" in {count(cut.tries, 'try', 'tries')}" if cut.tries > 1 else ""
    return f"  (marker {cut.marker}, writers held {milliseconds(cut.writers_held_ms)}{tries})"


def reconciled_page(done: Reconciled) -> RenderableType:
    """13 comparisons at one cut, and keys that are there twice."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim", border_style="dim")
    table.add_column("week", no_wrap=True)
    for side in ("legacy", "base"):
        table.add_column(side, justify="right", no_wrap=True)
    table.add_column("result", overflow="fold")
    for week, proof in done.weeks:
        result = Text("equal", "green") if proof.equal else Text(f"DIFFERS: {proof.differences}", "bold red")
        table.add_row(week.name, f"{proof.legacy.rows:,}", f"{proof.base.rows:,}", result)
    table.add_section()
    verdict = Text("equal", "bold green") if done.equal else Text("NOT equal", "bold red")
    table.add_row("all", f"{done.legacy.rows:,}", f"{done.base.rows:,}", verdict)
    title = Text(done.quarter.key, "bold").append(f" at one cut{cut_text(done.cut)}", "not bold")
    parts: list[RenderableType] = [title, table, Text()]
    parts.extend(differences_table(week.key, proof.differences) for week, proof in done.weeks if proof.differences.rows)
    parts.extend(Text(f"Key {twin.key} is there {len(twin.control_values)} times", "red") for twin in done.duplicates)
    return Group(*parts)


def missing_list(quarter: str, lacking: Sequence[Missing]) -> RenderableType:
    """What a sign-off lacks, in the order of the work; one next step for all lines that share it."""
    title = f"{quarter} cannot be signed off: {count(len(lacking), 'thing is', 'things are')} missing"
    parts: list[RenderableType] = [Text(title, "bold red")]
    for next_step, group in groupby(lacking, lambda one: one.next_step):
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for one in group:
            table.add_row(Text(one.where.removeprefix(f"{quarter}|"), "bold"), Text(one.what))
        parts += [table, Text(f"Next: {next_step}\n", "dim")]
    return Group(*parts)


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


@click.command("repair-legacy")
@click.argument("periods", nargs=-1, metavar="QUARTER [WEEK | WEEK-WEEK]...")
@click.option("--apply", "do_it", is_flag=True, help="Mend it; without this nothing is changed.")
@click.option("--outside", is_flag=True, help="Rows of the legacy at times that no week has, instead of weeks.")
@confirm_deletes
@click.option("--confirm-outside", type=int, default=0, metavar="ROWS", help="So many rows may go with --outside.")
@click.option("--undo", type=int, metavar="ID", help="Put back what repair ID changed on the legacy.")
def repair_legacy(
    periods: tuple[str, ...],
    do_it: bool,
    outside: bool,
    undo: int | None,
    confirmed: dict[FiscalWeek, int],
    confirm_outside: int,
) -> None:
    """While the base is in charge: show what differs on the legacy, and with --apply make it as the base has it.

    Shows keys and columns, never values. A rollback finds the weeks equal afterwards.
    """
    if undo is not None:
        if do_it or outside or periods:
            raise click.UsageError("--undo ID stands alone: the repair knows its weeks.")
        with console.status(f"Undoing repair {undo}"):
            places = steps.undo_legacy_repair(opened(), undo)
        say(f"Undone on the legacy: {', '.join(places)}. They differ as before.", "yellow")
        return
    if outside:
        if periods:
            raise click.UsageError("--outside stands alone: these rows are in no week.")
        _outside(do_it=do_it, confirmed=confirm_outside)
        return
    if not periods:
        raise click.UsageError("Name a quarter, and its weeks where not all are meant: FY25-Q2 W05.")
    weeks = parse_weeks(periods)
    with console.status(f"{'Repairing' if do_it else 'Looking at'} {len(weeks)} weeks of the legacy"):
        done = steps.repair_legacy(opened(), weeks, dry_run=not do_it, confirmed_deletes=confirmed)
    differing = [one for one in done if one.differences.rows]
    for one in differing:
        console.print(differences_table(one.week.key, one.differences, side="legacy"))
    if not differing:
        say(f"{len(done)} of {len(done)} weeks of the legacy are as the base has them.", "green")
    elif do_it:
        ids = [one.repair_id for one in differing]
        say(
            f"Repaired: the legacy has these weeks as the base has them (repairs {', '.join(map(str, ids))})."
            f" `migration-assets repair-legacy --undo {ids[0]}` takes all of it back.",
            "green",
        )
    else:
        names = " ".join(one.week.name for one in differing)
        quarters = {one.week.quarter for one in differing}
        again = f"{differing[0].week.quarter.key} {names}" if len(quarters) == 1 else shlex.join(periods)
        say(f"Nothing was changed. `migration-assets repair-legacy {again} --apply` mends it.", "yellow")


def _outside(*, do_it: bool, confirmed: int) -> None:
    with console.status("Looking for rows of the legacy that are in no week"):
        done = steps.repair_outside(opened(), dry_run=not do_it, confirmed=confirmed)
    for one in done.found:
        console.print(str(one))
    if not done.found:
        say("Every row of the legacy is in a week.", "green")
    elif done.repair_id is not None:
        undo = f"`migration-assets repair-legacy --undo {done.repair_id}` puts them back."
        say(f"Taken off the legacy (repair {done.repair_id}). {undo}", "green")
    else:
        say("Nothing was changed. `migration-assets repair-legacy --outside --apply` takes them off.", "yellow")
