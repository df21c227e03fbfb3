"""The bulk copy against its peers: `python -m benchmarks.snapshot`; see README.md for how to read what it prints."""

import sys
from pathlib import Path

import click
from rich.console import Console

from benchmarks import pgcopydb, psql_pipe, slices
from benchmarks.clients import ClientFailedError
from benchmarks.contenders import Contender, Run
from benchmarks.lab import Lab, open_lab
from benchmarks.report import OURS, print_summary, summarize, write_summary
from migration_assets.domain.errors import MigrationError


@click.command()
@click.option("--rows", type=click.IntRange(min=1), default=1_000_000, show_default=True, help="Rows of the legacy.")
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True, help="Measured runs of each.")
@click.option("--copies", type=click.IntRange(1, 64), default=2, show_default=True, help="How many at a time.")
@click.option("--var", "folder", type=click.Path(path_type=Path), default=Path("var/bench"), show_default=True)
@click.option("--only", multiple=True, type=click.Choice(["psql", "pgcopydb"]), help="Peers to run; default: all.")
@click.option("--keep", is_flag=True, help="Leave the servers and the legacy for the next run.")
def main(*, rows: int, runs: int, copies: int, folder: Path, only: tuple[str, ...], keep: bool) -> None:
    """Move the same rows by every contender in turn and print what each needs."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    contenders = [slices.contender(), psql_pipe.contender(), pgcopydb.contender()]
    if only:
        contenders = [contender for contender in contenders if contender.name in {OURS, *only}]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with (
            console.status(f"Moving {rows:,} bookings, {runs} times by each"),
            open_lab(folder, rows, keep=keep) as lab,
        ):
            results, failed = _rounds(console, lab, contenders, runs=runs, copies=copies)
            summary = summarize(lab, contenders, results, failed, copies=copies)
    except (MigrationError, ClientFailedError) as error:
        raise click.ClickException(str(error)) from error
    print_summary(console, summary)
    path = folder / "snapshot.json"
    write_summary(summary, path)
    console.print(f"Figures: {path}")


def _rounds(
    console: Console, lab: Lab, contenders: list[Contender], *, runs: int, copies: int
) -> tuple[list[Run], dict[str, str]]:
    """All runs, and why a peer was left out after it failed; a failure of ours ends the benchmark."""
    results: list[Run] = []
    failed: dict[str, str] = {}
    for turn in range(runs):
        # There and back again: whoever profits from being first or last does so in turn.
        for contender in contenders if turn % 2 == 0 else contenders[::-1]:
            if contender.skip is not None or contender.name in failed:
                continue
            try:
                results.append(_measure(console, lab, contender, copies))
            except ClientFailedError as error:
                if contender.name == OURS:
                    raise
                failed[contender.name] = str(error)
                console.print(f"{contender.title} failed: {error}", style="red", markup=False)
    return results, failed


def _measure(console: Console, lab: Lab, contender: Contender, copies: int) -> Run:
    lab.warm_up()
    lab.empty_base()
    run = contender.run(lab, copies)
    found = lab.fingerprint_of("base")
    if found != lab.fingerprint:
        raise ClientFailedError(f"{contender.name} moved {found.rows:,} rows that are not the legacy's")
    validated = "" if run.validated_seconds in {None, run.seconds} else f", validated {run.validated_seconds:.2f} s"
    console.print(f"{contender.title}: {run.seconds:.2f} s{validated}; all {found.rows:,} rows equal", highlight=False)
    return run


if __name__ == "__main__":
    main()
