"""What `benchmarks.cdc` found: medians, ratios to the peer, tables and the JSON file."""

import math
import os
import platform
from collections.abc import Sequence
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.lab import Lab
from benchmarks.quarter_proofs import Proofs
from benchmarks.stream_speed import Backlog, Pace
from benchmarks.streams import OURS, PEER
from benchmarks.writer_stalls import Stalls

_KEEPS_UP = 0.9
_PROOFS = {
    "weeks": "ours: 13 weeks, one by one, each at a cut of its own",
    "quarter": "ours: the quarter at one cut, and a look for duplicate keys",
    "program": "pgcopydb compare data",
    "statement": "pgcopydb's checksum statement, both sides at once",
    "week": "ours: the largest week",
    "naive week": "naive: all rows of that week to the client, from both sides",
}
_STALLS = {
    "nothing": "no comparison",
    "reads alone": "the same fingerprints without a cut",
    "validations": "ours: validations back to back",
    "plain lock": "naive: LOCK TABLE … SHARE, compare, back to back",
}


def summarize(
    lab: Lab, rows: int, paces: Sequence[Pace], backlogs: Sequence[Backlog], stalls: Sequence[Stalls], proofs: Proofs
) -> dict[str, Any]:
    """All figures, as they go to the JSON file; where there were several runs, medians."""
    return {
        "rows": lab.rows,
        "quarter_rows": rows,
        "servers": lab.versions(),
        "machine": {"cores": os.cpu_count(), "system": platform.platform(), "load_at_end": os.getloadavg()[0]},
        "paces": [_pace_figures(paces, rate) for rate in sorted({pace.offered for pace in paces})],
        "backlog": _with_ratios({name: _backlog_figures(backlogs, name) for name in (OURS, PEER)}),
        "writers": {one.name: _stall_figures(one) for one in stalls},
        "proofs": _proof_figures(proofs),
    }


def print_summary(console: Console, summary: dict[str, Any]) -> None:
    """Four tables."""
    table = _table(
        "Change stream: row changes a second, and lag from commit on the legacy until visible on the base",
        "offered/s", "", "reached/s", "applied/s", "lag p50 ms", "p99 ms", "max ms", "CPU ms/change", "WAL B/change",
    )  # fmt: skip
    keys = ("reached", "applied", "lag_p50_ms", "lag_p99_ms", "lag_max_ms", "cpu_ms_per_change", "wal_bytes_per_change")
    for pace in summary["paces"]:
        for name in (OURS, PEER, "ratio"):
            # A ratio of what was reached says nothing: it is the load's.
            table.add_row(f"{pace['offered']:,}", name, *(_text(pace[name].get(key), name) for key in keys))
    console.print(table)

    table = _table("A backlog, applied at the stream's own speed", "", "changes", "s", "changes/s", "CPU ms/change")
    for name in (OURS, PEER, "ratio"):
        figures = summary["backlog"][name]
        keys = ("changes", "seconds", "per_second", "cpu_ms_per_change")
        table.add_row(name, *(_text(figures.get(key), name) for key in keys))
    console.print(table)

    table = _table(
        "Latency of 200 single-row updates a second on the legacy, counted from when each was due",
        "meanwhile", "p50 ms", "p99 ms", "max ms", "comparisons", "lock held p50 ms", "max ms",
    )  # fmt: skip
    keys = ("p50_ms", "p99_ms", "max_ms", "comparisons", "held_p50_ms", "held_max_ms")
    for name, figures in summary["writers"].items():
        table.add_row(_STALLS[name], *(_text(figures.get(key)) for key in keys))
    console.print(table)

    proofs = summary["proofs"]
    table = _table(
        f"Proof of {proofs['rows']:,} rows; largest week {proofs['week']} with {proofs['week_rows']:,}",
        "", "s (range)", "rows/s",
    )  # fmt: skip
    for name, figures in proofs["contenders"].items():
        seconds = f"{figures['seconds']:.2f} ({figures['min']:.2f} to {figures['max']:.2f})"
        table.add_row(_PROOFS[name], seconds, f"{figures['rows_per_second']:,.0f}")
    console.print(table)
    for name, reason in proofs["skipped"].items():
        console.print(f"{_PROOFS[name]} skipped: {reason}", style="yellow", markup=False)
    for name, ratio in proofs["ratios"].items():
        console.print(f"{name}: {ratio:.2f}", style="bold", highlight=False)


def _pace_figures(paces: Sequence[Pace], rate: int) -> dict[str, Any]:
    figures = {name: _one_pace([p for p in paces if (p.offered, p.stream) == (rate, name)]) for name in (OURS, PEER)}
    # Once changes pile up, the lag is that of the pile, and grows with the length of the run.
    kept_up = all(one["applied"] >= _KEEPS_UP * rate for one in figures.values())
    unlike = () if kept_up else ("lag_p50_ms", "lag_p99_ms", "lag_max_ms")
    return {"offered": rate, "kept_up": kept_up, **_with_ratios(figures, but=("reached", *unlike))}


def _one_pace(runs: Sequence[Pace]) -> dict[str, float]:
    return {
        "reached": round(median(run.reached for run in runs), 1),
        "applied": round(median(run.applied for run in runs), 1),
        "lag_p50_ms": round(median(percentile(run.lag_ms, 50) for run in runs), 2),
        "lag_p99_ms": round(median(percentile(run.lag_ms, 99) for run in runs), 2),
        "lag_max_ms": round(max(max(run.lag_ms) for run in runs), 2),
        "cpu_ms_per_change": round(median(run.cpu_ms_per_change for run in runs), 4),
        "wal_bytes_per_change": round(median(run.wal_bytes_per_change for run in runs)),
        "heartbeats": sum(len(run.lag_ms) for run in runs),
        "runs": len(runs),
    }


def _backlog_figures(backlogs: Sequence[Backlog], name: str) -> dict[str, float]:
    runs = [run for run in backlogs if run.stream == name]
    return {
        "changes": runs[0].changes,
        "seconds": round(median(run.seconds for run in runs), 3),
        "per_second": round(median(run.per_second for run in runs)),
        "cpu_ms_per_change": round(median(run.cpu_seconds * 1000 / run.changes for run in runs), 4),
        "runs": len(runs),
    }


def _with_ratios(figures: dict[str, dict[str, float]], but: tuple[str, ...] = ()) -> dict[str, Any]:
    ours, peer = figures[OURS], figures[PEER]
    unlike = {"heartbeats", "runs", "changes", *but}
    ratios = {key: round(value / peer[key], 3) for key, value in ours.items() if key not in unlike and peer[key]}
    return {**figures, "ratio": ratios}


def _stall_figures(stalls: Stalls) -> dict[str, float]:
    figures: dict[str, float] = {
        "p50_ms": round(percentile(stalls.latencies_ms, 50), 2),
        "p99_ms": round(percentile(stalls.latencies_ms, 99), 2),
        "max_ms": round(max(stalls.latencies_ms), 2),
        "transactions": len(stalls.latencies_ms),
        "comparisons": stalls.comparisons,
    }
    if stalls.held_ms:
        figures["held_p50_ms"] = round(percentile(stalls.held_ms, 50), 2)
        figures["held_max_ms"] = round(max(stalls.held_ms), 2)
    return {**figures, **{name: round(value, 2) for name, value in stalls.notes.items()}}


def _proof_figures(proofs: Proofs) -> dict[str, Any]:
    middle = {name: median(seconds) for name, seconds in proofs.seconds.items()}
    pairs = [(ours, peer) for ours in ("weeks", "quarter") for peer in ("program", "statement") if peer in middle]
    return {
        "rows": proofs.rows,
        "week": proofs.week,
        "week_rows": proofs.week_rows,
        "contenders": {
            name: {
                "seconds": round(middle[name], 3),
                "min": round(min(proofs.seconds[name]), 3),
                "max": round(max(proofs.seconds[name]), 3),
                "rows_per_second": round((proofs.week_rows if name.endswith("week") else proofs.rows) / middle[name]),
            }
            for name in _PROOFS
            if name in middle
        },
        "skipped": proofs.skipped,
        "ratios": {
            f"{_PROOFS[ours]} / {_PROOFS[peer]}": round(middle[ours] / middle[peer], 3)
            for ours, peer in (*pairs, ("week", "naive week"))
        },
    }


def percentile(values: Sequence[float], share: float) -> float:
    """By nearest rank: a value that was really seen."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * share / 100) - 1)]


def _text(value: float | None, name: str = "") -> str:
    if value is None:
        return "-"
    if name == "ratio":
        return f"{value:.2f}"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"  # noqa: PLR2004 - digits enough


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    return table
