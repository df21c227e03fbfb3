"""Figures as people read them, how a slice looks, and a bar over many weeks.

A slice has a mark that is read without colours, a colour that is seen from afar, and a word. Without a terminal the bar
is a line for each week that is done.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.states import Freshness, LastValidation, SliceState
from migration_assets.ledger.slices import SliceRecord
from migration_assets.proof.sign_offs import last_validation
from migration_assets.watch.overview import Overview

_BARS = "▁▂▃▄▅▆▇█"
_PLAIN_BARS = "_.-=+*#%"
_LOWEST_TOP = 0.1
_SECOND, _MINUTE, _HOUR, _DAY = 1.0, 60.0, 3600.0, 86_400.0


def megabytes_per_second(record: SliceRecord) -> float:
    """Table bytes (10^6) a second of the slice's last copy; 0.0 where there was none."""
    seconds = record.copied.seconds.get("total", 0.0) if record.copied else 0.0
    return bytes_of(record) / 1e6 / seconds if seconds else 0.0


def bytes_of(record: SliceRecord) -> int:
    """What the newest copy takes in the base without its indexes; 0 where there was none."""
    return record.copied.table_bytes if record.copied else 0


def gigabytes(size: int) -> str:
    """A size in decimal units: `1.2 GB`, `340.0 MB`, `12 B`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size} B"


def duration(seconds: float) -> str:
    """A length of time in one unit: `21 ms`, `3.2 s`, `45 s`, `12 min`, `3.5 h`, `4 d`."""
    seconds = max(0.0, seconds)
    if seconds < _SECOND:
        return f"{seconds * 1000:.0f} ms"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s" if seconds < 10 * _SECOND else f"{int(seconds)} s"
    if seconds < _HOUR:
        return f"{int(seconds // _MINUTE)} min"
    if seconds < 2 * _DAY:
        return f"{seconds / _HOUR:.1f} h"
    return f"{int(seconds // _DAY)} d"


def milliseconds(value: float) -> str:
    """`5.7 ms` below 100 ms; longer times as `duration` writes them."""
    return f"{value:.1f} ms" if value < 100 else duration(value / 1000)  # noqa: PLR2004


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 change`, `1,204 changes`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def sparkline(values: Iterable[float | None], *, warning: float, critical: float, plain: bool = False) -> Text:
    """One bar for each value, from zero to the greatest, coloured by the thresholds; a dot for an unknown value."""
    drawn = list(values)
    # The scale has a minimum, so that a few milliseconds are not drawn as high as an outage.
    highest = max([value for value in drawn if value is not None], default=0.0)
    top = max(highest, min(_LOWEST_TOP, warning))
    bars = _PLAIN_BARS if plain else _BARS
    line = Text()
    for value in drawn:
        if value is None:
            line.append("?" if plain else "·", "dim")
            continue
        style = "bold red" if value > critical else "yellow" if value > warning else "green"
        line.append(bars[min(len(bars) - 1, int(value / top * len(bars)))], style)
    return line


@dataclass(frozen=True)
class Mark:
    """How a state is shown: `plain` replaces `symbol` without Unicode; `style` is for text, `cell` for a grid cell."""

    symbol: str
    plain: str
    style: str
    cell: str
    word: str


STATES: Mapping[SliceState, Mark] = {
    SliceState.ABSENT: Mark("·", ".", "dim", "bright_black", "absent"),
    SliceState.COPIED: Mark("○", "c", "yellow", "black on color(179)", "copied"),
    SliceState.STREAMING: Mark("≈", "s", "cyan", "black on color(74)", "streaming"),
    SliceState.VALIDATED: Mark("✓", "v", "green", "bold black on color(78)", "validated"),
    SliceState.SIGNED_OFF: Mark("★", "S", "bold green", "bold white on color(28)", "signed off"),
    SliceState.ARCHIVED: Mark("▤", "A", "blue", "bold white on color(61)", "archived"),
    SliceState.RETIRED: Mark("-", "R", "magenta", "white on color(96)", "retired"),
}
WORKING = Mark("»", ">", "bold blue", "bold white on color(27)", "at work")
STALE = Mark("~", "~", "yellow", "bold black on color(220)", "proof too old")
DIFFERS = Mark("✗", "X", "bold red", "bold white on color(160)", "DIFFERS")
FAILED = Mark("!", "!", "bold red", "bold white on color(160)", "failed")


@dataclass(frozen=True)
class Seen:
    """What is needed to say how fresh a proof is. Without `now`, ages are not shown and no proof is too old."""

    now: datetime | None = None
    max_age: timedelta = timedelta(days=1)
    changes: Mapping[str, int] = field(default_factory=dict[str, int])
    altered: Mapping[FiscalWeek, str] = field(default_factory=dict[FiscalWeek, str])

    @classmethod
    def of(cls, overview: Overview, max_age: timedelta) -> Self:
        """From an overview. While the base is in charge nothing can be validated, so no proof is too old."""
        now = None if overview.cutover.in_charge == "base" else overview.now
        return cls(now, max_age, overview.changes, overview.altered)

    def last(self, record: SliceRecord) -> LastValidation:
        """The slice's last validation, with the changes that the stream applied since."""
        return last_validation(record, self.changes.get(record.leaf), self.altered.get(record.week))

    def freshness(self, record: SliceRecord) -> Freshness:
        """How fresh the last validation is; NEVER if there was none."""
        last = self.last(record)
        return Freshness.NEVER if last.at is None else last.freshness(now=self.now or last.at, max_age=self.max_age)


def differs(record: SliceRecord) -> bool:
    """Whether the last comparison found a difference that nobody has repaired since."""
    if record.state is SliceState.ABSENT:
        return False
    if record.validated is not None:
        return Seen().freshness(record) is Freshness.FAILED
    return (record.verified is not None and not record.verified.equal) or record.legacy != record.base


def failed(record: SliceRecord) -> bool:
    """Whether the newest try at it went wrong, whatever it holds."""
    return not record.working and record.attempt is not None and record.attempt.outcome not in {"succeeded", "running"}


def mark_of(record: SliceRecord, seen: Seen) -> Mark:
    """The most important fact about a slice: it differs, is being worked on, failed, is stale; otherwise its state."""
    if differs(record):
        return DIFFERS
    if record.working:
        return WORKING
    if failed(record):
        return FAILED
    proven = record.state in {SliceState.VALIDATED, SliceState.SIGNED_OFF}
    return STALE if proven and seen.freshness(record) is not Freshness.FRESH else STATES[record.state]


class WeekByWeek:
    """A progress bar over many weeks with a line for each finished week; without a terminal only the lines.

    A context manager: call `at` when the work on a week begins, and `done` with its result.
    """

    def __init__(self, console: Console, what: str, total: int) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn(what),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def at(self, week: FiscalWeek) -> None:
        """Show that the work on this week begins."""
        self._progress.update(self._task, description=week.key)

    def done(self, line: Text | str, style: str = "") -> None:
        """Print the line of a finished week, and advance the bar."""
        console = self._progress.console
        # In a file, each week is one line, however long.
        console.print(Text(line, style) if isinstance(line, str) else line, soft_wrap=not console.is_terminal)
        self._progress.advance(self._task)
