"""What a person reads of a cutover: `stream status`, `status`, the dashboard; what the stream's commands say."""

from collections.abc import Generator
from datetime import timedelta

import pytest
from psycopg import sql

from migration_assets.cutover.machine import cut_over
from migration_assets.readiness.step import cutover_plan
from migration_assets.terminal.dashboard import Dashboard
from migration_assets_tests.clones import Clones
from migration_assets_tests.ground import wait_for
from migration_assets_tests.terminal.live_quarter import LiveQuarter, live_quarter
from migration_assets_tests.terminal.test_dashboard import drawn


@pytest.fixture(scope="module")
def switched(clones: Clones) -> Generator[LiveQuarter]:
    """The base is in charge."""
    with live_quarter(clones) as made:
        cut_over(cutover_plan(made.migration), approved_by="Ada", rehearse=False)
        yield made


def _reverse(quarter: LiveQuarter, statement: str) -> None:
    with quarter.ground.databases.session("legacy", "test") as legacy:
        name = sql.Identifier(f"{quarter.subscription}_back")
        legacy.execute(sql.SQL("ALTER SUBSCRIPTION {} " + statement).format(name))  # pyright: ignore[reportArgumentType]


def _page(quarter: LiveQuarter) -> str:
    return drawn(Dashboard(timedelta(hours=24), 30, 300, overview=quarter.overview()), width=160)


def test_while_the_base_is_in_charge_every_page_says_so_and_nothing_is_wrong(switched: LiveQuarter) -> None:
    result = switched.run("stream status")
    assert result.exit_code == 0, result.output
    for text in ("the base is in charge since", "(cutover 1), approved by Ada", "refuses writes of applications",
                 "reverse lag", "WAL retained on the base", "read from, WAL reserved",
                 "No problem was found"):  # fmt: skip
        assert text in result.output
    assert "room for WAL" not in result.output
    for page in (switched.run("status").output, _page(switched)):
        assert "the base is in charge since" in page
        assert "the reverse stream is being read" in " ".join(page.split())
        assert "stream resume" not in page


def test_a_reverse_stream_that_is_disabled_is_said_on_every_page(switched: LiveQuarter) -> None:
    _reverse(switched, "DISABLE")
    try:
        result = switched.run("stream status", MIGRATION_HEARTBEAT_SECONDS="0.3")
        assert result.exit_code == 1, result.output
        assert "CRITICAL reverse down" in result.output
        assert "disabled on the legacy" in result.output
        unread = "nobody reads the reverse stream: `migration-assets stream status`"
        wait_for(lambda: unread in _page(switched), "the walsender ends")
        assert unread in " ".join(switched.run("status").output.split())
    finally:
        _reverse(switched, "ENABLE")
    wait_for(lambda: switched.run("stream status").exit_code == 0, "it runs again")


@pytest.mark.parametrize(
    "command",
    ["stream resume", "stream start FY25-Q2", "stream start FY25-Q2 --rebuild", "validate FY25-Q2 W01",
     "validate FY25-Q2 --reconcile", "repair FY25-Q2 W01", "repair FY25-Q2 W01 --apply", "stream pause --reason x"],
)  # fmt: skip
def test_what_would_let_the_legacy_flow_is_refused_in_words(switched: LiveQuarter, command: str) -> None:
    attempts = switched.ground.one("base", "SELECT count(*) FROM migration.attempts")
    result = switched.run(command)
    assert result.exit_code == 2, result.output
    assert "the base is in charge since" in result.stderr
    assert "migration-assets rollback" in result.stderr.replace("\n", " ")
    assert switched.ground.one("base", "SELECT count(*) FROM migration.attempts") == attempts


def test_a_cutover_that_died_is_said_on_every_page_with_what_to_do(switched: LiveQuarter) -> None:
    switched.ground.run(
        "base",
        "INSERT INTO migration.cutovers (relation, kind, rehearse, approved_by, state)"
        " VALUES ('public.bookings', 'rollback', false, 'Ada', 'waiting')",
    )
    try:
        result = switched.run("stream status")
        assert "WARNING cutover unfinished: rollback 2 was left at waiting: its process died" in result.output
        assert "release-writes" in result.output
        for page in (switched.run("status").output, _page(switched)):
            assert "rollback 2 was left at waiting: its process died; `migration-assets release-writes`" in " ".join(
                page.split()
            )
    finally:
        switched.ground.run("base", "DELETE FROM migration.cutovers WHERE kind = 'rollback'")
