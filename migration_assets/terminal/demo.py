"""The demo: a made-up legacy moves into the base under live traffic, through the same Dagster runs as in the UI."""

import contextlib
import json
import multiprocessing
import os
import time
from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from migration_assets.definitions import defs
from migration_assets.defs.runs import RunOutcome, run_asset
from migration_assets.domain.errors import MigrationError, SliceMismatchError
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.embedded.bookings import create_bookings
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.embedded.traffic import start_traffic_process, stop_traffic_process
from migration_assets.embedded.traffic_stats import TrafficPlan, TrafficStats
from migration_assets.postgres.ledger import SliceRecord, read_slices
from migration_assets.postgres.preflight_records import latest_preflight
from migration_assets.runtime import Migration, dagster_environment, open_migration
from migration_assets.settings import MigrationSettings
from migration_assets.steps.weeks import verify_week
from migration_assets.terminal.demo_progress import WeekLines
from migration_assets.terminal.demo_worker import migrate, prepare
from migration_assets.terminal.findings import print_findings
from migration_assets.terminal.status import elapsed, gigabytes, megabytes_per_second, status_tables
from migration_assets.terminal.ui import size_pool

QUARTER = FiscalQuarter(2025, 2)


@dataclass
class _Story:
    """What was measured while the demo went on."""

    rows: int
    seed: int
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    failures: dict[str, str] = field(default_factory=dict[str, str])
    reread_differs: list[str] = field(default_factory=list[str])
    traffic: TrafficStats | None = None

    @contextlib.contextmanager
    def timed(self, phase: str) -> Generator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[phase] = round(time.monotonic() - start, 3)


def run_demo(
    console: Console, settings: MigrationSettings, servers: EmbeddedServers, *, rows: int, seed: int, rate: float
) -> bool:
    """Make a legacy, migrate FY25-Q2, prove it, write `demo/summary.json` below `var`.

    Only ever touches the embedded servers, whose three databases it makes anew.

    Returns:
        Whether every week arrived and was proven.

    Raises:
        MigrationError: A step before the copies failed; says what to do.
    """
    story = _Story(rows, seed)
    folder = settings.var / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    with story.timed("servers"), console.status("Starting PostgreSQL 16 (legacy) and 18 (base)"):
        servers.start()
        _refuse_while_ui_runs(servers)
        servers.recreate_database("legacy", "legacy")
        servers.recreate_database("base", "base")
        servers.recreate_database("base", "dagster")
    _make_legacy(console, servers, story)
    os.environ.update(dagster_environment(settings))
    migration = open_migration(settings)

    traffic = start_traffic_process(
        servers.legacy_url(), TrafficPlan(rate=rate, seed=seed), stats_file=folder / "traffic.json"
    )
    try:
        console.print(f"Live traffic writes to the legacy, {rate:g} transactions a second, until the end.")
        _prepare(console, migration, story, folder)
        _copy_weeks(console, migration, story, folder)
    finally:
        story.traffic = stop_traffic_process(traffic)
    _read_again(console, migration, story)
    with migration.databases.session("base", "demo") as base:
        records = read_slices(base, migration.spec.relation, QUARTER)
        console.print(status_tables(records, {}))
    summary = _summary(story, records, settings)
    path = folder / "summary.json"
    path.write_text(json.dumps(summary, indent=2) + "\n")
    _farewell(console, summary, path)
    return bool(summary["success"])


def _refuse_while_ui_runs(servers: EmbeddedServers) -> None:
    with psycopg.connect(servers.base_url("postgres")) as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = 'dagster'").fetchone()
    if row and row[0]:
        raise MigrationError(
            f"Dagster is running on the demo's data ({row[0]} connections)",
            where="demo",
            state_left="nothing was changed",
            next_step="stop `make ui` (Ctrl-C), then run the demo again; it starts from a fresh legacy",
        )


def _make_legacy(console: Console, servers: EmbeddedServers, story: _Story) -> None:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.percentage:>3.0f} %"),
               TimeElapsedColumn())  # fmt: skip
    with story.timed("legacy"), Progress(*columns, console=console) as progress:
        task = progress.add_task(f"Making {story.rows:,} bookings in one unpartitioned table", total=story.rows or 1)
        with psycopg.connect(servers.legacy_url()) as connection:
            create_bookings(
                connection,
                rows=story.rows,
                seed=story.seed,
                on_progress=lambda done, _: progress.update(task, completed=done),
            )
        progress.update(task, completed=story.rows or 1)


def _prepare(console: Console, migration: Migration, story: _Story, folder: Path) -> None:
    with story.timed("preflight and partitions"):
        with console.status("Preflight, then the 13 places of FY25-Q2"), _one_worker(folder) as pool:
            with dg.DagsterInstance.get() as instance:
                size_pool(instance, migration.settings)
            for asset, quarter in (("preflight", None), ("quarter_partitions", QUARTER)):
                outcome = pool.submit(_run_asset, asset, quarter).result()
                if not outcome.success:
                    raise MigrationError(outcome.error, where=f"asset {asset}", next_step="see var/demo/workers.log")
        with migration.databases.session("base", "demo") as base:
            latest = latest_preflight(base, migration.spec.relation)
    print_findings(console, latest[1] if latest else [], everything=False)


def _run_asset(asset: str, quarter: FiscalQuarter | None) -> RunOutcome:
    return run_asset(defs, asset, quarter)


def _one_worker(folder: Path) -> ProcessPoolExecutor:
    return _workers(1, folder)


def _workers(count: int, folder: Path) -> ProcessPoolExecutor:
    # Spawned: a forked child would share Dagster's connections with us.
    return ProcessPoolExecutor(
        count, mp_context=multiprocessing.get_context("spawn"), initializer=prepare, initargs=(folder,)
    )


def _copy_weeks(console: Console, migration: Migration, story: _Story, folder: Path) -> None:
    weeks = migration.calendar.weeks_of(QUARTER)
    copies = migration.settings.parallel_copies
    console.print(f"Copying 13 weeks, {copies} at a time; each is a run of the Dagster job migrate_quarter.")
    with (
        WeekLines(console, migration, weeks) as lines,
        _workers(copies, folder) as pool,
        story.timed("snapshot"),
    ):
        running: dict[Future[RunOutcome], FiscalWeek] = {pool.submit(migrate, week): week for week in weeks}
        while running:
            done, _ = wait_for(running, timeout=0.2, return_when="FIRST_COMPLETED")
            lines.refresh()
            for future in done:
                week = running.pop(future)
                error = _error_of(future)
                if error:
                    story.failures[week.key] = error
                lines.finish(week, error)


def _error_of(future: Future[RunOutcome]) -> str:
    crash = future.exception()
    if crash is not None:
        return f"the worker died: {crash}"
    outcome = future.result()
    return "" if outcome.success else outcome.error


def _read_again(console: Console, migration: Migration, story: _Story) -> None:
    """What is committed is read once more, through the root, by a session that copied nothing."""
    with story.timed("read again"), console.status("Reading every week in the base again"):
        for week in migration.calendar.weeks_of(QUARTER):
            if week.key in story.failures:
                continue
            try:
                verify_week(migration, week)
            except SliceMismatchError as error:
                story.reread_differs.append(f"{week.key}: {error.what}")


def _summary(story: _Story, records: list[SliceRecord], settings: MigrationSettings) -> dict[str, Any]:
    copied = [record for record in records if record.base is not None and record.legacy is not None]
    table_bytes = sum(record.table_bytes or 0 for record in copied)
    seconds = story.seconds["snapshot"]
    return {
        "success": not story.failures and not story.reread_differs and len(copied) == len(records),
        "quarter": QUARTER.key,
        "legacy_rows_at_start": story.rows,
        "seed": story.seed,
        "parallel_copies": settings.parallel_copies,
        "seconds": story.seconds,
        "rows": sum(record.base.rows for record in copied if record.base),
        "table_bytes": table_bytes,
        "mb_per_second": round(table_bytes / 1e6 / seconds, 2),
        "gb_per_hour": round(table_bytes / 1e9 / seconds * 3600, 2),
        "gb_per_hour_target": settings.target_gb_per_hour,
        "failures": story.failures,
        "reread_differs": story.reread_differs,
        "traffic": json.loads(story.traffic.to_json()) if story.traffic else None,
        "weeks": [_week(record) for record in copied],
    }


def _week(record: SliceRecord) -> dict[str, Any]:
    legacy, base = record.legacy, record.base
    if legacy is None or base is None:
        raise LookupError(record.week.key)
    return {
        "week": record.week.key,
        "rows": base.rows,
        "table_bytes": record.table_bytes,
        "index_bytes": record.index_bytes,
        "wire_bytes": record.wire_bytes,
        "legacy_fingerprint": {"rows": legacy.rows, "checksum": legacy.checksum},
        "base_fingerprint": {"rows": base.rows, "checksum": base.checksum},
        "equal": legacy == base,
        "read_again_equal": record.verified_equal,
        "snapshot_lsn": record.snapshot_lsn,
        "seconds": {name: round(value, 3) for name, value in record.seconds.items()},
        "seconds_elapsed": round(elapsed(record.seconds), 3),
        "mb_per_second": round(megabytes_per_second(record), 2),
        "gb_per_hour": round(megabytes_per_second(record) * 3.6, 2),
    }


def _farewell(console: Console, summary: dict[str, Any], path: Path) -> None:
    rate, target = summary["gb_per_hour"], summary["gb_per_hour_target"]
    console.print(
        f"{summary['rows']:,} rows, {gigabytes(summary['table_bytes'])} in {summary['seconds']['snapshot']:.1f} s:"
        f" {summary['mb_per_second']} MB/s, {rate} GB/hour ({rate / target:.1f} times the target of {target})."
    )
    for week, error in summary["failures"].items():
        console.print(f"{week} FAILED: {error}", style="red", markup=False)
    for line in summary["reread_differs"]:
        console.print(line, style="red", markup=False)
    if summary["success"]:
        console.print("Every week is proven equal, and was read again after its commit.", style="green")
    console.print(
        f"Figures: {path}\nNext: `make ui` shows these runs; the servers stay up (`migration-assets servers stop`)."
    )
