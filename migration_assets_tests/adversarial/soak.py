"""The long run of the enemies: hundreds of lives, each printed; ten switchovers in one life at the end.

    python -m migration_assets_tests.adversarial.soak --lives 200

Exits with 1 when somebody found a fault; all other lives are run nevertheless. Seeds are fixed, so that each is found
again: `make soak-enemies ENEMIES=12,40`.
"""

import signal
import sys
import time
from collections import Counter

import click

from migration_assets_tests.adversarial.lives import KINDS, SABOTEURS, live
from migration_assets_tests.adversarial.switchovers import switch_over
from migration_assets_tests.server_pairs import quick_pair


@click.command()
@click.option("--lives", default=200, show_default=True, help="The seeds 1, 2, 3 and so on; then each sabotage.")
@click.option("--only", default="", help="Run these seeds instead, with commas in between.")
@click.option("--kind", type=click.Choice(sorted(KINDS)), help="All lives of this kind; by default the seed decides.")
@click.option("--steps", default=8, show_default=True, help="Random steps of a life.")
@click.option("--switchovers", default=10, show_default=True, help="In one life, after all others.")
@click.option("--tell", is_flag=True, help="Print everything that happened in lives without a fault, too.")
def main(lives: int, only: str, kind: str | None, steps: int, switchovers: int, *, tell: bool) -> None:
    """Run many lives, one at a time, and say how each ended."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    seeds = [int(seed) for seed in only.split(",")] if only else [*range(1, lives + 1), *SABOTEURS]
    ended: Counter[str] = Counter()
    failed: list[int] = []
    with quick_pair() as pair:
        for seed in seeds:
            try:
                lived = live(pair, seed, kind=kind, steps=steps)
            except Exception as error:  # noqa: BLE001 - whatever it is, this life failed, and the others go on
                failed.append(seed)
                click.echo(f"FAULT in seed {seed}\n{error}")
            else:
                ended[lived.kind] += 1
                click.echo(lived.told if tell else str(lived))
        if switchovers and not only:
            began = time.monotonic()
            try:
                hashes = switch_over(pair, 1, switchovers)
            except Exception as error:  # noqa: BLE001 - as above
                failed.append(0)
                click.echo(f"FAULT in the switchovers\n{error}")
            else:
                click.echo(f"{len(hashes)} switchovers in one life, equal after each, {time.monotonic() - began:.1f} s")
    click.echo(f"{sum(ended.values())} lives without a fault ({dict(ended)}), {len(failed)} with: {failed}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
