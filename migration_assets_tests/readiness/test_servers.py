"""Open transactions, sessions that wait, settings and connections: red by cause, green when mended."""

import re
import threading

import psycopg
import pytest

from migration_assets.domain.findings import Finding, Severity
from migration_assets.postgres.sessions import Side
from migration_assets.readiness.rules import setting_findings, stream_findings
from migration_assets.readiness.servers import examine_activity, examine_lock_table, examine_settings
from migration_assets_tests.ground import wait_for
from migration_assets_tests.readiness.conftest import looking
from migration_assets_tests.readiness.test_data import wrong
from migration_assets_tests.readiness.test_rights import run
from migration_assets_tests.terminal.live_quarter import LiveQuarter


def activity(quarter: LiveQuarter, long_seconds: float = 0.2) -> dict[str, Finding]:
    with looking(quarter, long_seconds=long_seconds) as sides:
        return wrong(examine_activity(sides))


def settings(quarter: LiveQuarter) -> dict[str, Finding]:
    with looking(quarter) as sides:
        return wrong(examine_settings(sides))


def test_statements_that_lock_every_partition_are_told_before_they_fill_the_lock_table(quarter: LiveQuarter) -> None:
    with looking(quarter) as sides:
        [before] = examine_lock_table(sides)
    assert before.severity is Severity.INFO
    run(quarter, "base", *(f"CREATE INDEX more_{number} ON public.bookings (guests)" for number in range(40)))
    with psycopg.connect(quarter.ground.databases.base_url) as session:
        session.execute("SELECT count(*) FROM public.bookings WHERE guests = -1")
        # Its own look at the locks is on the system's views.
        row = session.execute(
            "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE l.pid = pg_backend_pid()"
            " AND c.relnamespace = 'public'::regnamespace"
        ).fetchone()
    assert row is not None
    with looking(quarter) as sides:
        [found] = examine_lock_table(sides)
    run(quarter, "base", *(f"DROP INDEX more_{number}" for number in range(40)))
    assert found.severity is Severity.WARNING
    assert f"locks {row[0]:,} tables and indexes (13 leaves)" in found.evidence
    assert re.search(r"ALTER SYSTEM SET max_locks_per_transaction = \d\d\d?;", found.remedy)


@pytest.mark.parametrize("side", ["legacy", "base"])
def test_a_long_transaction_blocks_where_it_writes_and_warns_where_it_reads(quarter: LiveQuarter, side: Side) -> None:
    assert activity(quarter) == {}
    url = quarter.ground.databases.url(side)
    with psycopg.connect(url, application_name="<!channel> [win](http://x)@all") as session:
        session.execute("SELECT count(*) FROM bookings WHERE note = '4111-1111'")
        wait_for(lambda: activity(quarter), "it is long")
        assert activity(quarter)["long_transaction"].severity is Severity.WARNING
        session.execute("UPDATE bookings SET guests = guests WHERE false")
        found = activity(quarter)["long_transaction"]
        assert found.severity is Severity.BLOCKING
        assert "to the table: UPDATE" in found.evidence
        assert "(migrator, ?channel? ?win?(http://x)?all, " in found.evidence, "a name is no markup for a chat"
        assert "guests" not in found.evidence, "a statement of others holds their data"
        assert f"pg_terminate_backend({session.info.backend_pid})" in found.remedy
        assert activity(quarter, long_seconds=600) == {}
        session.rollback()
    assert activity(quarter) == {}


def test_a_prepared_transaction_blocks(quarter: LiveQuarter) -> None:
    run(quarter, "legacy", "BEGIN; CREATE TABLE unborn (); PREPARE TRANSACTION 'forgotten';")
    assert "'forgotten'" in activity(quarter, 600)["prepared_transaction"].evidence
    run(quarter, "legacy", "ROLLBACK PREPARED 'forgotten'")
    assert activity(quarter, 600) == {}


def test_a_session_that_is_stuck_blocks_and_names_who_holds_it_up(quarter: LiveQuarter) -> None:
    url = quarter.ground.databases.base_url
    with psycopg.connect(url) as holder, psycopg.connect(url) as waiter:
        holder.execute("SELECT pg_advisory_lock(4711)")
        thread = threading.Thread(target=lambda: waiter.execute("SELECT pg_advisory_lock(4711)"))
        thread.start()
        wait_for(lambda: "stuck_session" in activity(quarter), "it is stuck")
        assert f"{{{holder.info.backend_pid}}}" in activity(quarter)["stuck_session"].evidence
        holder.execute("SELECT pg_advisory_unlock(4711)")
        thread.join()
    assert activity(quarter) == {}


def test_a_setting_that_changes_results_blocks_until_its_remedy_was_run(quarter: LiveQuarter) -> None:
    assert settings(quarter) == {}
    name = str(quarter.ground.one("legacy", "SELECT current_database()"))
    run(
        quarter,
        "legacy",
        f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'",
        f"ALTER DATABASE {name} SET search_path = elsewhere, public",
        f"ALTER DATABASE {name} SET statement_timeout = 9000",
    )
    found = settings(quarter)
    assert found["setting_default_transaction_isolation"].severity is Severity.BLOCKING
    assert found["setting_search_path"].severity is Severity.BLOCKING
    assert found["setting_statement_timeout"].severity is Severity.WARNING
    for one in found.values():
        run(quarter, "base", one.remedy)
    assert settings(quarter) == {}
    for side in ("legacy", "base"):
        run(quarter, side, f"ALTER DATABASE {name} RESET ALL")


def test_a_setting_of_a_role_and_fewer_connections_are_warned_of(quarter: LiveQuarter) -> None:
    name = str(quarter.ground.one("legacy", "SELECT current_database()"))
    for side in ("legacy", "base"):
        run(quarter, side, "CREATE ROLE set_apart")
    run(quarter, "legacy", f"ALTER ROLE set_apart IN DATABASE {name} SET work_mem = '7MB'")
    found = settings(quarter)["role_settings"]
    assert "ALTER ROLE set_apart SET work_mem = '7MB';" in found.remedy
    run(quarter, "base", found.remedy.removeprefix("in the base: "))
    run(quarter, "base", f"ALTER DATABASE {name} CONNECTION LIMIT 90")
    found = settings(quarter)
    assert set(found) == {"max_connections"}
    assert found["max_connections"].severity is Severity.WARNING
    run(quarter, "base", f"ALTER DATABASE {name} CONNECTION LIMIT -1")
    for side in ("legacy", "base"):
        run(quarter, side, "DROP ROLE set_apart")
    assert settings(quarter) == {}


def test_the_stream_and_settings_are_judged_without_a_database() -> None:
    [gone] = stream_findings([], None, None)
    assert gone.severity is Severity.BLOCKING
    assert wrong(stream_findings([], "live", 0.1)) == {}
    assert wrong(stream_findings([], "held", 0.1))["stream"].severity is Severity.BLOCKING
    assert wrong(stream_findings([], "live", None))["stream"].severity is Severity.BLOCKING
    fewer = setting_findings({"max_prepared_transactions": "5"}, {"max_prepared_transactions": "2"}, "b")
    assert wrong(fewer)["setting_max_prepared_transactions"].severity is Severity.WARNING
    assert wrong(setting_findings({"max_prepared_transactions": "2"}, {"max_prepared_transactions": "5"}, "b")) == {}
