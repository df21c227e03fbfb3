"""Which seeds to run: `--seeds 1,2,3`; without it two that are always the same and some that never are."""

import pytest

from migration_assets_tests.convergence.seeds import some_seeds

SEEDS = 4


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", help="seeds of the convergence suite, with commas in between")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        chosen: str | None = metafunc.config.getoption("--seeds", default=None)
        metafunc.parametrize("seed", [int(seed) for seed in chosen.split(",")] if chosen else some_seeds(SEEDS))
