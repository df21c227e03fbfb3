"""The demo's copies: every week of a quarter as a run of its own, with a line that shows how far it is."""

from collections.abc import MutableMapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for

from rich.console import Console

from migration_assets.defs.runs import RunOutcome
from migration_assets.demo.progress import WeekLines
from migration_assets.demo.worker import run_job
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.runtime import Migration


def copy_weeks(
    console: Console,
    migration: Migration,
    quarter: FiscalQuarter,
    pool: ProcessPoolExecutor,
    failures: MutableMapping[str, str],
) -> None:
    """Copy the quarter's 13 weeks; `failures` gets the error of each that failed."""
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
