"""The weeks as a grid: a row a quarter, a cell a week, coloured and marked; then what the marks mean."""

from collections.abc import Iterator
from itertools import groupby

from rich.columns import Columns
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from migration_assets.domain.fiscal_calendar import WEEK_NAMES, FiscalQuarter
from migration_assets.domain.slice_state import SliceState
from migration_assets.ledger.slices import SliceRecord
from migration_assets.terminal.figures import count
from migration_assets.terminal.marks import DIFFERS, FAILED, STALE, STATES, WORKING, Seen, mark_of
from migration_assets.terminal.status import states_summary
from migration_assets.watch.overview import Overview

_FULL_FIGURES_FROM = 96


def week_grid(overview: Overview, seen: Seen, *, width: int, rows: int, plain: bool) -> Iterator[RenderableType]:
    """The newest `rows` quarters, the others as a sum of states, and a legend of the marks that are there."""
    quarters = [(quarter, list(group)) for quarter, group in groupby(overview.slices, lambda r: r.week.quarter)]
    hidden, shown = quarters[: max(0, len(quarters) - rows)], quarters[-rows:]
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    for _ in WEEK_NAMES:
        grid.add_column(no_wrap=True, justify="center", width=3)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    grid.add_row("", *(Text(name, "dim") for name in WEEK_NAMES), Text(" rows", "dim"))
    for quarter, records in shown:
        grid.add_row(*_row(quarter, records, seen, plain=plain, full=width >= _FULL_FIGURES_FROM))
    yield grid
    if hidden:
        rest = states_summary([record for _, records in hidden for record in records])
        yield Text.assemble((f"and {count(len(hidden), 'earlier quarter')}: ", "dim"), rest)
    marks = {mark_of(record, seen) for record in overview.slices}
    # Columns, so that no mark is parted from its word.
    legend = [
        Text.assemble((f" {mark.plain if plain else mark.symbol} ", mark.cell), " ", mark.word)
        for mark in (*STATES.values(), STALE, WORKING, FAILED, DIFFERS)
        if mark in marks
    ]
    yield Columns(legend, padding=(0, 2))


def _row(
    quarter: FiscalQuarter, records: list[SliceRecord], seen: Seen, *, plain: bool, full: bool
) -> Iterator[RenderableType]:
    yield Text(quarter.key, "bold")
    by_name = {record.week.name: record for record in records}
    for name in WEEK_NAMES:
        record = by_name.get(name)
        if record is None:
            yield ""
        else:
            mark = mark_of(record, seen)
            yield Text(f" {mark.plain if plain else mark.symbol} ", mark.cell)
    rows = sum(r.base.rows for r in records if r.base and r.state is not SliceState.ABSENT)
    yield Text(f" {rows:,}" if full else f" {_short(rows)}", "dim")


def _short(rows: int) -> str:
    for unit, factor in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if rows >= factor:
            return f"{rows / factor:.1f}{unit}"
    return str(rows)
