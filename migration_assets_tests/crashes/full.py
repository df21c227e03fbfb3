"""Every step struck at every statement: `python -m migration_assets_tests.crashes.full [--seed N] [--steps a,b]`."""

import argparse
import time
from collections.abc import Generator
from contextlib import contextmanager
from random import Random, SystemRandom

from migration_assets.embedded.servers import EmbeddedServers
from migration_assets_tests.crashes.child import Nursery, nursery
from migration_assets_tests.crashes.judge import Judge
from migration_assets_tests.crashes.matrix import Matrix
from migration_assets_tests.crashes.steps import STEPS, crash_migration
from migration_assets_tests.server_pairs import quick_pair


@contextmanager
def built(pair: EmbeddedServers, children: Nursery, name: str, seed: int) -> Generator[Judge]:
    """A judge over fresh databases of that name, which are dropped at the end."""
    for server in ("base", "legacy"):
        pair.recreate_database(server, name)
    judge = Judge(crash_migration(pair.legacy_url(name), pair.base_url(name)), children, Random(seed))
    judge.stage.build(seed)
    yield judge
    pair.drop_database("base", name)
    pair.drop_database("legacy", name)


def main() -> int:
    """Run the matrix; 1 where a blow did not end in equality."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(10**6))
    parser.add_argument("--steps", default=",".join(STEPS), help="which of them, with commas in between")
    parser.add_argument("--share", type=float, default=1.0, help="strike at this share of the points, drawn")
    parser.add_argument("--only", default="", help="strike only where the statement has this in it")
    parser.add_argument("--no-servers", action="store_true", help="crash no servers afterwards")
    parser.add_argument("--list", action="store_true", help="say where they can be struck, and strike nothing")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    began = time.monotonic()
    random = Random(arguments.seed)
    with (
        quick_pair() as pair,
        nursery() as children,
        built(pair, children, "crashes", arguments.seed) as judge,
    ):
        matrix = Matrix(judge)
        for step in arguments.steps.split(","):
            every = [point for point in matrix.points(step) if arguments.only in point.label]
            points = sorted(random.sample(every, round(arguments.share * len(every))))
            print(f"{step}: {len(points)} of {len(every)} points", flush=True)
            if arguments.list:
                print("\n".join(f"   {point}" for point in points), flush=True)
            else:
                matrix.run(step, points, random)
        if not (arguments.no_servers or arguments.list):
            matrix.crash_servers(pair)
    print(matrix.summary())
    print("\n".join(matrix.failures))
    print(f"{time.monotonic() - began:.0f} s, seed {arguments.seed}")
    return 1 if matrix.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
