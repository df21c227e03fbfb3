"""The command `status`, and its live dashboard with `--watch`.

The dashboard shows the weeks as a grid (a row per quarter, a cell per week, then a legend), what goes on, what is
wrong, the lag, and what the cuts cost. It looks at the base repeatedly and goes on when the base goes away and returns.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import groupby

import click
import psycopg
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.styled import Styled
from rich.table import Table
from rich.text import Text

from migration_assets.domain.errors import EmbeddedServerError
from migration_assets.domain.fiscal_calendar import WEEK_NAMES, FiscalQuarter
from migration_assets.domain.samples import Severity
from migration_assets.domain.states import SliceState
from migration_assets.ledger.own_objects import ledger_version
from migration_assets.ledger.schema import require_ledger
from migration_assets.ledger.slices import SliceRecord
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import LOOK
from migration_assets.runtime import open_migration
from migration_assets.settings import MigrationSettings
from migration_assets.terminal.arguments import opened
from migration_assets.terminal.figures import (
    DIFFERS,
    FAILED,
    STALE,
    STATES,
    WORKING,
    Seen,
    count,
    differs,
    duration,
    failed,
    mark_of,
    milliseconds,
    sparkline,
)
from migration_assets.terminal.output import console, say
from migration_assets.terminal.status import (
    EMPTY,
    costs_line,
    failure_text,
    proof_text,
    states_summary,
    status_page,
    stream_line,
)
from migration_assets.watch.overview import Overview, quantile, read_overview

_FULL_FIGURES_FROM = 96
_WRONG, _AT_WORK, _ALERTS, _CUTS = 4, 6, 4, 5
# Lines that the page needs besides the grid's rows and the lists. The table of cuts may be cut off at the bottom.
_FURNITURE = 12
_ENDLESS = 1000
# For a frozen base, which neither answers nor closes the connection.
_PATIENCE_SECONDS = 5.0
_REDRAW_SECONDS = 0.25


def week_grid(overview: Overview, seen: Seen, *, width: int, rows: int, plain: bool) -> Iterator[RenderableType]:
    """The newest `rows` quarters as a grid, the states of the others in one line, and a legend of the marks in use."""
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
    # As columns, so that a line break never separates a mark from its word.
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


@dataclass(frozen=True)
class Lost:
    """Why the base does not answer, and since when by `time.monotonic`."""

    why: str
    since: float


@dataclass(frozen=True)
class Dashboard:
    """One frame, rendered to the given width and height. It keeps the last look while the base does not answer."""

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
                yield Text("Reading the ledger in the base …", "dim")
            return
        page = Group(*self._page(self.overview, options))
        yield page if self.lost is None else Styled(page, "dim")

    def _banner(self, lost: Lost) -> Text:
        away = duration(time.monotonic() - lost.since)
        shown = "" if self.overview is None else f"; the page below is from {self.overview.now:%H:%M:%S} UTC"
        return Text(
            f"The base has not answered for {away}: {lost.why}. Trying again{shown}.", "bold white on color(160)"
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
        # A low terminal cuts off the bottom of the page, so the least important part is there.
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
            yield Text("No samples: the sensor change_stream_monitor does not run; nothing is measured here.", "dim")
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
    """The lines that a section needs, with its heading and a line for what is left out."""
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
    """The rows that the week should have (0: unknown), and whether they are guessed from the quarter's other weeks."""
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
        held = "paused" if cut.apply_held_ms is None else milliseconds(cut.apply_held_ms)
        table.add_row(
            f"{cut.taken_at:%H:%M:%S}", Text(cut.purpose), str(cut.tries),
            Text(milliseconds(cut.writers_held_ms), "bold"),
            milliseconds(cut.reached_ms), held,
        )  # fmt: skip
    return table


@dataclass(frozen=True)
class _Look:
    """The result of one look: an overview, or the reason why there is none. A bug ends the watch."""

    overview: Overview | None = None
    error: str = ""
    bug: BaseException | None = None


class _Looker:
    """Looks at the base in a thread of its own, so that the page is redrawn while the base does not answer."""

    def __init__(self, settings: MigrationSettings, every: float) -> None:
        self._settings = settings
        self._every = every
        self._base: psycopg.Connection[tuple[object, ...]] | None = None
        self.looks: queue.SimpleQueue[_Look] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="looker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to stop, without waiting: a base that does not answer must not block the exit."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.looks.put(_Look(self._look()))
            except (psycopg.OperationalError, psycopg.InterfaceError, EmbeddedServerError) as error:
                self._disconnect()
                self.looks.put(_Look(error=told(error)))
            except BaseException as error:  # noqa: BLE001 - raised again in the main thread
                self.looks.put(_Look(bug=error))
                break
            self._stop.wait(self._every)
        self._disconnect()

    def _look(self) -> Overview:
        # Opened again for each look: embedded servers may come back on another port.
        migration = open_migration(self._settings)
        if self._base is None:
            self._base = migration.databases.connect("base", "status", LOOK)
            require_ledger(self._base)
        return read_overview(self._base, migration.spec)

    def _disconnect(self) -> None:
        if self._base is not None:
            self._base.close()
        self._base = None


def watch_base(
    console: Console, settings: MigrationSettings, *, every: float, until: Callable[[Dashboard], bool] | None = None
) -> None:
    """Show the dashboard until Ctrl-C; without a terminal, print each look.

    Args:
        console: Where the dashboard is shown.
        settings: The settings of the migration.
        every: Seconds between two looks.
        until: Called after each frame; the dashboard ends when it returns true.

    Raises:
        MigrationError: Waiting cannot help, for example since the ledger is newer than this program.
    """
    page = Dashboard(
        max_age=timedelta(hours=settings.validation_max_age_hours),
        lag_warning=settings.lag_warning_seconds,
        lag_critical=settings.lag_critical_seconds,
    )
    looker = _Looker(settings, every)
    looker.start()
    try:
        with ExitStack() as stack:
            live: Live | None = None
            if console.is_terminal:
                live = stack.enter_context(Live(page, console=console, screen=True, auto_refresh=False))
            heard = time.monotonic()
            while True:
                page, news = _next(looker, page, timeout=min(every, _REDRAW_SECONDS))
                now = time.monotonic()
                heard = now if news else heard
                if not news and now - heard > _PATIENCE_SECONDS + every and page.lost is None:
                    page = replace(page, lost=Lost("it does not answer", heard))
                if live is not None:
                    live.update(page, refresh=True)
                elif news:
                    console.print(page)
                if until is not None and until(page):
                    return
    except KeyboardInterrupt:
        return
    finally:
        looker.stop()


def _next(looker: _Looker, page: Dashboard, *, timeout: float) -> tuple[Dashboard, bool]:
    """The page with the newest look, and whether there was a new look."""
    try:
        look = looker.looks.get(timeout=timeout)
    except queue.Empty:
        return page, False
    if look.bug is not None:
        raise look.bug
    if look.overview is not None:
        return replace(page, overview=look.overview, lost=None), True
    since = page.lost.since if page.lost is not None else time.monotonic()
    return replace(page, lost=Lost(look.error, since)), True


@click.command()
@click.option("--watch", is_flag=True, help="Show a live dashboard until Ctrl-C.")
@click.option(
    "--every", default=1.0, show_default=True, type=click.FloatRange(0.1, 3600), help="Seconds between two looks."
)
def status(watch: bool, every: float) -> None:
    """Show the weeks with their states and proofs, the stream, and what its cuts cost."""
    migration = opened()
    if watch:
        watch_base(console, migration.settings, every=every)
        return
    with migration.databases.session("base", "status") as base:
        if not ledger_version(base):
            say("The base has no ledger yet: nothing was migrated to it. Begin with `migration-assets preflight`; then"
                " materialize quarter_partitions in the UI.")  # fmt: skip
            return
        require_ledger(base)
        overview = read_overview(base, migration.spec)
    console.print(status_page(overview, timedelta(hours=migration.settings.validation_max_age_hours)))
