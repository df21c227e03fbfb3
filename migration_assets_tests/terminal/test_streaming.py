"""`stream` and `alert` as a person types them, on a real stream."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from psycopg import sql

from migration_assets.stream.subscription import apply_worker
from migration_assets_tests.conftest import Databases
from migration_assets_tests.ground import wait_for
from migration_assets_tests.terminal.live_quarter import LiveQuarter


def _subscription(quarter: LiveQuarter, statement: str) -> None:
    with quarter.ground.databases.session("base", "test") as base:
        base.execute(sql.SQL("ALTER SUBSCRIPTION {} " + statement).format(sql.Identifier(quarter.subscription)))  # pyright: ignore[reportArgumentType]


def _wait_for_worker(quarter: LiveQuarter) -> None:
    name = quarter.subscription
    with quarter.ground.databases.session("base", "test") as base:
        wait_for(lambda: (worker := apply_worker(base, name)) is not None and worker.pid, "the apply worker")


@pytest.fixture(autouse=True)
def _runs(quarter: LiveQuarter) -> None:
    _wait_for_worker(quarter)


def test_a_base_without_a_stream_is_told_how_to_start_one(databases: Databases, quarter: LiveQuarter) -> None:
    elsewhere = {"MIGRATION_LEGACY_URL": databases.legacy_url, "MIGRATION_BASE_URL": databases.base_url}
    result = quarter.run("stream", "status", **elsewhere)
    assert result.exit_code == 0, result.output
    assert "stream start QUARTER" in result.output


def test_a_healthy_stream_shows_its_figures_and_nothing_is_kept_or_sent(quarter: LiveQuarter) -> None:
    result = quarter.run("stream status")
    assert result.exit_code == 0, result.output
    for text in ("live for", "FY25-Q2 (13 weeks)", "retained WAL", "warning 30 s", "No problem was found"):
        assert text in result.output
    kept = "SELECT (SELECT count(*) FROM migration.stream_samples) + (SELECT count(*) FROM migration.alerts)"
    assert quarter.ground.one("base", kept) == 0
    assert "there is nothing to recover" in quarter.run("stream", "recover", "--by", "Ada").output


def test_a_subscription_disabled_by_hand_is_critical_and_resume_mends_it(quarter: LiveQuarter) -> None:
    _subscription(quarter, "DISABLE")
    result = quarter.run("stream status", MIGRATION_HEARTBEAT_SECONDS="0.3")
    assert result.exit_code == 1, result.output
    assert "CRITICAL subscription disabled" in result.output
    assert "Next: run `migration-assets stream resume`" in result.output
    assert "subscription is disabled" in quarter.run("status").output
    resumed = quarter.run("stream resume")
    assert resumed.exit_code == 0, resumed.output
    assert "the stream goes on (it was disabled by hand" in resumed.output
    _wait_for_worker(quarter)
    assert quarter.run("stream status").exit_code == 0
    assert "runs already" in quarter.run("stream resume").output


def test_a_paused_stream_says_why_and_is_nobodys_but_a_persons_to_resume(quarter: LiveQuarter) -> None:
    assert quarter.run("stream", "pause").exit_code == 2
    assert quarter.run("stream", "pause", "--reason", " ").exit_code == 2
    paused = quarter.run("stream", "pause", "--reason", "index [on] the base")
    assert paused.exit_code == 0, paused.output
    seen = quarter.run("stream status", MIGRATION_HEARTBEAT_SECONDS="0.3")
    assert seen.exit_code == 0, seen.output
    assert "held for" in seen.output
    assert "index [on] the base" in seen.output
    assert "stream held for" in quarter.run("status").output
    refused = quarter.run("validate FY25-Q2 W01")
    assert refused.exit_code == 2
    assert "a person holds the stream" in refused.stderr
    assert "Traceback" not in refused.output
    assert "goes on" in quarter.run("stream resume").output


def test_a_stream_is_started_once_and_not_for_weeks_that_are_not_there(quarter: LiveQuarter) -> None:
    again = quarter.run("stream start FY25-Q2")
    assert again.exit_code == 0, again.output
    assert "FY25-Q2 already under CDC: exact since" in again.output
    unopened = quarter.run("stream start FY25-Q3")
    assert unopened.exit_code == 2
    assert "quarter_partitions for FY25-Q3" in unopened.stderr
    assert quarter.run("stream start FY25").exit_code == 2


def test_a_rebuild_trues_up_every_week_and_says_what_it_mended(quarter: LiveQuarter) -> None:
    quarter.damage()
    rebuilt = quarter.run("stream start FY25-Q2 --rebuild")
    assert rebuilt.exit_code == 0, rebuilt.output
    assert "FY25-Q2|W05 repaired: 1 missing, 0 extra, 1 changed" in rebuilt.output
    assert "FY25-Q2 rebuilt: exact since" in rebuilt.output
    assert quarter.ground.contents("base", 5) == quarter.ground.contents("legacy", 5)


def test_a_legacy_that_is_away_is_a_finding_and_not_a_crash(quarter: LiveQuarter) -> None:
    result = quarter.run("stream status", MIGRATION_LEGACY_URL="postgresql://nobody:open-sesame@127.0.0.1:1/nowhere")
    assert result.exit_code == 1, result.output
    assert "CRITICAL legacy unreachable" in result.output
    assert "open-sesame" not in result.output + result.stderr


@contextmanager
def _channel(status: int) -> Generator[int]:
    """A webhook on this machine that answers with `status`."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Nothing: the test's output is for the test."""

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_alert_test_has_a_line_for_every_channel_and_no_url(quarter: LiveQuarter) -> None:
    with _channel(200) as good, _channel(503) as bad:
        urls = f"json://127.0.0.1:{good}/open-sesame"
        delivered = quarter.run("alert", "test", MIGRATION_ALERT_URLS=urls)
        failed = quarter.run("alert", "test", MIGRATION_ALERT_URLS=f"{urls} json://127.0.0.1:{bad}/open-sesame")
    assert delivered.exit_code == 0, delivered.output
    assert delivered.output.splitlines() == ["channel 1 (json): delivered"]
    assert failed.exit_code == 1
    assert "channel 1 (json): delivered\nchannel 2 (json): NOT delivered: " in failed.stdout
    for result in (delivered, failed):
        assert "open-sesame" not in result.output + result.stderr


def test_an_alert_test_without_channels_says_which_variable_is_missing(quarter: LiveQuarter) -> None:
    result = quarter.run("alert test")
    assert result.exit_code == 2
    assert "MIGRATION_ALERT_URLS is not set" in result.stderr
