"""The commands `archive`, `adopt-archive`, `retire`, `restore` and `query`."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from migration_assets.archive.archiving import Archived, adopt_archive, archive_week, reread_archive
from migration_assets.archive.querying import Asked, ask, export, refresh_catalogue
from migration_assets.domain.confirmation import ConfirmationError, GivenCode
from migration_assets.domain.errors import (
    ArchiveError,
    MigrationError,
    RestoreError,
    RetirementError,
    SliceBusyError,
    SliceStateError,
)
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.retirement.restoring import drill_week
from migration_assets.retirement.retiring import bring_back, retire_week, told
from migration_assets.terminal.arguments import asks, confirm, in_one_line, opened, parse_weeks, typed
from migration_assets.terminal.figures import WeekByWeek
from migration_assets.terminal.output import console, say


def print_answer(console: Console, asked: Asked) -> None:
    """The rows as a table; NULL is told from an empty text."""
    answer = asked.answer
    table = Table(show_header=True, header_style="bold")
    for column in answer.columns:
        table.add_column(Text(column), overflow="fold")
    for row in answer.rows:
        table.add_row(*(Text("NULL", style="dim") if value is None else Text(str(value)) for value in row))
    console.print(table)
    rows = f"{len(answer.rows):,} rows" + (", and there are more: --limit, or --to FILE" if answer.truncated else "")
    console.print(f"{rows}; {_places(asked)}")


def print_plan(console: Console, asked: Asked) -> None:
    """What DuckDB read where, as it draws it."""
    for row in asked.answer.rows:
        console.print(Text(str(row[0])), soft_wrap=True)
    console.print(_places(asked))


def _places(asked: Asked) -> str:
    return f"{asked.hot_weeks} weeks in the base, {asked.cold_weeks} in Parquet alone; {asked.seconds:,.2f} s"


_OF_ONE_WEEK = (ArchiveError, ConfirmationError, RestoreError, RetirementError, SliceBusyError, SliceStateError)
_PERIODS = click.argument("periods", nargs=-1, required=True, metavar="QUARTER [WEEK | WEEK-WEEK]...")


@click.command()
@_PERIODS
@click.option("--reread", is_flag=True, help="Only read the files again and compare them with the ledger.")
def archive(periods: tuple[str, ...], reread: bool) -> None:
    """Write signed-off weeks to Parquet and prove them with DuckDB; exit code 1 where one is not equal."""
    weeks = parse_weeks(periods)
    migration = opened()

    def one(week: FiscalWeek) -> str:
        done = reread_archive(migration, week) if reread else archive_week(migration, week)
        return _archived(week, done)

    _week_by_week("read again" if reread else "archived", weeks, one)
    if not reread:
        say(f"Views over all archived weeks: {refresh_catalogue(migration)}")


@click.command()
@_PERIODS
@click.option("--apply", "do_it", is_flag=True, help="Let them leave; without this nothing is changed.")
@confirm
def retire(periods: tuple[str, ...], do_it: bool, code: str) -> None:
    """Let archived weeks leave the base: detached, kept in quarantine, dropped when that is over.

    Without --apply it shows what stands in the way of each, exit code 1 where something does; and the codes of those
    that may leave, or be dropped, which --apply asks for: --confirm CODE,CODE with those of several weeks.
    """
    weeks = parse_weeks(periods)
    migration = opened()
    codes: list[GivenCode] = []
    hindered = 0

    def look(week: FiscalWeek) -> str:
        nonlocal hindered
        done = retire_week(migration, week)
        hindered += bool(done.obstacles)
        codes.extend([done.confirmation] if done.confirmation is not None else [])
        return f"{week.key} {told(done)}"

    def leave(week: FiscalWeek) -> str:
        return f"{week.key} {told(retire_week(migration, week, dry_run=False, confirm=code))}"

    if do_it and not code and asks() and not migration.settings.auto_retire:
        _week_by_week("looked at", weeks, look)
        code = typed(in_one_line(codes), "let them leave") if codes else ""
    if do_it:
        _week_by_week("retired", weeks, leave)
        refresh_catalogue(migration)
        return
    _week_by_week("looked at", weeks, look)
    say("Nothing was changed: --apply lets them leave.", "yellow")
    if codes:
        say(f"It asks for the code: --confirm {in_one_line(codes)}.", fold=False)
    if hindered:
        sys.exit(1)


@click.command()
@_PERIODS
@click.option("--drill", is_flag=True, help="Into a scratch table, compare, drop; the base stays as it is.")
def restore(periods: tuple[str, ...], drill: bool) -> None:
    """Bring retired weeks back, from quarantine or from their archive, proven equal; or try whether that would work."""
    weeks = parse_weeks(periods)
    migration = opened()

    def one(week: FiscalWeek) -> str:
        if drill:
            tried = drill_week(migration, week)
            return f"{week.key} {tried.fingerprint}, restored, compared and dropped in {tried.seconds:,.1f} s"
        back = bring_back(migration, week)
        return f"{week.key} {back.fingerprint}, back from {back.source} in {back.seconds:,.1f} s"

    _week_by_week("drilled" if drill else "restored", weeks, one)
    if not drill:
        refresh_catalogue(migration)


@click.command("adopt-archive")
@click.option("--by", required=True, help="Who says that this base has taken the place of the one that wrote it.")
def adopt_archive_of(by: str) -> None:
    """After the base was moved, upgraded or failed over: it writes the archive from now on, and the other must not."""
    done = adopt_archive(opened(), by)
    if not done.ledgers:
        say(f"{done.where} is this base's own already.", "green")
        return
    say(f"{done.where} is this base's from now on; what these wrote there is its own, as far as it knows it:", "green")
    for ledger in done.ledgers:
        say(f"  {ledger}")


@click.command()
@click.argument("statement")
@click.option(
    "--limit", default=100, show_default=True, type=click.IntRange(1, 10_000_000), help="Rows that are shown at most."
)
@click.option("--explain", is_flag=True, help="Run it, and show which files and partitions were read.")
@click.option(
    "--to", "target", type=click.Path(dir_okay=False, path_type=Path), help="Whole answer as .parquet or .csv."
)
def query(statement: str, limit: int, explain: bool, target: Path | None) -> None:
    """Answer a SELECT over all rows, those in the base and those in Parquet, as one table.

    It has the table's own name and columns, besides fiscal_quarter and fiscal_week. DuckDB's SQL.
    """
    if target is not None and explain:
        raise click.UsageError("--to writes rows, --explain shows a plan: one of the two.")
    migration = opened()
    if target is not None:
        with console.status(f"Writing {target}"):
            done = export(migration, statement, target.absolute())
        say(f"{done.rows:,} rows, {done.bytes / 1e6:,.2f} MB in {done.seconds:,.1f} s: {done.path}", "green")
        return
    with console.status("Asking"):
        asked = ask(migration, statement, limit=limit, explain=explain)
    if explain:
        print_plan(console, asked)
    else:
        print_answer(console, asked)


def _archived(week: FiscalWeek, done: Archived) -> str:
    return (
        f"{week.key} {done.manifest.rows:,} rows, {done.record.bytes / 1e6:,.2f} MB,"
        f" checksum {done.record.portable.checksum} in both engines"
    )


def _week_by_week(word: str, weeks: Sequence[FiscalWeek], one: Callable[[FiscalWeek], str]) -> None:
    """Each week, whatever happens to the others; the first error is raised at the end."""
    errors: list[MigrationError] = []
    with WeekByWeek(console, word, len(weeks)) as progress:
        for week in weeks:
            progress.at(week)
            try:
                progress.done(one(week))
            except _OF_ONE_WEEK as error:
                errors.append(error)
                progress.done(f"{week.key} {error.what}", "bold red")
    say(f"{len(weeks) - len(errors)} of {len(weeks)} weeks {word}.", "green" if not errors else "bold red")
    if errors:
        raise errors[0]
