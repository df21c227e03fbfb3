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

_OF_ONE_WEEK = (ArchiveError, ConfirmationError, RestoreError, RetirementError, SliceBusyError, SliceStateError)
_PERIODS = click.argument("periods", nargs=-1, required=True, metavar="QUARTER [WEEK | WEEK-WEEK]...")


def print_answer(console: Console, asked: Asked) -> None:
    """Print the rows as a table in which NULL differs from an empty text."""
    answer = asked.answer
    table = Table(show_header=True, header_style="bold")
    for column in answer.columns:
        table.add_column(Text(column), overflow="fold")
    for row in answer.rows:
        table.add_row(*(Text("NULL", style="dim") if value is None else Text(str(value)) for value in row))
    console.print(table)
    rows = f"{len(answer.rows):,} rows" + ("; there are more: use --limit or --to FILE" if answer.truncated else "")
    console.print(f"{rows}; {_sources(asked)}")


def print_plan(console: Console, asked: Asked) -> None:
    """Print DuckDB's plan with the files and partitions that it read."""
    for row in asked.answer.rows:
        console.print(Text(str(row[0])), soft_wrap=True)
    console.print(_sources(asked))


def _sources(asked: Asked) -> str:
    return f"{asked.hot_weeks} weeks in the base, {asked.cold_weeks} only in Parquet; {asked.seconds:,.2f} s"


@click.command()
@_PERIODS
@click.option("--reread", is_flag=True, help="Only read the files again and compare them with the ledger.")
def archive(periods: tuple[str, ...], reread: bool) -> None:
    """Write signed-off weeks to Parquet and prove them with DuckDB. Exit code 2 if a week fails."""
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
@click.option("--apply", "do_it", is_flag=True, help="Retire the weeks; without this nothing is changed.")
@confirm
def retire(periods: tuple[str, ...], do_it: bool, code: str) -> None:
    """Retire archived weeks from the base: detach them, keep them in quarantine, drop them when that is over.

    Without --apply it shows what stands in the way of each week (exit code 1 if something does), and the codes of the
    weeks that may leave or be dropped. --apply asks for these codes: --confirm CODE,CODE for several weeks.
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
        code = typed(in_one_line(codes), "retire them") if codes else ""
    if do_it:
        _week_by_week("retired", weeks, leave)
        refresh_catalogue(migration)
        return
    _week_by_week("looked at", weeks, look)
    say("Nothing was changed: --apply retires them.", "yellow")
    if codes:
        say(f"Needed for that: --confirm {in_one_line(codes)}.", fold=False)
    if hindered:
        sys.exit(1)


@click.command()
@_PERIODS
@click.option(
    "--drill", is_flag=True, help="Only load them into a scratch table, compare and drop it; the base is not changed."
)
def restore(periods: tuple[str, ...], drill: bool) -> None:
    """Bring retired weeks back from quarantine or from their archive, proven equal; or test that this would work."""
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
@click.option(
    "--by", required=True, help="The person who states that this base has replaced the one that wrote the archive."
)
def adopt_archive_of(by: str) -> None:
    """Take over an archive after the base was moved, upgraded or failed over; the former base must not write to it."""
    done = adopt_archive(opened(), by)
    if not done.ledgers:
        say(f"{done.where} belongs to this base already.", "green")
        return
    say(
        f"{done.where} belongs to this base from now on. It takes over what these wrote, as far as it knows it:",
        "green",
    )
    for ledger in done.ledgers:
        say(f"  {ledger}")


@click.command()
@click.argument("statement")
@click.option(
    "--limit", default=100, show_default=True, type=click.IntRange(1, 10_000_000), help="The most rows to show."
)
@click.option("--explain", is_flag=True, help="Run the query and show which files and partitions were read.")
@click.option(
    "--to",
    "target",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the whole answer to a .parquet or .csv file.",
)
def query(statement: str, limit: int, explain: bool, target: Path | None) -> None:
    """Answer a SELECT over all rows, those in the base and those in Parquet, as one table.

    The table has its own name and columns, and the columns fiscal_quarter and fiscal_week. The SQL is DuckDB's.
    """
    if target is not None and explain:
        raise click.UsageError("--to writes rows and --explain shows a plan: give only one of them.")
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
    """Work on each week, also after one has failed; the first error is raised at the end."""
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
