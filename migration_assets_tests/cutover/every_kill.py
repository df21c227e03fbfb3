"""kill -9 at every statement of a cutover, a rehearsal or a rollback, on servers of its own.

python -m migration_assets_tests.cutover.every_kill --kind cutover
"""

import argparse
import sys
import time
import traceback
from random import Random

from migration_assets_tests.cutover.child import STEPS
from migration_assets_tests.cutover.ground import ground_of
from migration_assets_tests.cutover.kills import all_points, points_at_states, record_of, stage, strike
from migration_assets_tests.server_pairs import quick_pair


def main() -> None:
    """One line a blow; exit code 1 where one was not mended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=STEPS, default="cutover")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--skip", type=int, default=0, help="blows that an earlier run of this seed has done")
    options = parser.parse_args()
    random, give_up = Random(options.seed), time.monotonic() + options.minutes * 60
    done = fell = failed = 0
    with quick_pair() as servers:
        number, ground = 0, None
        points = None
        while points is None or points:
            if ground is None:
                number += 1
                for side in ("legacy", "base"):
                    servers.recreate_database(side, f"kills_{number}")
                ground = ground_of(servers.legacy_url(f"kills_{number}"), servers.base_url(f"kills_{number}"))
            stage(ground, options.kind)
            if points is None:
                labels = record_of(ground, options.kind)
                points = sorted({*points_at_states(options.kind, labels), *all_points(labels)})
                random.shuffle(points)
                points = points[: len(points) - options.skip]
                print(f"{len(points)} blows", flush=True)
                continue
            point = points.pop()
            try:
                struck = strike(ground, options.kind, point, random)
                done, fell = done + 1, fell + struck.fell
                print(f"{options.kind}, {point}: {struck}", flush=True)
            except Exception:  # noqa: BLE001 - the others are to be tried all the same
                failed += 1
                print(f"FAILED {options.kind}, {point}\n{traceback.format_exc()}", flush=True)
                ground = None
            if time.monotonic() > give_up:
                print(f"the time is over with {len(points)} blows left")
                break
    print(f"{done} blows were mended, {fell} of them fell, {failed} were not")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
