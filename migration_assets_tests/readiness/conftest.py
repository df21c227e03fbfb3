"""One quarter that is ready for the cutover, for all tests of this folder: each mends what it breaks."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from migration_assets.evidence.approval import sign_off_quarter
from migration_assets.postgres.catalogue import require_table
from migration_assets.readiness.rules import ReadinessPlan, Sides
from migration_assets_tests.clones import Clones
from migration_assets_tests.ground import CALENDAR, QUARTER
from migration_assets_tests.terminal.live_quarter import LiveQuarter, live_quarter


@pytest.fixture(scope="package")
def quarter(clones: Clones) -> Generator[LiveQuarter]:
    with live_quarter(clones) as made:
        made.ground.reconcile()
        sign_off_quarter(made.migration, QUARTER, "Ada")
        made.ground.run("base", "ANALYZE bookings")
        yield made


@pytest.fixture(autouse=True)
def _nothing_of_the_developers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MIGRATION_")]:
        monkeypatch.delenv(name)


@contextmanager
def looking(quarter: LiveQuarter, *, long_seconds: float = 30.0) -> Generator[Sides]:
    """What every examination is given, as of now."""
    ground = quarter.ground
    plan = ReadinessPlan(quarter.migration.now(), timedelta(hours=24), long_seconds=long_seconds)
    with ground.databases.session("legacy", "test") as legacy, ground.databases.session("base", "test") as base:
        of_legacy = require_table(legacy, ground.spec.table, "legacy")
        of_base = require_table(base, ground.spec.table, "base")
        yield Sides(legacy, base, ground.spec, CALENDAR, plan, of_legacy, of_base)
