"""The change stream, its cuts and its proofs against their peers: `python -m benchmarks.cdc`; see README.md."""

import sys
from pathlib import Path

import click
from rich.console import Console

from benchmarks.cdc_report import percentile, print_summary, summarize
from benchmarks.clients import ClientFailedError
from benchmarks.lab import open_lab
from benchmarks.quarter_proofs import measure_proofs
from benchmarks.report import write_summary
from benchmarks.stream_speed import Backlog, Pace, measure_backlog, measure_pace
from benchmarks.streams import Ground, open_ground
from benchmarks.writer_stalls import measure_stalls
from migration_assets.domain.errors import MigrationError

_RATES = (500, 2_000, 10_000)
_BACKLOG_A_SECOND = 4_000  # so many changes pile up for each second of the other measurements
_QUICK = {"rows": 20_000, "seconds": 2.0, "runs": 1, "warm_up": 0.5}
_FULL = {"rows": 300_000, "seconds": 15.0, "runs": 3, "warm_up": 3.0}


@click.command()
@click.option("--rows", type=click.IntRange(min=10_000), help="Rows of the legacy; default 300000.")
@click.option("--seconds", type=click.FloatRange(min=1), help="Of each measurement; default 15.")
@click.option("--runs", type=click.IntRange(min=1), help="Measurements of each stream at each rate; default 3.")
@click.option("--rates", default=",".join(map(str, _RATES)), show_default=True, help="Row changes offered a second.")
@click.option("--quick", is_flag=True, help="Small and short, to see that all of it works; other options win.")
@click.option("--var", "folder", type=click.Path(path_type=Path), default=Path("var/bench"), show_default=True)
@click.option("--keep", is_flag=True, help="Leave the servers and the legacy for the next run.")
def main(
    *, rows: int | None, seconds: float | None, runs: int | None, rates: str, quick: bool, folder: Path, keep: bool
) -> None:
    """Measure lag and apply rate, what cuts cost writers, and how long proofs take; each beside a peer."""
    defaults = _QUICK if quick else _FULL
    rows, seconds, runs = rows or int(defaults["rows"]), seconds or defaults["seconds"], runs or int(defaults["runs"])
    offered = [int(rate) for rate in rates.split(",")]
    console = Console(width=None if sys.stdout.isatty() else 140)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with open_lab(folder, rows, keep=keep) as lab, open_ground(lab) as ground:
            console.print(f"{ground.rows:,} of {rows:,} rows are under CDC, by either stream", highlight=False)
            paces = _paces(console, ground, offered, runs, seconds=seconds, warm_up=defaults["warm_up"])
            backlogs = _backlogs(console, ground, runs, changes=round(_BACKLOG_A_SECOND * seconds))
            stalls = measure_stalls(ground, seconds=seconds, warm_up=defaults["warm_up"])
            proofs = measure_proofs(ground, runs=runs)
            summary = summarize(lab, ground.rows, paces, backlogs, stalls, proofs)
    except (MigrationError, ClientFailedError, TimeoutError) as error:
        raise click.ClickException(str(error)) from error
    print_summary(console, summary)
    path = folder / "cdc.json"
    write_summary(summary, path)
    console.print(f"Figures: {path}")


def _paces(
    console: Console, ground: Ground, rates: list[int], runs: int, *, seconds: float, warm_up: float
) -> list[Pace]:
    found: list[Pace] = []
    for turn in range(runs):
        for rate in rates:
            # There and back again: whoever profits from being first or last does so in turn.
            for stream in (ground.ours, ground.peer) if turn % 2 == 0 else (ground.peer, ground.ours):
                pace = measure_pace(ground, stream, rate=rate, seconds=seconds, warm_up=warm_up)
                found.append(pace)
                console.print(
                    f"{stream.title}: {rate:,}/s offered, {pace.reached:,.0f} reached, {pace.applied:,.0f} applied,"
                    f" lag p50 {percentile(pace.lag_ms, 50):.0f} ms, p99 {percentile(pace.lag_ms, 99):.0f} ms",
                    highlight=False,
                )
    return found


def _backlogs(console: Console, ground: Ground, runs: int, *, changes: int) -> list[Backlog]:
    found: list[Backlog] = []
    for turn in range(runs):
        for stream in (ground.ours, ground.peer) if turn % 2 == 0 else (ground.peer, ground.ours):
            backlog = measure_backlog(ground, stream, changes=changes)
            found.append(backlog)
            console.print(f"{stream.title}: a backlog at {backlog.per_second:,.0f} changes/s", highlight=False)
    return found


if __name__ == "__main__":
    main()
