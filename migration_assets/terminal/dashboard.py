"""The live dashboard: the weeks as a grid, what goes on, what is wrong, the lag, and what the cuts cost."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.styled import Styled
from rich.table import Table
from rich.text import Text

from migration_assets.domain.stream_thresholds import Severity
from migration_assets.ledger.slices import SliceRecord
from migration_assets.terminal.figures import count, duration, milliseconds, sparkline
from migration_assets.terminal.marks import Seen, differs, failed, mark_of
from migration_assets.terminal.status import EMPTY, failure_text, proof_text
from migration_assets.terminal.stream_line import costs_line, stream_line
from migration_assets.terminal.week_grid import week_grid
from migration_assets.watch.overview import Overview, quantile

_WRONG, _AT_WORK, _ALERTS, _CUTS = 4, 6, 4, 5
# Lines that everything but the grid's rows and the lists needs: the cuts' table may fall off.
_FURNITURE = 12
_ENDLESS = 1000


@dataclass(frozen=True)
class Lost:
    """Why the base cannot be asked, and since when by `time.monotonic`."""

    why: str
    since: float


@dataclass(frozen=True)
class Dashboard:
    """One frame; renders to the width and height it is given. While the base is away the last look stays."""

    max_age: timedelta
    lag_warning: float
    lag_critical: float
    overview: Overview | None = None
    lost: Lost | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.lost is not None:
            yield self._banner(self.lost)
        if self.overview is None:
            if self.lost is None:
                yield Text("Asking the base …", "dim")
            return
        page = Group(*self._page(self.overview, options))
        yield page if self.lost is None else Styled(page, "dim")

    def _banner(self, lost: Lost) -> Text:
        away = duration(time.monotonic() - lost.since)
        shown = "" if self.overview is None else f"; below is what it said at {self.overview.now:%H:%M:%S} UTC"
        return Text(
            f"The base cannot be asked for {away} now: {lost.why}. Trying on{shown}.", "bold white on color(160)"
        )

    def _page(self, overview: Overview, options: ConsoleOptions) -> Iterator[RenderableType]:
        width, plain = options.max_width, options.ascii_only
        head = Table.grid(expand=True)
        head.add_column(no_wrap=True, overflow="ellipsis")
        head.add_column(justify="right", no_wrap=True)
        head.add_row(Text(overview.relation, "bold"), Text(f"{overview.now:%Y-%m-%d %H:%M:%S} UTC", "dim"))
        yield head
        yield stream_line(overview, plain=plain)
        if not overview.slices:
            yield Text(EMPTY)
            return
        seen = Seen.of(overview, self.max_age)
        wrong = [record for record in overview.slices if differs(record) or failed(record)]
        working = [record for record in overview.slices if record.working]
        # What is cut off at the bottom of a low terminal is the least that one has to know.
        lists = _lines(wrong, _WRONG) + 2 * _lines(overview.alerts, _ALERTS) + _lines(working, _AT_WORK)
        rows = max(2, (options.height or _ENDLESS) - _FURNITURE - lists)
        yield _rule("weeks", plain=plain)
        yield from week_grid(overview, seen, width=width, rows=rows, plain=plain)
        if wrong:
            yield _rule("wrong", plain=plain, style="bold red")
            yield from _wrong(wrong, seen, plain=plain)
        if overview.alerts:
            yield _rule("open alerts", plain=plain, style="bold red")
            yield from _alerts(overview)
        if working:
            yield _rule("at work", plain=plain)
            yield _at_work(overview, working, plain=plain)
        yield _rule("lag", plain=plain)
        yield from self._lag(overview, width, plain=plain)
        yield _rule("cuts", plain=plain)
        yield costs_line(overview.costs)
        if overview.cuts:
            yield _cuts(overview, _CUTS)

    def _lag(self, overview: Overview, width: int, *, plain: bool) -> Iterator[Text]:
        lags = overview.lags[-max(10, width - 2) :]
        known = sorted(lag for _, lag in lags if lag is not None)
        if not lags:
            yield Text(
                "No samples: nobody watches the stream (sensor change_stream_monitor); nothing is measured here.", "dim"
            )
            return
        yield sparkline((lag for _, lag in lags), warning=self.lag_warning, critical=self.lag_critical, plain=plain)
        first, last = lags[0][0], lags[-1][0]
        span = f"{count(len(lags), 'look')} in {duration((last - first).total_seconds())}"
        if not known:
            yield Text(f"{span}; the lag was not known at any of them", "yellow")
            return
        latest = "not known" if lags[-1][1] is None else duration(lags[-1][1])
        ago = duration((overview.now - last).total_seconds())
        text = f"p50 {duration(quantile(known, 0.5))}, max {duration(known[-1])}; {span}; the last, {ago} ago: "
        yield Text.assemble(text, (latest, "bold"))


def _rule(title: str, *, plain: bool, style: str = "dim") -> Rule:
    return Rule(Text(title, style), align="left", style="dim", characters="-" if plain else "─")


def _lines(listed: Sequence[object], most: int) -> int:
    """How many lines a section needs, with its heading and a line for what is left out."""
    return 0 if not listed else 1 + min(len(listed), most) + (len(listed) > most)


def _wrong(wrong: Sequence[SliceRecord], seen: Seen, *, plain: bool) -> Iterator[Text]:
    for record in wrong[:_WRONG]:
        mark = mark_of(record, seen)
        what = proof_text(record, seen) if differs(record) else failure_text(record)
        line = Text.assemble((mark.plain if plain else mark.symbol, mark.style), f" {record.week.key} ", what)
        line.no_wrap, line.overflow = True, "ellipsis"
        yield line
    if len(wrong) > _WRONG:
        yield Text(f"and {len(wrong) - _WRONG} more: `migration-assets status`", "dim")


def _alerts(overview: Overview) -> Iterator[RenderableType]:
    ordered = sorted(overview.alerts, key=lambda alert: alert.severity is not Severity.CRITICAL)
    table = Table.grid(padding=(0, 1, 0, 0))
    for alert in ordered[:_ALERTS]:
        critical = alert.severity is Severity.CRITICAL
        style = "bold red" if critical else "yellow"
        age = duration((overview.now - alert.since).total_seconds())
        name = f"{alert.severity.upper()} {alert.code.replace('_', ' ')} for {age}: "
        text = Text.assemble((name, style), alert.what, (f"\nNext: {alert.next_step}.", "dim"))
        table.add_row(Text("X" if critical else "!", style), text)
    yield table
    if len(ordered) > _ALERTS:
        yield Text(f"and {len(ordered) - _ALERTS} more: `migration-assets stream status`", "dim")


def _at_work(overview: Overview, working: list[SliceRecord], *, plain: bool) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(5):
        table.add_column(no_wrap=True)
    for record in working[:_AT_WORK]:
        now = overview.activity.get(record.week)
        if now is None:
            table.add_row(record.week.key, "at work", "", "", "")
            continue
        total, guessed = _expected(overview, record)
        part = min(1.0, now.rows / total) if total else 0.0
        bar = ProgressBar(total=1.0, completed=part, width=16) if now.rows and total and not plain else ""
        share = f"{'~' if guessed else ''}{part:.0%}" if now.rows and total else ""
        rate = f", {now.rows / now.seconds:,.0f}/s" if now.rows and now.seconds else ""
        rows = f"{now.rows:,} rows{rate}" if now.rows else ""
        table.add_row(
            record.week.key, Text(now.phase, "bold blue"), bar, f"{share} {rows}".strip(), duration(now.seconds)
        )
    if len(working) > _AT_WORK:
        table.add_row(Text(f"and {len(working) - _AT_WORK} more", "dim"), "", "", "", "")
    return table


def _expected(overview: Overview, record: SliceRecord) -> tuple[int, bool]:
    """Rows that the week should have, and whether that is a guess from the other weeks of its quarter; 0: no idea."""
    if record.legacy is not None:
        return record.legacy.rows, False
    known = [
        other.legacy.rows for other in overview.slices if other.week.quarter == record.week.quarter and other.legacy
    ]
    return (sum(known) // len(known) if known else 0), True


def _cuts(overview: Overview, shown: int) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    names = ("at", "for", "tries", "writers held", "reached in", "stream held")
    for name in names:
        table.add_column(justify="left" if name in {"at", "for"} else "right", no_wrap=True, overflow="ellipsis")
    table.add_row(*(Text(name, "dim") for name in names))
    for cut in reversed(overview.cuts[-shown:]):
        stood = "stands" if cut.apply_held_ms is None else milliseconds(cut.apply_held_ms)
        table.add_row(
            f"{cut.taken_at:%H:%M:%S}", Text(cut.purpose), str(cut.tries),
            Text(milliseconds(cut.writers_held_ms), "bold"),
            milliseconds(cut.reached_ms), stood,
        )  # fmt: skip
    return table
