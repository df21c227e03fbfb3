"""A run that is killed in the middle, as a person finds it afterwards and mends it from the page."""

import psutil
import psycopg
import pytest
from psycopg import sql

from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.states import SliceState
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.ledger.slices import SliceRecord, read_slice
from migration_assets.postgres.activity import current_activity
from migration_assets.postgres.sessions import Connected, Databases, application_name
from migration_assets_tests.end_to_end.web import Web
from migration_assets_tests.ground import attempt_of

WEEK = FiscalWeek.parse("FY25-Q2|W08")
QUARTER_TABLE = sql.Identifier("public", "amenity_bookings_fy25_q2")
LEAF = sql.Identifier("public", "amenity_bookings_fy25_q2_w08")
CHECKS = ("row_count_matches", "checksum_matches")


# What it leaves in the databases, and the next copy, are tested without a page, too (test_copy_interrupted).
@pytest.mark.soak
def test_a_run_that_is_killed_leaves_nothing_and_the_next_one_completes(web: Web, pair: EmbeddedServers) -> None:
    assert web.materialize("preflight", checks=("nothing_blocks", "nothing_warns")) == "SUCCESS"
    assert web.materialize("quarter_partitions", WEEK.quarter.key) == "SUCCESS"
    databases = Databases(pair.legacy_url(), pair.base_url())
    with databases.session("base", "test") as base, psycopg.connect(pair.base_url()) as reader:
        # A reader holds the quarter, so that the loaded leaf waits for its place.
        reader.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE").format(QUARTER_TABLE))
        run = web.launch("migrated_slice", WEEK.key, CHECKS)

        def waits_for_its_place() -> bool:
            activity = current_activity(base).get(WEEK)
            return activity is not None and activity.phase == "swap"

        web.wait_until(waits_for_its_place, "the swap")
        _worker_of(web, base).kill()
        web.wait_until(lambda: not _record(databases).working, "the end of the worker's session")
        reader.rollback()

        record = _record(databases)
        assert (record.state, attempt_of(record).outcome, record.copies) == (SliceState.ABSENT, "interrupted", 1)
        assert base.execute(sql.SQL("SELECT count(*) FROM {}").format(LEAF)).fetchone() == (0,)
        assert base.execute("SELECT to_regclass('migration.amenity_bookings_fy25_q2_w08')").fetchone() == (None,)
        # The daemon looks after runs whose process is gone; then the partition counts as failed.
        web.wait_until(lambda: web.status(run) == "FAILURE", "Dagster noticing it")

        assert web.materialize("migrated_slice", WEEK.key, CHECKS) == "SUCCESS"
    record = _record(databases)
    assert (record.state, attempt_of(record).outcome, record.copies) == (SliceState.COPIED, "succeeded", 2)
    assert record.legacy == record.base


def _worker_of(web: Web, base: Connected) -> psutil.Process:
    """The process at the other end of the connection that copies."""
    row = base.execute(
        "SELECT client_port FROM pg_stat_activity WHERE application_name = %s", [application_name(f"{WEEK}:swap")]
    ).fetchone()
    assert row is not None
    [worker] = [
        process
        for process in web.processes()
        if any(connection.laddr.port == row[0] for connection in process.net_connections(kind="tcp"))
    ]
    return worker


def _record(databases: Databases) -> SliceRecord:
    with databases.session("base", "test") as base:
        record = read_slice(base, "public.amenity_bookings", WEEK)
    assert record is not None
    return record
