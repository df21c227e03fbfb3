"""What the demo measured, as `summary.json` and as its last lines."""

import contextlib
import json
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.embedded.traffic_stats import TrafficStats
from migration_assets.postgres.ledger import SliceRecord
from migration_assets.settings import MigrationSettings
from migration_assets.terminal.status import gigabytes, megabytes_per_second


@dataclass
class Story:
    """What was measured while the demo went on."""

    rows: int
    seed: int
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    failures: dict[str, str] = field(default_factory=dict[str, str])
    reread_differs: list[str] = field(default_factory=list[str])
    traffic: TrafficStats | None = None

    @contextlib.contextmanager
    def timed(self, phase: str) -> Generator[None]:
        """Measure the body as seconds of `phase`, failed or not."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[phase] = round(time.monotonic() - start, 3)


def summarize(
    story: Story, quarter: FiscalQuarter, records: list[SliceRecord], settings: MigrationSettings
) -> dict[str, Any]:
    """What `summary.json` says, from what was measured and what the ledger proves; bytes are of the leaves' tables."""
    copied = [record for record in records if record.base is not None and record.legacy is not None]
    table_bytes = sum(record.table_bytes or 0 for record in copied)
    seconds = story.seconds["snapshot"]
    return {
        "success": not story.failures and not story.reread_differs and len(copied) == len(records),
        "quarter": quarter.key,
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
        "mb_per_second": round(megabytes_per_second(record), 2),
        "gb_per_hour": round(megabytes_per_second(record) * 3.6, 2),
    }


def print_farewell(console: Console, summary: dict[str, Any], path: Path) -> None:
    """The last lines of the demo: rate, failures, where the figures are, what to do next."""
    rate, target = summary["gb_per_hour"], summary["gb_per_hour_target"]
    console.print(
        f"{summary['rows']:,} rows, {gigabytes(summary['table_bytes'])} in {summary['seconds']['snapshot']:.1f} s,"
        " the 13 Dagster runs included:"
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
