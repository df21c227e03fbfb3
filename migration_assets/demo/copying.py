"""The demo's copies: every week of a quarter is a Dagster run in a worker process, with a line of progress."""

from collections.abc import Mapping, MutableMapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from migration_assets.definitions import defs
from migration_assets.defs.runs import RunOutcome, quiet_worker, run_alone, run_asset, run_sensor, run_week
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.ledger.slices import read_slice
from migration_assets.postgres.activity import current_activity
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import Connected
from migration_assets.quarters.legacy_weeks import estimate_rows
from migration_assets.runtime import Migration
from migration_assets.terminal.figures import bytes_of, gigabytes, megabytes_per_second


class WeekLines:
    """A context manager with a progress line per week; `refresh` reads the progress, `finish` ends a week's line."""

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
            # Without a terminal each week has one line, when it is done.
            disable=not console.is_terminal,
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
        """Show the progress of the copies that run now."""
        for week, activity in current_activity(self._connected()).items():
            task = self._tasks[week]
            self._progress.start_task(task)
            if activity.rows:
                self._progress.update(task, completed=activity.rows)
            self._progress.update(task, description=activity.phase)

    def finish(self, week: FiscalWeek, error: str) -> None:
        """End the week's line with the result in the ledger, or with the first line of the error."""
        record = read_slice(self._connected(), self._migration.spec.relation, week)
        task = self._tasks[week]
        if error or record is None or record.base is None:
            text = f"FAILED: {error.splitlines()[0] if error else 'nothing in the ledger'}"
            self._progress.update(task, description=text)
        else:
            rows = record.base.rows
            text = f"equal, {gigabytes(bytes_of(record))}, {megabytes_per_second(record):.0f} MB/s"
            self._progress.start_task(task)
            self._progress.update(task, completed=rows, total=rows or 1, description=text)
            if not rows:
                self._progress.update(task, completed=1)
        self._progress.stop_task(task)
        if not self._console.is_terminal:
            self._console.print(f"{week.key}: {text}", markup=False, highlight=False)


def prepare(log_folder: Path) -> None:
    """Initialize a new worker: its output goes to a file."""
    quiet_worker(log_folder / "workers.log")


def ready() -> None:
    """Do nothing; a worker that has answered has loaded Dagster."""


def materialize(asset: str, quarter: FiscalQuarter | None, config: Mapping[str, Any] | None = None) -> RunOutcome:
    """Materialize one asset in one run."""
    return run_asset(defs, asset, quarter, config)


def run_job(job: str, week: FiscalWeek, config: Mapping[str, Mapping[str, Any]] | None = None) -> RunOutcome:
    """Run a job for one week."""
    return run_week(defs, job, week, config)


def run_plain(job: str, config: Mapping[str, Mapping[str, Any]] | None = None) -> RunOutcome:
    """Run a job without partitions."""
    return run_alone(defs, job, config)


def tick(sensor: str) -> list[tuple[str, RunOutcome]]:
    """Evaluate a sensor once and execute the runs that it requests."""
    return run_sensor(defs, sensor)


def copy_weeks(
    console: Console,
    migration: Migration,
    quarter: FiscalQuarter,
    pool: ProcessPoolExecutor,
    failures: MutableMapping[str, str],
) -> None:
    """Copy the quarter's 13 weeks; `failures` receives the error of each week that failed, by its key."""
    weeks = migration.calendar.weeks_of(quarter)
    copies = migration.settings.weeks_at_once
    console.print(
        f"Copying the 13 weeks of {quarter.key}, {copies} at a time; each is a run of the Dagster job migrate_quarter."
    )
    with WeekLines(console, migration, weeks) as lines:
        running: dict[Future[RunOutcome], FiscalWeek] = {
            pool.submit(run_job, "migrate_quarter", week): week for week in weeks
        }
        while running:
            done, _ = wait_for(running, timeout=0.2, return_when="FIRST_COMPLETED")
            lines.refresh()
            for future in done:
                week = running.pop(future)
                error = _error_of(future)
                if error:
                    failures[week.key] = error
                lines.finish(week, error)


def _error_of(future: Future[RunOutcome]) -> str:
    crash = future.exception()
    if crash is not None:
        return f"the worker died: {crash}"
    outcome = future.result()
    return "" if outcome.success else outcome.error
