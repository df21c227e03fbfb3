"""One progress line a week, fed by what the base says of the sessions that work."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.slices import read_slice
from migration_assets.postgres.activity import current_activity
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import Connected
from migration_assets.quarters.legacy_weeks import estimate_rows
from migration_assets.runtime import Migration
from migration_assets.terminal.figures import gigabytes, megabytes_per_second


class WeekLines:
    """A context manager; `refresh` looks at the base, `finish` settles a week's line."""

    def __init__(self, console: Console, migration: Migration, weeks: tuple[FiscalWeek, ...]) -> None:
        self._console = console
        self._migration = migration
        self._weeks = weeks
        self._session = migration.databases.session("base", "demo progress")
        self._base: Connected | None = None
        self._tasks: dict[FiscalWeek, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.fields[week]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:>9,.0f} rows"),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
        )

    def __enter__(self) -> Self:
        spec, calendar = self._migration.spec, self._migration.calendar
        with self._migration.databases.session("legacy", "demo progress") as legacy:
            kind = require_table(legacy, spec.table, "legacy").control_kind(spec.control_column)
            for week in self._weeks:
                expected = estimate_rows(legacy, spec, calendar.bound_values(week, kind))
                self._tasks[week] = self._progress.add_task("waiting", total=expected, start=False, week=week.key)
        self._base = self._session.__enter__()
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._session.__exit__(kind, error, traceback)

    def _connected(self) -> Connected:
        if self._base is None:
            raise RuntimeError("not entered")
        return self._base

    def refresh(self) -> None:
        """Show what is going on now."""
        for week, activity in current_activity(self._connected()).items():
            task = self._tasks[week]
            self._progress.start_task(task)
            if activity.rows:
                self._progress.update(task, completed=activity.rows)
            self._progress.update(task, description=activity.phase)

    def finish(self, week: FiscalWeek, error: str) -> None:
        """Settle the week's line with what the ledger says."""
        record = read_slice(self._connected(), self._migration.spec.relation, week)
        task = self._tasks[week]
        if error or record is None or record.base is None:
            text = f"FAILED: {error.splitlines()[0] if error else 'nothing in the ledger'}"
            self._progress.update(task, description=text)
        else:
            rows = record.base.rows
            text = f"equal, {gigabytes(record.table_bytes or 0)}, {megabytes_per_second(record):.0f} MB/s"
            self._progress.start_task(task)
            self._progress.update(task, completed=rows, total=rows or 1, description=text)
            if not rows:
                self._progress.update(task, completed=1)
        self._progress.stop_task(task)
        if not self._console.is_terminal:
            self._console.print(f"{week.key}: {text}", markup=False, highlight=False)
