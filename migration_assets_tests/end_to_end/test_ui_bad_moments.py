"""A code server that does not answer, and a storage that restarts, while one run works and another one is queued."""

from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError

import psutil
import psycopg
import pytest
from psycopg import sql

from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.embedded.bookings import create_bookings
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.ledger.slices import read_slice
from migration_assets.postgres.activity import current_activity
from migration_assets.postgres.sessions import Databases
from migration_assets_tests.end_to_end.web import ENDED, Web, running_ui
from migration_assets_tests.server_pairs import running_pair

QUARTER = "FY25-Q2"
QUARTER_TABLE = sql.Identifier("public", "amenity_bookings_fy25_q2")
CHECKS = ("row_count_matches", "checksum_matches")
_MESSAGES = """query($id: ID!) { runOrError(runId: $id) { ... on Run { eventConnection { events {
  ... on MessageEvent { message } } } } } }"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Generator[EmbeddedServers]:
    with running_pair(tmp_path_factory.mktemp("moments") / "var") as servers:
        with psycopg.connect(servers.legacy_url()) as connection:
            create_bookings(connection, rows=3000)
        yield servers


@pytest.fixture(scope="module")
def web(pair: EmbeddedServers) -> Generator[Web]:
    variables = {"MIGRATION_VAR": str(pair.var), "MIGRATION_PARALLEL_COPIES": "1", "DAGSTER_GRPC_TIMEOUT_SECONDS": "15"}
    with running_ui(Path(pair.var).parent, variables) as running:
        succeeded(running, running.launch("preflight", checks=("nothing_blocks", "nothing_warns")))
        succeeded(running, running.launch("quarter_partitions", QUARTER))
        yield running


@contextmanager
def one_works_and_one_waits(web: Web, pair: EmbeddedServers, first: str, second: str) -> Generator[tuple[str, str]]:
    """Runs of two weeks: the first waits for a reader of the quarter to get its place, the second one is queued."""
    with (
        psycopg.connect(pair.base_url()) as reader,
        Databases(pair.legacy_url(), pair.base_url()).session("base", "test") as base,
    ):
        reader.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE").format(QUARTER_TABLE))
        one = web.launch("migrated_slice", first, CHECKS)

        def waits_for_its_place() -> bool:
            activity = current_activity(base).get(FiscalWeek.parse(first))
            return activity is not None and activity.phase == "swap"

        web.wait_until(waits_for_its_place, "the swap")
        other = web.launch("migrated_slice", second, CHECKS)
        web.wait_until(lambda: web.status(other) == "QUEUED", "the second one's place in the queue")
        yield one, other
        with suppress(psycopg.OperationalError):
            reader.rollback()


def ended(web: Web, run: str) -> str:
    found = ""

    def is_over() -> bool:
        nonlocal found
        # A page that is asked while the storage is away, or over a connection that it lost, is loaded again.
        with suppress(HTTPError):
            found = web.status(run)
        return found in ENDED

    web.wait_until(is_over, "the run's end", seconds=240)
    return found


def succeeded(web: Web, run: str) -> None:
    assert ended(web, run) == "SUCCESS", messages(web, run)


def messages(web: Web, run: str) -> str:
    events = web.ask(_MESSAGES, id=run)["runOrError"]["eventConnection"]["events"]
    return "\n".join(event["message"] for event in events if event)


def equal(pair: EmbeddedServers, *weeks: str) -> bool:
    with Databases(pair.legacy_url(), pair.base_url()).session("base", "test") as base:
        records = [read_slice(base, "public.amenity_bookings", FiscalWeek.parse(week)) for week in weeks]
    return all(record is not None and record.legacy is not None and record.legacy == record.base for record in records)


def code_servers(web: Web) -> list[psutil.Process]:
    return [one for one in web.processes() if {"api", "grpc"} <= set(one.cmdline())]


@pytest.mark.soak
def test_a_code_server_that_does_not_answer_costs_a_queued_run_time_and_not_the_run(
    web: Web, pair: EmbeddedServers
) -> None:
    with one_works_and_one_waits(web, pair, f"{QUARTER}|W08", f"{QUARTER}|W09") as (working, waiting):
        frozen = code_servers(web)
        assert frozen
        for process in frozen:
            process.suspend()
    try:
        # The run itself is a process of its own.
        succeeded(web, working)
        web.wait_until(lambda: "failed to reach the user code server" in messages(web, waiting), "the queue's try")
        assert web.status(waiting) == "QUEUED"
    finally:
        for process in frozen:
            process.resume()
    succeeded(web, waiting)
    assert equal(pair, f"{QUARTER}|W08", f"{QUARTER}|W09")


@pytest.mark.soak
def test_a_storage_that_restarts_loses_no_week(web: Web, pair: EmbeddedServers) -> None:
    weeks = (f"{QUARTER}|W10", f"{QUARTER}|W11")
    with one_works_and_one_waits(web, pair, *weeks) as runs:
        pair.kill("base")
        pair.start()
    working, waiting = runs
    if ended(web, working) != "SUCCESS":
        # What it did not get to tell the storage was lost with it.
        succeeded(web, web.launch("migrated_slice", weeks[0], CHECKS))
    succeeded(web, waiting)
    assert equal(pair, *weeks)
