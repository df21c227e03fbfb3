"""A bar over many weeks, with a line for each that is done; without a terminal the lines alone."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from migration_assets.domain.fiscal_calendar import FiscalWeek


class WeekByWeek:
    """A context manager; tell it `at` which week the work is, and what came of it with `done`."""

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
        """The work on this week begins."""
        self._progress.update(self._task, description=week.key)

    def done(self, line: Text | str, style: str = "") -> None:
        """One more week has its line."""
        console = self._progress.console
        # In a file a week is a line, however long.
        console.print(Text(line, style) if isinstance(line, str) else line, soft_wrap=not console.is_terminal)
        self._progress.advance(self._task)
