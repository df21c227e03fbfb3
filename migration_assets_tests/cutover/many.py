"""The ordeal under load, many times, on servers of its own.

python -m migration_assets_tests.cutover.many --seeds 20 --first 1
"""

import argparse
import secrets
import sys
import time
import traceback

from migration_assets_tests.cutover.ground import ground_of
from migration_assets_tests.cutover.killed_ordeal import killed_ordeal
from migration_assets_tests.cutover.ordeal import ordeal
from migration_assets_tests.server_pairs import quick_pair


def main() -> None:
    """One line a seed; exit code 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--killed", action="store_true", help="kill the process again and again")
    options = parser.parse_args()
    run = killed_ordeal if options.killed else ordeal
    failed = 0
    with quick_pair() as servers:
        for seed in range(options.first, options.first + options.seeds):
            began, name = time.monotonic(), f"many_{seed}"
            servers.recreate_database("legacy", name)
            servers.recreate_database("base", name)
            try:
                print(run(ground_of(servers.legacy_url(name), servers.base_url(name)), seed), end="")
            except Exception:  # noqa: BLE001 - the others are to be tried all the same
                failed += 1
                print(f"seed {seed} FAILED\n{traceback.format_exc()}", end="")
            print(f"; {time.monotonic() - began:.1f} s", flush=True)
            servers.drop_database("base", name)
            servers.drop_database("legacy", name)
    print(f"{options.seeds - failed} of {options.seeds} seeds: nothing lost, nothing doubled")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
