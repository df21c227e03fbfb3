"""Medians, ratios and what is printed of them."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.contenders import Contender, Run
from benchmarks.lab import Lab

OURS = "slices"


def summarize(
    lab: Lab, contenders: Sequence[Contender], runs: Sequence[Run], failed: Mapping[str, str], *, copies: int
) -> dict[str, Any]:
    """All figures, as they go to the JSON file; seconds are medians, with the range beside them."""
    of = {contender.name: [run for run in runs if run.contender == contender.name] for contender in contenders}
    figures = {name: _figures(lab, found) for name, found in of.items() if found}
    peers = [name for name in figures if name != OURS]
    ours = figures[OURS]["seconds"]["median"]
    return {
        "rows": lab.rows,
        "table_bytes": lab.table_bytes,
        "index_bytes": lab.index_bytes,
        "copies_at_a_time": copies,
        "servers": lab.versions(),
        "machine": {"cores": os.cpu_count(), "system": platform.platform(), "load_at_end": os.getloadavg()[0]},
        "titles": {contender.name: contender.title for contender in contenders},
        "skipped": {contender.name: contender.skip for contender in contenders if contender.skip},
        "failed": dict(failed),
        "contenders": figures,
        "ratios": {
            f"ours validated / {peer} {proof}": round(ours / figures[peer][key]["median"], 3)
            for peer in peers
            for proof, key in (("unvalidated", "seconds"), ("validated", "validated_seconds"))
            if figures[peer][key]
        },
    }


def print_summary(console: Console, summary: dict[str, Any]) -> None:
    """The table, the ratios, and where our own time goes."""
    table = Table(title=f"{summary['rows']:,} rows, {summary['table_bytes'] / 1e6:,.0f} MB with TOAST,"
                  f" {summary['copies_at_a_time']} at a time")  # fmt: skip
    for heading in ("", "seconds (range)", "validated, s", "rows/s", "MB/s", "GB/hour", "client MB", "client CPU s"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, figures in summary["contenders"].items():
        seconds, validated = figures["seconds"], figures["validated_seconds"]
        table.add_row(
            summary["titles"][name],
            f"{seconds['median']:.2f} ({seconds['min']:.2f} to {seconds['max']:.2f})",
            f"{validated['median']:.2f}" if validated else "-",
            f"{figures['rows_per_second']:,.0f}",
            f"{figures['mb_per_second']:.1f}",
            f"{figures['gb_per_hour']:.0f}",
            f"{figures['client_peak_rss_mb']:.0f}",
            f"{figures['client_cpu_seconds']:.2f}",
        )
    console.print(table)
    for name, reason in summary["skipped"].items():
        console.print(f"{name} skipped: {reason}", style="yellow")
    for name, reason in summary["failed"].items():
        console.print(f"{name} failed and was left out from then on: {reason}", style="red", markup=False)
    for name, ratio in summary["ratios"].items():
        console.print(f"{name}: {ratio:.2f}", style="bold", highlight=False)
    _print_phases(console, summary)


def _print_phases(console: Console, summary: dict[str, Any]) -> None:
    table = Table(title="Where the time goes, medians of seconds")
    table.add_column("contender")
    table.add_column("phase")
    table.add_column("s", justify="right")
    table.add_column("server CPU s", justify="right")
    for name, figures in summary["contenders"].items():
        for phase, seconds in figures["phases"].items():
            table.add_row(name, phase, f"{seconds:.2f}", f"{figures['server_cpu_seconds'][phase]:.2f}")
        for phase, seconds in figures["slice_seconds"].items():
            table.add_row(name, f"sum over all slices: {phase}", f"{seconds:.2f}")
        for note, value in figures["notes"].items():
            if note.endswith("_seconds"):
                table.add_row(name, note.removesuffix("_seconds"), f"{value:.2f}")
    console.print(table)


def write_summary(summary: dict[str, Any], path: Path) -> None:
    """Replace the JSON file as a whole."""
    aside = path.with_suffix(".json.new")
    aside.write_text(json.dumps(summary, indent=2) + "\n")
    aside.replace(path)


def _figures(lab: Lab, runs: Sequence[Run]) -> dict[str, Any]:
    seconds = _spread([run.seconds for run in runs])
    validated = [run.validated_seconds for run in runs if run.validated_seconds is not None]
    return {
        "seconds": seconds,
        "validated_seconds": _spread(validated) if validated else None,
        "rows_per_second": round(lab.rows / seconds["median"]),
        "mb_per_second": round(lab.table_bytes / 1e6 / seconds["median"], 2),
        "gb_per_hour": round(lab.table_bytes / 1e9 / seconds["median"] * 3600, 1),
        "client_peak_rss_mb": round(max(run.usage.peak_rss_bytes for run in runs) / 1e6, 1),
        "client_cpu_seconds": round(median(run.usage.cpu_seconds for run in runs), 2),
        "phases": _medians([run.usage.phases for run in runs]),
        "server_cpu_seconds": _medians([run.usage.server_cpu for run in runs]),
        "slice_seconds": _medians([run.slice_seconds for run in runs]),
        "notes": _medians([run.notes for run in runs]),
        "all_seconds": [round(run.seconds, 3) for run in runs],
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def _medians(found: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: round(median(one[name] for one in found if name in one), 3) for name in found[0]}
