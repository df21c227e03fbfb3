"""What the legacy holds of a week is asked again where a lock was in the way."""

import logging

import psycopg
import pytest

from migration_assets.copying.weeks import measure_week
from migration_assets.postgres.sessions import Databases
from migration_assets_tests.archive.conftest import with_settings
from migration_assets_tests.conftest import Databases as Urls
from migration_assets_tests.defs.conftest import migration_of
from migration_assets_tests.ground import Ground, week


class _Releases(logging.Handler):
    """Ends a transaction at the first text of the log that says so."""

    def __init__(self, holder: psycopg.Connection, at: str) -> None:
        super().__init__()
        self.holder, self.at, self.met = holder, at, 0

    def emit(self, record: logging.LogRecord) -> None:
        if self.at in record.getMessage():
            self.met += 1
            self.holder.rollback()


@pytest.mark.long
@pytest.mark.parametrize("exact", [False, True])
def test_a_lock_on_the_legacy_costs_time_and_no_week(databases: Urls, exact: bool) -> None:
    ground = Ground(Databases(databases.legacy_url, databases.base_url)).fill(91)
    migration = with_settings(
        migration_of(ground.databases.legacy_url, ground.databases.base_url),
        table="public.bookings", lock_timeout_ms=50, retry_attempts=3,
    )  # fmt: skip
    with psycopg.connect(ground.databases.legacy_url) as holder:
        holder.execute("LOCK TABLE bookings IN ACCESS EXCLUSIVE MODE")
        releases = _Releases(holder, "measuring of FY25-Q2|W05: try 1 of 3 failed")
        log = logging.getLogger("migration_assets.ledger.steps")
        log.addHandler(releases)
        try:
            measure = measure_week(migration, week(5), exact=exact)
        finally:
            log.removeHandler(releases)
    assert releases.met == 1
    assert measure.first is not None
    assert not exact or measure.rows == 7
