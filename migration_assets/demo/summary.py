"""What the demo measured, and how it is reported: in `summary.json` and in the demo's last lines."""

import contextlib
import json
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.console import Console

from migration_assets.demo.archive import OLD, ArchiveStory
from migration_assets.demo.cdc import CdcStory, percentile
from migration_assets.demo.cutover import CutoverStory
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.embedded.traffic import TrafficStats
from migration_assets.ledger.proofs import CutKind, CutRecord
from migration_assets.ledger.slices import SliceRecord
from migration_assets.settings import MigrationSettings
from migration_assets.terminal.figures import bytes_of, gigabytes, megabytes_per_second


class Chapter(StrEnum):
    """The chapters of the demo, in their order; each begins where the one before ended."""

    SIGNED_OFF = "signed-off"
    ARCHIVED = "archived"
    DECOMMISSIONED = "decommissioned"

    @property
    def result(self) -> str:
        """What a successful chapter has shown, in a sentence."""
        return _RESULTS[self]


_RESULTS = {
    Chapter.SIGNED_OFF: "Every week was proven equal at a cut under live traffic, the injected fault was found and"
    " repaired, the quarter is reconciled and signed off",
    Chapter.ARCHIVED: "the next quarter opened by itself, an old one was archived and retired, one of its weeks was"
    " restored",
    Chapter.DECOMMISSIONED: "the applications moved to the base, back and to the base again, both sides were equal to"
    " the last byte, and the legacy is decommissioned",
}


@dataclass
class Story:
    """The demo's parameters, and what was measured up to the last chapter."""

    rows: int
    seed: int
    rate: float
    until: Chapter = Chapter.DECOMMISSIONED
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    failures: dict[str, str] = field(default_factory=dict[str, str])
    cdc: CdcStory = field(default_factory=CdcStory)
    archive: ArchiveStory = field(default_factory=ArchiveStory)
    cutover: CutoverStory = field(default_factory=CutoverStory)
    cuts: list[tuple[CutKind, CutRecord]] = field(default_factory=list[tuple[CutKind, CutRecord]])
    traffic: TrafficStats | None = None
    later_traffic: TrafficStats | None = None
    evidence: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def chapters(self) -> tuple[Chapter, ...]:
        """The chapters up to the last one that is asked for, in their order."""
        return tuple(Chapter)[: tuple(Chapter).index(self.until) + 1]

    @property
    def succeeded(self) -> bool:
        """Whether every step of every chapter succeeded."""
        seen = {
            Chapter.SIGNED_OFF: _cdc_succeeded(self.cdc) and bool(self.evidence.get("holds")),
            Chapter.ARCHIVED: self.archive.succeeded,
            Chapter.DECOMMISSIONED: self.cutover.succeeded,
        }
        return not self.failures and all(seen[chapter] for chapter in self.chapters)

    @contextlib.contextmanager
    def timed(self, phase: str) -> Generator[None]:
        """Record the duration of the body as `phase`, in seconds, even if it fails."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[phase] = round(time.monotonic() - start, 3)


def summarize(
    story: Story, quarter: FiscalQuarter, records: list[SliceRecord], settings: MigrationSettings
) -> dict[str, Any]:
    """The content of `summary.json`, from what was measured and the ledger. Bytes are those of the leaves' tables."""
    copied = [record for record in records if record.base is not None and record.legacy is not None]
    table_bytes = sum(bytes_of(record) for record in copied)
    seconds = story.seconds["snapshot"]
    return {
        "success": story.succeeded and len(copied) == len(records),
        "chapters": [chapter.value for chapter in story.chapters],
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
        "cdc": _cdc(story),
        "archive": _archive(story.archive),
        "cutover": _cutover(story.cutover, story.later_traffic),
        "evidence": story.evidence,
        "traffic": json.loads(story.traffic.to_json()) if story.traffic else None,
        "later_traffic": json.loads(story.later_traffic.to_json()) if story.later_traffic else None,
        "weeks": [_week(record) for record in copied],
    }


def _cdc_succeeded(cdc: CdcStory) -> bool:
    equal = cdc.equality is not None and cdc.equality.rows > 0 and not cdc.equality.differing
    return not cdc.failures and cdc.repaired and cdc.reconciled and cdc.signed and equal


def _cdc(story: Story) -> dict[str, Any]:
    """The lag is in seconds; what a cut held is in milliseconds."""
    cdc = story.cdc
    held = [cut.longest_try_ms for _, cut in story.cuts]
    return {
        "changes_applied": cdc.changes_after - cdc.changes_before,
        "lag_seconds": {"measured": len(cdc.lags), **_spread(cdc.lags, digits=4)},
        "cuts": len(story.cuts),
        "writers_held_ms": _spread(held, digits=2),
        "stream_held_ms": {
            kind: _spread([cut.apply_held_ms for of, cut in story.cuts if of == kind], digits=2)
            for kind in ("validate", "pause")
        },
        "weeks_validated": cdc.validated,
        "rows_damaged": cdc.injected,
        "mismatch_found": cdc.found,
        "repaired": cdc.repaired,
        "reconciled": cdc.reconciled,
        "signed_off": cdc.signed,
        "alerts": cdc.alerts,
        "failures": cdc.failures,
        "final_comparison": {
            "by": "every row as text, side by side",
            "rows": cdc.equality.rows if cdc.equality else None,
            "differing": cdc.equality.differing if cdc.equality else None,
        },
    }


def _archive(story: ArchiveStory) -> dict[str, Any]:
    """Sizes are in bytes; `rows_asked` counts rows in the base and in Parquet together."""
    return {
        "opened_by_sensor": story.opened,
        "rows_in_opened_quarter": story.rows_in_next,
        "archived_quarter": OLD.key,
        "weeks_archived": story.archived,
        "rows_archived": story.rows,
        "leaf_bytes": story.leaf_bytes,
        "archive_bytes": story.archive_bytes,
        "bytes_per_row": round(story.archive_bytes / story.rows, 2) if story.rows else None,
        "late_change_refused": story.late_refused,
        "weeks_retired": story.retired,
        "rows_asked": story.rows_asked,
        "cold_answers_equal_legacy": story.answers_equal,
        "rows_restored": story.restored_rows,
        "failures": [*story.copy_failures.values(), *story.cdc.failures],
        "final_comparisons": {
            period: {"rows": one.rows, "differing": one.differing} for period, one in story.comparisons.items()
        },
    }


def _cutover(story: CutoverStory, traffic: TrafficStats | None) -> dict[str, Any]:
    """Durations are in milliseconds: how long no side accepted writes, and the longest wait of an application."""
    return {
        "quarters_signed_off": story.signed,
        "runs": [
            {
                "kind": "rehearsal" if one.rehearse else one.kind.value,
                "outcome": one.outcome,
                "downtime_ms": round(one.downtime_ms, 1) if one.downtime_ms is not None else None,
                "weeks_compared": one.compared_weeks,
                "rows_compared": one.compared_rows,
            }
            for one in story.records
        ],
        "applications": {
            "longest_wait_ms": traffic.longest_refusal_ms,
            "refused_and_tried_again": traffic.refused,
            "switches": traffic.switches,
            "transactions_on_base": traffic.on_base,
            "errors": traffic.errors,
        }
        if traffic
        else None,
        "decommissioned": story.decommissioned,
        "failures": story.failures,
        "final_comparisons": {
            period: {"rows": one.rows, "differing": one.differing} for period, one in story.comparisons.items()
        },
    }


def _spread(values: list[float], *, digits: int) -> dict[str, float]:
    return {
        name: round(percentile(values, share), digits) for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }


def _week(record: SliceRecord) -> dict[str, Any]:
    legacy, base = record.legacy, record.base
    copied = record.copied
    if legacy is None or base is None or copied is None:
        raise LookupError(record.week.key)
    return {
        "week": record.week.key,
        "rows": base.rows,
        "table_bytes": copied.table_bytes,
        "index_bytes": copied.index_bytes,
        "wire_bytes": copied.wire_bytes,
        "legacy_fingerprint": {"rows": legacy.rows, "checksum": legacy.checksum},
        "base_fingerprint": {"rows": base.rows, "checksum": base.checksum},
        "equal": legacy == base,
        "state": record.state.value,
        "validated_at": record.validated.at.isoformat() if record.validated else None,
        "snapshot_lsn": copied.snapshot_lsn,
        "seconds": {name: round(value, 3) for name, value in copied.seconds.items()},
        "mb_per_second": round(megabytes_per_second(record), 2),
        "gb_per_hour": round(megabytes_per_second(record) * 3.6, 2),
    }


def print_farewell(console: Console, summary: dict[str, Any], path: Path) -> None:
    """Print the last lines of the demo: rate, failures, where the figures are, what to do next."""
    rate, target = summary["gb_per_hour"], summary["gb_per_hour_target"]
    console.print(
        f"{summary['rows']:,} rows, {gigabytes(summary['table_bytes'])} in {summary['seconds']['snapshot']:.1f} s,"
        " the 13 Dagster runs included:"
        f" {summary['mb_per_second']} MB/s, {rate} GB/hour ({rate / target:.1f} times the target of {target})."
    )
    for week, error in summary["failures"].items():
        console.print(f"{week} FAILED: {error}", style="red", markup=False)
    cdc = summary["cdc"]
    for error in (*cdc["failures"], *summary["archive"]["failures"], *summary["cutover"]["failures"]):
        console.print(error, style="red", markup=False)
    lag, held = cdc["lag_seconds"], cdc["writers_held_ms"]
    console.print(
        f"CDC: {cdc['changes_applied']:,} row changes applied; lag p50 {lag['p50'] * 1000:.0f} ms, p99"
        f" {lag['p99'] * 1000:.0f} ms; {cdc['cuts']} cuts held the writers for {held['p50']:.1f} ms (p50),"
        f" {held['max']:.1f} ms at most."
    )
    runs = ", ".join(f"{one['kind']} {one['downtime_ms'] or 0:,.0f} ms" for one in summary["cutover"]["runs"])
    if runs:
        waited = summary["cutover"]["applications"]["longest_wait_ms"]
        console.print(f"No side accepted writes for: {runs}. The longest wait of an application: {waited:,.0f} ms.")
    if summary["success"]:
        console.print("; ".join(Chapter(one).result for one in summary["chapters"]) + ".", style="green")
    console.print(
        f"Figures: {path}\nNext: `make ui` shows these runs; the servers stay up (`migration-assets servers stop`)."
    )
