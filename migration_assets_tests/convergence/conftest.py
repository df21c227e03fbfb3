"""Which seeds to run: `--seeds 1,2,3`; without it one that is always the same, and in a soak some that never are."""

import pytest

from migration_assets_tests.convergence.seeds import FIXED
from migration_assets_tests.sweeps import telling

FRESH = 2


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", help="seeds of the convergence suite, with commas in between")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        chosen: str | None = metafunc.config.getoption("--seeds", default=None)
        if chosen:
            metafunc.parametrize("seed", [int(seed) for seed in chosen.split(",")])
        else:
            # Drawn in the test: whoever collects for several processes must find the same tests in each.
            names = [*map(str, FIXED), *(f"fresh {number}" for number in range(1, FRESH + 1))]
            metafunc.parametrize("seed", telling([*FIXED, *[None] * FRESH], {0}), ids=names)
