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
# Errors that concern one week only: the other weeks are still validated.
_OF_ONE_WEEK = (SliceStateError, SliceBusyError, CutError)


def differences_table(where: str, differences: Differences, *, side: Side = "base") -> RenderableType:
    """Counts by kind, then a sample of rows with the columns that differ; `side` is the side that is wrong."""
    title = Text(where, "bold").append(f": {differences}", "not bold")
    if not differences.sample:
        return title
    # All rows of a table have the same key columns.
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
    """The result of one week's comparison at a cut, in one line."""
    equal = legacy == base and not found
    line = Text(f"{week.key} ", "bold").append(
        "equal" if equal else "DIFFERS", "not bold green" if equal else "bold red"
    )
    rows = count(base.rows, "row") if legacy.rows == base.rows else f"{legacy.rows:,} and {base.rows:,} rows"
    return line.append(f"  {rows}{f', {found}' if found else ''}{cut_text(cut)}", "not bold default")


def cut_text(cut: CutRecord) -> str:
    """The cut's marker and cost: `  (marker 12, writers held 5.7 ms)`."""
    tries = f" in {count(cut.tries, 'try', 'tries')}" if cut.tries > 1 else ""
    return f"  (marker {cut.marker}, writers held {milliseconds(cut.writers_held_ms)}{tries})"


def reconciled_page(done: Reconciled) -> RenderableType:
    """The comparisons of the 13 weeks at one cut, and the keys that are in several rows."""
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
    parts.extend(Text(f"Key {twin.key} is in {len(twin.control_values)} rows", "red") for twin in done.duplicates)
    return Group(*parts)


def missing_list(quarter: str, lacking: Sequence[Missing]) -> RenderableType:
    """What a sign-off lacks, in the order of the work; lines with the same next step are grouped."""
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


@click.command()
@click.argument("periods", nargs=-1, required=True, metavar="QUARTER [WEEK | WEEK-WEEK]...")
@click.option(
    "--reconcile", is_flag=True, help="Compare whole quarters, each at one cut, and look for keys in several rows."
)
def validate(periods: tuple[str, ...], reconcile: bool) -> None:
    """Compare weeks at a cut while the applications go on writing; exit code 1 on a mismatch.

    FY25-Q2 alone means all of its weeks; FY25-Q2 W05, FY25-Q2 W03-W07 and 'FY25-Q2|W05' name some.
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
    """Validate the weeks and print the results; whether none of them differs.

    Raises:
        MigrationError: A week could not be validated, and none of the others differs.
    """
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
                progress.done(f"{week.key} not validated: {error.what}", "yellow")
            else:
                progress.done(week_line(week, done.legacy, done.base, done.cut))
    for week, error in mismatches:
        if error.differences is not None:
            console.print(differences_table(week.key, error.differences))
    equal = len(weeks) - len(mismatches) - len(errors)
    say(f"{equal} of {len(weeks)} weeks are equal.", "green" if equal == len(weeks) else "bold red")
    if mismatches:
        periods = " ".join(week.name for week, _ in mismatches)
        say(f"Next: `migration-assets repair {mismatches[0][0].quarter.key} {periods}` shows what differs.")
    elif errors:
        raise errors[0]
    return not mismatches


@click.command()
@click.argument("periods", nargs=-1, metavar="QUARTER WEEK...")
@click.option("--apply", "do_it", is_flag=True, help="Repair it; without this nothing is changed.")
@click.option("--undo", type=int, metavar="ID", help="Undo repair ID.")
@confirm_deletes
def repair(periods: tuple[str, ...], do_it: bool, undo: int | None, confirmed: dict[FiscalWeek, int]) -> None:
    """Show what differs; with --apply repair it and validate again. Shows keys and columns, never values."""
    if undo is not None:
        if do_it or periods:
            raise click.UsageError("--undo ID takes nothing else: the ledger knows the repair's week.")
        _undo(opened(), undo)
        return
    if not periods:
        raise click.UsageError("Name a quarter and its weeks: FY25-Q2 W05.")
    weeks = parse_weeks(periods)
    if len(periods) == 1 and "|" not in periods[0]:
        # A quarter alone is more often a mistake than meant, and each week pauses the stream.
        raise click.UsageError(f"Name the weeks: {periods[0]} W05, or {periods[0]} W01-W13 for all.")
    migration = opened()
    found = sum(_repair(migration, week, do_it=do_it, confirmed=confirmed) for week in weeks)
    if do_it and found:
        # A repair compares with what it read itself; the validation reads both sides again, at a cut of its own.
        if not _validate(migration, weeks):
            sys.exit(1)
    elif found:
        say(f"Nothing was changed. `migration-assets repair {shlex.join(periods)} --apply` repairs it.", "yellow")


def _repair(migration: Migration, week: FiscalWeek, *, do_it: bool, confirmed: dict[FiscalWeek, int]) -> int:
    """Show or repair the week's differences; the number of rows that differed."""
    with console.status(f"{'Repairing' if do_it else 'Looking at'} {week.key}"):
        done = repair_week(migration, week, dry_run=not do_it, confirmed_deletes=confirmed)
    if not done.differences.rows:
        console.print(week_line(week, done.legacy, done.base, done.cut))
        return 0
    console.print(differences_table(week.key, done.differences))
    extra = done.differences.extra
    limit = StreamLimits.of(migration.settings).deletions
    if not do_it and limit.asks(extra, legacy=done.legacy.rows, base=done.base.rows):
        say(f"{extra:,} rows would be deleted: --apply also asks for --confirm-deletes '{week.key}={extra}'.", "yellow")
    if do_it:
        say(f"Repaired (repair {done.repair_id}); `migration-assets repair --undo {done.repair_id}` undoes it.")
    return done.differences.rows


def _undo(migration: Migration, repair_id: int) -> None:
    with console.status(f"Undoing repair {repair_id}"):
        done = undo_repair(migration, repair_id)
    console.print(differences_table(done.week.key, done.differences))
    say(
        f"Repair {repair_id} of {done.week.key} was undone: the week differs from the legacy as before the repair.",
        "yellow",
    )


@click.command("sign-off")
@click.argument("quarter")
@click.option("--approved-by", required=True, metavar="NAME", help="The person who approves.")
@click.option("--note", default="", help="A remark of that person.")
def sign_off(quarter: str, approved_by: str, note: str) -> None:
    """Sign a quarter off if the ledger proves it; otherwise list what is missing, with exit code 1."""
    wanted = parse_quarter(quarter)
    migration = opened()
    try:
        with console.status(f"Reading the proofs of {wanted.key}"):
            signed = sign_off_quarter(migration, wanted, approved_by, note)
    except SignOffRefusedError as error:
        console.print(missing_list(wanted.key, error.missing))
        say(
            f"Next: `migration-assets validate {wanted.key}`, then `migration-assets validate {wanted.key}"
            " --reconcile`, then sign-off again."
        )
        sys.exit(1)
    say(f"{wanted.key} is signed off by {signed.approved_by} (sign-off {signed.id}).", "bold green")
    say(f"SHA-256 of the evidence: {signed.sha256}")


@click.command("repair-legacy")
@click.argument("periods", nargs=-1, metavar="QUARTER [WEEK | WEEK-WEEK]...")
@click.option("--apply", "do_it", is_flag=True, help="Repair it; without this nothing is changed.")
@click.option("--outside", is_flag=True, help="Instead of weeks: the legacy's rows at times that are in no week.")
@confirm_deletes
@click.option("--confirm-outside", type=int, default=0, metavar="ROWS", help="How many rows --outside may delete.")
@click.option("--undo", type=int, metavar="ID", help="Undo repair ID on the legacy.")
def repair_legacy(
    periods: tuple[str, ...],
    do_it: bool,
    outside: bool,
    undo: int | None,
    confirmed: dict[FiscalWeek, int],
    confirm_outside: int,
) -> None:
    """While the base is in charge: show which rows of the legacy differ; with --apply make them equal to the base's.

    Shows keys and columns, never values. A rollback finds the weeks equal afterwards.
    """
    if undo is not None:
        if do_it or outside or periods:
            raise click.UsageError("--undo ID takes nothing else: the ledger knows the repair's weeks.")
        with console.status(f"Undoing repair {undo}"):
            places = steps.undo_legacy_repair(opened(), undo)
        say(f"Undone on the legacy: {', '.join(places)}. They differ as before.", "yellow")
        return
    if outside:
        if periods:
            raise click.UsageError("--outside takes no weeks: these rows are in no week.")
        _outside(do_it=do_it, confirmed=confirm_outside)
        return
    if not periods:
        raise click.UsageError("Name a quarter, and weeks unless all are meant: FY25-Q2 W05.")
    weeks = parse_weeks(periods)
    with console.status(f"{'Repairing' if do_it else 'Looking at'} {len(weeks)} weeks of the legacy"):
        done = steps.repair_legacy(opened(), weeks, dry_run=not do_it, confirmed_deletes=confirmed)
    differing = [one for one in done if one.differences.rows]
    for one in differing:
        console.print(differences_table(one.week.key, one.differences, side="legacy"))
    if not differing:
        say(f"{len(done)} of {len(done)} weeks of the legacy equal the base.", "green")
    elif do_it:
        ids = [one.repair_id for one in differing]
        say(
            f"Repaired: these weeks of the legacy equal the base (repairs {', '.join(map(str, ids))})."
            f" `migration-assets repair-legacy --undo {ids[0]}` undoes all of it.",
            "green",
        )
    else:
        names = " ".join(one.week.name for one in differing)
        quarters = {one.week.quarter for one in differing}
        again = f"{differing[0].week.quarter.key} {names}" if len(quarters) == 1 else shlex.join(periods)
        say(f"Nothing was changed. `migration-assets repair-legacy {again} --apply` repairs it.", "yellow")


def _outside(*, do_it: bool, confirmed: int) -> None:
    with console.status("Looking for rows of the legacy that are in no week"):
        done = steps.repair_outside(opened(), dry_run=not do_it, confirmed=confirmed)
    for one in done.found:
        console.print(str(one))
    if not done.found:
        say("Every row of the legacy is in a week.", "green")
    elif done.repair_id is not None:
        undo = f"`migration-assets repair-legacy --undo {done.repair_id}` puts them back."
        say(f"Deleted from the legacy (repair {done.repair_id}). {undo}", "green")
    else:
        say("Nothing was changed. `migration-assets repair-legacy --outside --apply` deletes them.", "yellow")
