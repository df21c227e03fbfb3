"""What every command begins with: quarters and weeks as a person types them, confirmation codes, and the migration."""

import re
import sys
from collections.abc import Sequence
from dataclasses import replace

import click

from migration_assets.domain.confirmation import CodeOfSeen, GivenCode, parse_confirmations
from migration_assets.domain.errors import CalendarError
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalQuarter, FiscalWeek
from migration_assets.runtime import Migration, open_migration
from migration_assets.settings import load_settings
from migration_assets.terminal.output import say

_RANGE = re.compile(r"(W\d+)-(W\d+)")
_HOW = "Write a quarter and its weeks: FY25-Q2 W05, FY25-Q2 W03-W07, 'FY25-Q2|W05', or the quarter alone for all 13"
confirm = click.option(
    "--confirm",
    "code",
    default="",
    metavar="CODE",
    help="The code that the dry run printed; valid once, for 15 minutes.",
)


def _confirmations(_context: click.Context, _option: click.Parameter, texts: Sequence[str]) -> dict[FiscalWeek, int]:
    return parse_confirmations(texts)


confirm_deletes = click.option(
    "--confirm-deletes",
    "confirmed",
    multiple=True,
    metavar="WEEK=ROWS",
    callback=_confirmations,
    help="How many rows of a week may be deleted, as the refusal states: 'FY25-Q2|W05=70'. Repeatable.",
)


def opened() -> Migration:
    """The migration that the settings describe; no connection is made yet.

    Raises:
        SettingsError: A setting is missing or wrong.
        EmbeddedServerError: The embedded servers are to be used and were never started.
    """
    return open_migration(load_settings())


def parse_quarter(text: str) -> FiscalQuarter:
    """A quarter as typed, in upper or lower case.

    Raises:
        CalendarError: The text is not a quarter.
    """
    return FiscalQuarter.parse(text.strip().upper())


def parse_weeks(words: Sequence[str]) -> tuple[FiscalWeek, ...]:
    """The weeks that were named, each once, in the order in which they were named.

    A quarter that no week follows stands for all its weeks. Weeks belong to the quarter before them.

    Raises:
        CalendarError: A word cannot be read; the error says which, and how to write it.
    """
    found: dict[FiscalWeek, None] = {}
    quarter: FiscalQuarter | None = None
    alone = False
    for word in words:
        text = word.strip().upper()
        before, bar, weeks = text.partition("|")
        if text.startswith("FY"):
            if quarter is not None and alone:
                found.update(dict.fromkeys(FiscalCalendar.weeks_of(quarter)))
            quarter, alone = FiscalQuarter.parse(before), not bar
            if bar:
                found.update(dict.fromkeys(_weeks(quarter, weeks)))
        elif quarter is None:
            raise CalendarError(f"{word!r} names no quarter", next_step=_HOW)
        else:
            alone = False
            found.update(dict.fromkeys(_weeks(quarter, text)))
    if quarter is not None and alone:
        found.update(dict.fromkeys(FiscalCalendar.weeks_of(quarter)))
    return tuple(found)


def _weeks(quarter: FiscalQuarter, text: str) -> Sequence[FiscalWeek]:
    match = _RANGE.fullmatch(text)
    if match is None:
        return [_week(quarter, text)]
    first, last = _week(quarter, match.group(1)), _week(quarter, match.group(2))
    if last < first:
        raise CalendarError(f"{text} runs backwards", next_step=f"Write {last.name}-{first.name}")
    return FiscalCalendar.weeks_of(quarter)[first.number - 1 : last.number]


def _week(quarter: FiscalQuarter, name: str) -> FiscalWeek:
    try:
        return FiscalWeek.parse(f"{quarter.key}|{name}")
    except CalendarError:
        raise CalendarError(f"{name!r} is not a week", where=quarter.key, next_step=_HOW) from None


def asks() -> bool:
    """Whether a person can be asked: input and output are a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def in_one_line(given: Sequence[GivenCode]) -> str:
    """Several codes in one text to copy, without blanks, with the earliest end of their validity."""
    first = min(given, key=lambda one: one.until)
    return str(replace(first, code=",".join(one.code for one in given)))


def typed(given: GivenCode | CodeOfSeen | str, what: str) -> str:
    """Show the code and what it is for, and ask the person to type it."""
    say(f"To {what}, type {given}.", "yellow", fold=False)
    return str(click.prompt("Code", default="", show_default=False))
