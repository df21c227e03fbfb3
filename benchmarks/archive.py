"""Archiving against its peers: `python -m benchmarks.archive`; see README.md for how to read what it prints."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.archive_peers import by_duckdb, by_python
from benchmarks.lab import Lab, open_lab
from benchmarks.lab_names import SPEC
from migration_assets.archive.export import export_query, profile_slice
from migration_assets.archive.manifest import Manifest
from migration_assets.archive.ownership import ArchiveWriter, LedgerIdentity
from migration_assets.archive.parts import to_stored
from migration_assets.archive.store import open_store
from migration_assets.archive.verification import verify_archive
from migration_assets.archive.writer import WriteLimits, write_slice
from migration_assets.domain.errors import MigrationError
from migration_assets.domain.fingerprint import METHOD, PORTABLE_METHOD
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.postgres.arrow_stream import arrow_stream
from migration_assets.postgres.sessions import Timeouts, require_row

_LIMITS = WriteLimits(512_000_000, 100_000, 64_000_000)
_WEEK = FiscalWeek(FiscalQuarter(2025, 2), 1)
_LEDGER = LedgerIdentity("benchmark", "0", 0, 1)
_NEVER = Timeouts(lock=0, statement=0, idle_in_transaction=0)


@dataclass(frozen=True)
class Written:
    """One contender's run: seconds in all and of its parts, CPU seconds of client and server, bytes on disk."""

    seconds: float
    parts: dict[str, float]
    cpu: float
    bytes: int


@click.command()
@click.option("--rows", type=click.IntRange(min=1), default=300_000, show_default=True, help="Rows of the table.")
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True, help="Measured runs of each.")
@click.option("--var", "folder", type=click.Path(path_type=Path), default=Path("var/bench"), show_default=True)
@click.option("--keep", is_flag=True, help="Leave the servers and the table for the next run.")
def main(*, rows: int, runs: int, folder: Path, keep: bool) -> None:
    """Write the same rows to Parquet by every contender in turn, and print what each needs."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with open_lab(folder, rows, keep=keep) as lab:
            results = _rounds(console, lab, runs)
            summary = _summarize(lab, results)
    except MigrationError as error:
        raise click.ClickException(str(error)) from error
    _print(console, summary)
    path = folder / "archive.json"
    path.write_text(json.dumps(summary, indent=2) + "\n")
    console.print(f"Figures: {path}")


def _rounds(console: Console, lab: Lab, runs: int) -> dict[str, list[Written]]:
    contenders: dict[str, Callable[[Lab, Path], dict[str, float]]] = {
        "ours": _by_us,
        "duckdb": lambda lab, folder: by_duckdb(lab.databases.legacy_url, SPEC.table, folder),
        "python": lambda lab, folder: by_python(lab.databases.legacy_url, SPEC.table, folder),
    }
    results: dict[str, list[Written]] = {name: [] for name in contenders}
    for turn in range(runs):
        # There and back again: whoever profits from being first or last does so in turn.
        for name in list(contenders) if turn % 2 == 0 else list(contenders)[::-1]:
            lab.warm_up()
            with TemporaryDirectory(prefix="bench-", dir=lab.servers.var) as folder:
                written = _measure(lab, contenders[name], Path(folder))
            results[name].append(written)
            console.print(f"{name}: {written.seconds:.2f} s, {written.bytes / 1e6:,.1f} MB", highlight=False)
    return results


def _measure(lab: Lab, contender: Callable[[Lab, Path], dict[str, float]], folder: Path) -> Written:
    cpu, started = _cpu(lab), time.perf_counter()
    parts = contender(lab, folder)
    seconds = time.perf_counter() - started
    size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    return Written(seconds, parts, _cpu(lab) - cpu, size)


def _cpu(lab: Lab) -> float:
    return time.process_time() + lab.server_cpu()


def _by_us(lab: Lab, folder: Path) -> dict[str, float]:
    """As `steps.archiving` does it with a leaf, ledger apart; its verification is told apart."""
    store = open_store(str(folder))
    parts: dict[str, float] = {}
    with lab.databases.session("legacy", "benchmark", _NEVER) as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        snapshot = require_row(reader.execute("SELECT pg_export_snapshot()").fetchone(), "a snapshot")[0]
        started = time.perf_counter()
        profile = profile_slice(reader, SPEC.table, lab.description)
        parts["fingerprints"] = time.perf_counter() - started
        now = datetime.now(UTC)
        manifest = Manifest(
            relation=SPEC.relation, week=_WEEK, control_column=SPEC.control_column, key_columns=("id",),
            lower_bound="-infinity", upper_bound="infinity", generation=f"{now:%Y%m%dT%H%M%S%fZ}",
            rows=profile.native.rows, native=profile.native, native_method=METHOD, portable=profile.portable,
            portable_method=PORTABLE_METHOD, columns=profile.columns, statistics=profile.statistics, lsn="0/0",
            snapshot_at=now, archived_at=now, versions={}, ledger=str(_LEDGER),
        )  # fmt: skip
        query = export_query(SPEC.table, profile.columns, [SPEC.control_column, "id"]).as_string(reader)
        started = time.perf_counter()
        with arrow_stream(lab.databases.legacy_url, str(snapshot), query) as batches:
            stored = (to_stored(batch, profile.columns) for batch in batches)
            done = write_slice(store, manifest, stored, _LIMITS, writer=ArchiveWriter(_LEDGER))
        parts["written and verified"] = time.perf_counter() - started
    started = time.perf_counter()
    verify_archive(store, replace(done))
    parts["verification alone"] = time.perf_counter() - started
    parts["written"] = parts["written and verified"] - parts["verification alone"]
    return parts


def _summarize(lab: Lab, results: dict[str, list[Written]]) -> dict[str, Any]:
    ours = results["ours"]
    parts = {name: round(median(run.parts[name] for run in ours), 3) for name in ours[0].parts}
    contenders: dict[str, Any] = {}
    for name, runs in results.items():
        # The second verification of ours was measured only to be told apart.
        seconds = median(run.seconds - run.parts.get("verification alone", 0.0) for run in runs)
        contenders[name] = {
            "seconds": round(seconds, 3),
            "mb_per_second": round(lab.table_bytes / 1e6 / seconds, 1),
            "bytes_per_row": round(median(run.bytes for run in runs) / lab.rows, 1),
            "cpu_seconds": round(median(run.cpu for run in runs), 2),
        }
    return {
        "rows": lab.rows,
        "table_bytes": lab.table_bytes,
        "runs": len(ours),
        "contenders": contenders,
        "ours": parts,
    }


def _print(console: Console, summary: dict[str, Any]) -> None:
    table = Table(title=f"{summary['rows']:,} rows to Parquet, medians of {summary['runs']}")
    for column in ("contender", "seconds", "MB/s of the table", "bytes a row", "CPU s"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    for name, one in summary["contenders"].items():
        table.add_row(name, *(str(one[key]) for key in ("seconds", "mb_per_second", "bytes_per_row", "cpu_seconds")))
    console.print(table)
    console.print(f"Ours by parts, seconds: {summary['ours']}", highlight=False)


if __name__ == "__main__":
    main()
