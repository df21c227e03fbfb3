"""The demo: a made-up legacy moves into the base under live traffic, through the same Dagster runs as in the UI.

The quarter is copied (here and in `copying`), then put under CDC and proven (`cdc`). An old quarter is archived
(`archive`), the others follow, and the applications move (`cutover`). `summary` holds what was measured.
"""

import contextlib
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path

import dagster as dg
import psycopg
import yaml
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from migration_assets.demo.archive import (
    NEXT_WEEK,
    STILL_WRITTEN,
    bring_in,
    clear_archive,
    tell_archive,
)
from migration_assets.demo.cdc import applied_changes, compare_everything, drain, tell_cdc
from migration_assets.demo.copying import copy_weeks, materialize, prepare, ready
from migration_assets.demo.cutover import (
    CutoverTale,
    bring_in_rest,
    compare_rest,
    decommission,
    hook_command,
)
from migration_assets.demo.summary import (
    Chapter,
    Story,
    print_farewell,
    summarize,
)
from migration_assets.domain.errors import MigrationError
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.embedded.bookings import create_bookings
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.embedded.switch import Switch, point
from migration_assets.embedded.traffic import TrafficPlan, start_traffic_process, stop_traffic_process
from migration_assets.evidence.writing import verify_evidence, write_packs
from migration_assets.ledger.preflights import latest_preflight
from migration_assets.ledger.proofs import read_cuts
from migration_assets.ledger.slices import read_slices
from migration_assets.runtime import Migration, dagster_environment, open_migration, project_folder
from migration_assets.settings import PREFIX, MigrationSettings, load_settings
from migration_assets.terminal.readiness import print_findings
from migration_assets.terminal.status import status_page
from migration_assets.terminal.ui import size_pool, take_ui_lock
from migration_assets.watch.overview import read_overview

QUARTER = FiscalQuarter(2025, 2)
DEMO_POLICY = {
    "retention_quarters": "3",
    "quarantine_days": "0",
    "rollback_window_days": "0",
    "legacy_quiet_days": "0",
}
"""The legacy has one year of bookings: its oldest quarter must be due, and no waiting period may delay the demo."""


def run_demo(console: Console, settings: MigrationSettings, servers: EmbeddedServers, story: Story) -> bool:
    """Make a legacy, migrate it up to the chapter that is asked for, and write `demo/summary.json` below `var`.

    Touches only the embedded servers, whose three databases it recreates, and the archive of the former base.

    Args:
        console: Where the progress is printed.
        settings: For the folder `var`; the databases are those of the embedded servers.
        servers: The embedded servers.
        story: Rows, rate of the traffic, and the last chapter; receives what was measured.

    Returns:
        Whether every part succeeded, and both sides were equal row by row at the end.

    Raises:
        MigrationError: A step before the copies failed; the error says what to do.
    """
    folder = settings.var / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(os.fdopen(take_ui_lock(settings.var))):
        _serve(console, servers, story)
        os.environ.update(dagster_environment(settings))
        os.environ["DAGSTER_HOME"] = str(_home_without_compute_logs(folder))
        policy = DEMO_POLICY | {"cutover_hook_command": hook_command(folder / "switch")}
        os.environ.update({f"{PREFIX}{name}".upper(): value for name, value in policy.items()})
        settings = load_settings()
        migration = open_migration(settings)
        with console.status("Creating three empty databases"):
            clear_archive(migration)
            servers.recreate_database("legacy", "legacy")
            servers.recreate_database("base", "base")
            servers.recreate_database("base", "dagster")
        with _workers(settings.weeks_at_once, folder) as pool:
            _make_legacy(console, servers, story)
            plan = TrafficPlan(rate=story.rate, seed=story.seed)
            traffic = start_traffic_process(servers.legacy_url(), plan, stats_file=folder / "traffic.json")
            try:
                console.print(
                    f"Live traffic writes to the legacy, {story.rate:g} transactions a second, until the end."
                )
                _prepare(console, migration, story, pool)
                with story.timed("snapshot"):
                    copy_weeks(console, migration, QUARTER, pool, story.failures)
                if not story.failures:
                    with story.timed("cdc"):
                        tell_cdc(console, migration, QUARTER, pool, story.cdc)
                if story.cdc.signed and Chapter.ARCHIVED in story.chapters:
                    with story.timed("second quarter"):
                        bring_in(console, migration, pool, story.archive)
            finally:
                story.traffic = stop_traffic_process(traffic)
            if story.archive.signed:
                _archive_and_cut_over(console, migration, servers, story, pool)
            return _tell(console, migration, story, pool, folder / "summary.json")


def _archive_and_cut_over(
    console: Console, migration: Migration, servers: EmbeddedServers, story: Story, pool: ProcessPoolExecutor
) -> None:
    """Tell the later chapters. The traffic no longer writes to the old quarter, but also to the one that begins."""
    plan = TrafficPlan(rate=story.rate, seed=story.seed, first=STILL_WRITTEN, as_of=NEXT_WEEK)
    folder = migration.settings.var / "demo"
    point(folder / "switch", "legacy")
    switch = Switch({"legacy": servers.legacy_url(), "base": servers.base_url()}, folder / "switch")
    stats_file = folder / "traffic_later.json"
    traffic = start_traffic_process(switch, plan, stats_file=stats_file)
    try:
        with story.timed("archive"):
            tell_archive(console, migration, pool, story.archive)
        if Chapter.DECOMMISSIONED in story.chapters:
            with story.timed("other quarters"):
                bring_in_rest(console, migration, pool, story.cutover)
        if story.cutover.ready:
            with story.timed("cutover"):
                CutoverTale(console, migration, pool, story.cutover, stats_file).tell()
    finally:
        story.later_traffic = stop_traffic_process(traffic)


def _home_without_compute_logs(folder: Path) -> Path:
    """A DAGSTER_HOME with the project's settings, but without compute logs, for which each run starts four processes.

    The runs print nothing; everything that they report is in their events.
    """
    settings = yaml.safe_load((project_folder() / "dagster.yaml").read_text())
    settings["compute_logs"] = {
        "module": "dagster.core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    }
    (folder / "dagster.yaml").write_text(yaml.safe_dump(settings))
    return folder


def _serve(console: Console, servers: EmbeddedServers, story: Story) -> None:
    with story.timed("servers"), console.status("Starting PostgreSQL 16 (legacy) and 18 (base)"):
        servers.start()


def _tell(console: Console, migration: Migration, story: Story, pool: ProcessPoolExecutor, path: Path) -> bool:
    if not story.failures:
        _compare_whole(console, migration, story)
        _write_evidence(console, migration, story, path.parent)
    if story.cutover.in_base:
        with story.timed("decommission"):
            decommission(console, migration, pool, story.cutover)
        _write_evidence(console, migration, story, path.parent)
    with migration.databases.session("base", "demo") as base:
        records = read_slices(base, migration.spec.relation, QUARTER)
        max_age = timedelta(hours=migration.settings.validation_max_age_hours)
        console.print(status_page(read_overview(base, migration.spec), max_age))
        story.cdc.changes_after = applied_changes(base, migration.spec)
        story.cuts = read_cuts(base, migration.spec.relation)
    summary = summarize(story, QUARTER, records, migration.settings)
    path.write_text(json.dumps(summary, indent=2) + "\n")
    print_farewell(console, summary, path)
    return bool(summary["success"])


def _make_legacy(console: Console, servers: EmbeddedServers, story: Story) -> None:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.percentage:>3.0f} %"),
               TimeElapsedColumn())  # fmt: skip
    with story.timed("legacy"), Progress(*columns, console=console) as progress:
        task = progress.add_task(f"Creating {story.rows:,} bookings in one unpartitioned table", total=story.rows or 1)
        with psycopg.connect(servers.legacy_url()) as connection:
            create_bookings(
                connection,
                rows=story.rows,
                seed=story.seed,
                on_progress=lambda done, _: progress.update(task, completed=done),
            )
        progress.update(task, completed=story.rows or 1)


def _prepare(console: Console, migration: Migration, story: Story, pool: ProcessPoolExecutor) -> None:
    with story.timed("preflight and partitions"):
        with console.status("Preflight, then the 13 partitions of FY25-Q2"):
            with dg.DagsterInstance.get() as instance:
                size_pool(instance, migration.settings)
            for asset, quarter in (("preflight", None), ("quarter_partitions", QUARTER)):
                outcome = pool.submit(materialize, asset, quarter).result()
                if not outcome.success:
                    raise MigrationError(outcome.error, where=f"asset {asset}", next_step="see var/demo/workers.log")
        with migration.databases.session("base", "demo") as base:
            latest = latest_preflight(base, migration.spec.relation)
    print_findings(console, latest[1] if latest else [], everything=False)


def _workers(count: int, folder: Path) -> ProcessPoolExecutor:
    # Spawned, since a forked child would share Dagster's connections with this process.
    pool = ProcessPoolExecutor(
        count, mp_context=multiprocessing.get_context("spawn"), initializer=prepare, initargs=(folder,)
    )
    # The workers load Dagster, which takes seconds, while the server creates the legacy.
    for _ in range(count):
        pool.submit(ready)
    return pool


def _compare_whole(console: Console, migration: Migration, story: Story) -> None:
    """After the last write: drain the stream, then read both sides whole and compare them without fingerprints."""
    with story.timed("full comparison"), console.status("Draining the stream, then comparing every row as text"):
        drain(migration)
        story.cdc.equality = compare_everything(migration, QUARTER)
        story.archive.compare(migration)
        if story.cutover.in_base:
            compare_rest(migration, story.cutover)
    equality = story.cdc.equality
    verdict = "all equal" if not equality.differing else f"{equality.differing:,} differ, first: {equality.first}"
    console.print(f"Full comparison after the last write: {equality.rows:,} rows, {verdict}.", markup=False)


def _write_evidence(console: Console, migration: Migration, story: Story, folder: Path) -> None:
    """Write the files for an auditor, and verify the chain of records behind them."""
    with (
        story.timed("evidence"),
        console.status("Writing the evidence, and recomputing the chain of records behind it"),
    ):
        packs = write_packs(migration, folder=folder)
        whole = next(pack for pack in packs if pack.quarter is None)
        verified = verify_evidence(migration, whole.path)
    story.evidence = {
        "packs": [str(pack.path) for pack in packs],
        "records": verified.records,
        "head_sha256": verified.head.sha256 if verified.head else None,
        "holds": verified.holds,
    }
    console.print(
        f"Evidence: {len(packs)} files such as {whole.path}; {verified.records} chained records"
        f" {'hold' if verified.holds else 'DO NOT HOLD'}.",
        markup=False,
    )
