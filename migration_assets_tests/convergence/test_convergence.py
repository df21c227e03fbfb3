"""A few seeds of the suite; `make soak` runs hundreds.

To run one again: pytest migration_assets_tests/convergence/test_convergence.py --seeds N
"""

from migration_assets.embedded.servers import EmbeddedServers
from migration_assets_tests.convergence.ordeal import run_seed
from migration_assets_tests.convergence.seeds import fresh_seed

STEPS = 6


def test_whatever_is_asked_of_a_migration_under_traffic_both_sides_end_equal(
    servers: EmbeddedServers, seed: int | None
) -> None:
    chosen = fresh_seed() if seed is None else seed
    print(f"seed {chosen}")
    print(run_seed(servers, chosen, STEPS))
