"""One live quarter for all tests of a module: each leaves it as it found it, under CDC and equal."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from migration_assets_tests.clones import Clones
from migration_assets_tests.terminal.live_quarter import LiveQuarter, live_quarter


@pytest.fixture(scope="package")
def quarter(clones: Clones) -> Generator[LiveQuarter]:
    with live_quarter(clones) as made:
        yield made


@pytest.fixture(autouse=True)
def _nothing_of_the_developers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MIGRATION_")]:
        monkeypatch.delenv(name)
