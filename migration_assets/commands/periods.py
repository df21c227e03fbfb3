"""Quarters and weeks as a person types them: `FY25-Q2`, `W05`, `FY25-Q2|W05`, `W03-W07`."""

import re
from collections.abc import Sequence

import click

from migration_assets.domain.deletions import parse_confirmations
from migration_assets.domain.errors import CalendarError
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalQuarter, FiscalWeek

_RANGE = re.compile(r"(W\d+)-(W\d+)")
_HOW = "Write a quarter and its weeks: FY25-Q2 W05, FY25-Q2 W03-W07, 'FY25-Q2|W05', or the quarter alone for all 13"


def _confirmations(_context: click.Context, _option: click.Parameter, texts: Sequence[str]) -> dict[FiscalWeek, int]:
    return parse_confirmations(texts)


confirm_deletes = click.option(
    "--confirm-deletes",
    "confirmed",
    multiple=True,
    metavar="WEEK=ROWS",
    callback=_confirmations,
    help="Of this week so many rows may be deleted, as the refusal says: 'FY25-Q2|W05=70'. Repeatable.",
)


def parse_quarter(text: str) -> FiscalQuarter:
    """A quarter, in any case of letters; CalendarError else."""
    return FiscalQuarter.parse(text.strip().upper())


def parse_weeks(words: Sequence[str]) -> tuple[FiscalWeek, ...]:
    """The weeks that are meant, each once, in the order in which they are named.

    A quarter that no week follows means all of its weeks; weeks belong to the quarter before them.

    Raises:
        CalendarError: Says what cannot be read and how it is written.
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
