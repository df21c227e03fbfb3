"""The long run of the convergence suite: hundreds of seeds, several at a time, each printed, and a table at the end.

    python -m migration_assets_tests.convergence.soak --seeds 200

Exits with 1 when a single seed did not end in equality, or was not run; all the others are run nevertheless.
"""

import signal
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from migration_assets.embedded.servers import EmbeddedServers
from migration_assets_tests.convergence.ordeal import Outcome, run_seed
from migration_assets_tests.convergence.seeds import some_seeds
from migration_assets_tests.server_pairs import running_pair


def _run(folder: Path, seed: int, steps: int) -> Outcome | str:
    """In a process of its own; a failure is told as text, since not every exception can travel."""
    try:
        return run_seed(EmbeddedServers(folder), seed, steps)
    except Exception as error:  # noqa: BLE001 - whatever it is, the seed failed, and the other seeds go on
        return str(error)


def _soak(folder: Path, seeds: list[int], steps: int, jobs: int) -> Iterator[tuple[int, Outcome | str]]:
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_run, folder, seed, steps): seed for seed in seeds}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)  # after an interrupt: those under way end, no more begin


def _table(outcomes: list[Outcome], failed: list[int]) -> Table:
    table = Table(title="Convergence", show_header=False)
    for name, value in (
        ("seeds", f"{len(outcomes) + len(failed):,}"),
        ("mismatches or failures", f"{len(failed):,}"),
        ("transactions on the legacy", f"{sum(one.transactions for one in outcomes):,}"),
        ("damages injected, found exactly, healed", f"{sum(one.damages for one in outcomes):,}"),
        ("rows compared as text at the end", f"{sum(one.rows for one in outcomes):,}"),
        ("lonely writer's wait, worst p99 of a seed", f"{max((one.wait_p99 for one in outcomes), default=0):.0f} ms"),
        ("lonely writer's wait, maximum", f"{max((one.wait_max for one in outcomes), default=0):.0f} ms"),
        ("seconds of a seed, mean", f"{sum(one.seconds for one in outcomes) / max(1, len(outcomes)):.1f}"),
    ):
        table.add_row(name, value)
    return table


@click.command()
@click.option("--seeds", default=200, show_default=True, help="How many: some fixed ones, the rest fresh.")
@click.option("--only", default="", help="Run these seeds instead, with commas in between.")
@click.option("--steps", default=8, show_default=True, help="Random steps of a seed.")
@click.option("--jobs", default=2, show_default=True, help="Seeds at a time.")
def main(seeds: int, only: str, steps: int, jobs: int) -> None:
    """Run many seeds and say how each ended."""
    # Also where a shell started it in the background, with SIGINT ignored: the servers are removed in any case.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    console = Console(soft_wrap=True, highlight=False)
    chosen = [int(seed) for seed in only.split(",")] if only else some_seeds(seeds)
    outcomes: list[Outcome] = []
    failed: list[int] = []
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, running_pair(Path(folder)):
        try:
            for done, (seed, outcome) in enumerate(_soak(Path(folder), chosen, steps, jobs), 1):
                console.print(f"[{done}/{len(chosen)}]", str(outcome), markup=False)
                if isinstance(outcome, Outcome):
                    outcomes.append(outcome)
                else:
                    failed.append(seed)
        except KeyboardInterrupt:
            console.print("interrupted: the seeds under way were not counted")
    console.print(_table(outcomes, failed))
    if failed:
        again = ",".join(map(str, failed))
        console.print(f"failed: {again} - again: make soak-seeds ONLY={again}", markup=False)
    sys.exit(1 if failed or len(outcomes) < len(chosen) else 0)


if __name__ == "__main__":
    main()
