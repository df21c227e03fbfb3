"""Live traffic: what it counts is what a trigger saw; it outlives its connections and leaves nothing open."""

import itertools
import json
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from migration_assets.domain.errors import EmbeddedServerError, SettingsError
from migration_assets.embedded.bookings import create_bookings
from migration_assets.embedded.traffic import (
    TrafficPlan,
    TrafficStats,
    run_traffic,
    start_traffic_process,
    stop_traffic_process,
)
from migration_assets.embedded.traffic_changes import Changes, Work, is_usable
from migration_assets_tests.conftest import Databases
from migration_assets_tests.freezes import patience

ROWS, FLAT_OUT = 3_000, TrafficPlan(rate=0, seed=11)
# The audit judges by the rows alone, with a calendar of its own.
AUDIT = """
CREATE TABLE audit (kind text NOT NULL);
CREATE FUNCTION quarter_of(t timestamptz) RETURNS date LANGUAGE sql AS $$
    SELECT date_trunc('quarter', t AT TIME ZONE 'UTC')::date $$;
CREATE FUNCTION week_of(t timestamptz) RETURNS int LANGUAGE sql AS $$
    SELECT least(12, ((t AT TIME ZONE 'UTC')::date - quarter_of(t)) / 7) $$;
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit SELECT CASE
        WHEN TG_OP = 'INSERT' THEN
            CASE WHEN NEW.id > (SELECT max(id) FROM first_ids) AND NOT EXISTS (SELECT FROM gone WHERE id = NEW.id)
                 THEN 'inserts' ELSE 'reinserts' END
        WHEN TG_OP = 'DELETE' THEN 'deletes'
        WHEN quarter_of(NEW.booked_at) <> quarter_of(OLD.booked_at) THEN 'moved_quarter'
        WHEN week_of(NEW.booked_at) <> week_of(OLD.booked_at) THEN 'moved_week'
        WHEN NEW.notes IS DISTINCT FROM OLD.notes THEN 'updates_notes'
        ELSE 'updates' END;
    IF TG_OP = 'DELETE' THEN INSERT INTO gone VALUES (OLD.id); END IF;
    RETURN NULL;
END $$;
CREATE TABLE first_ids AS SELECT coalesce(max(id), 0) AS id FROM amenity_bookings;
CREATE TABLE gone (id bigint);
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON amenity_bookings FOR EACH ROW EXECUTE FUNCTION audit();
"""


def make_legacy(url: str, rows: int = ROWS) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        create_bookings(connection, rows=rows)
        connection.execute(AUDIT)


def seen(url: str) -> dict[str, int]:
    """Row changes by kind as the trigger saw them, and the rows of the table."""
    with psycopg.connect(url, autocommit=True) as connection:
        counts: dict[str, int] = dict(connection.execute("SELECT kind, count(*) FROM audit GROUP BY kind").fetchall())
        [[rows]] = connection.execute("SELECT count(*) FROM amenity_bookings").fetchall()
    return counts | {"rows": rows}


def counted(stats: TrafficStats, rows: int = ROWS) -> dict[str, int]:
    """The same from the traffic's own counts. A trigger cannot tell the two kinds of small updates apart."""
    kinds = ("inserts", "updates_notes", "deletes", "reinserts", "moved_week", "moved_quarter")
    counts = {kind: getattr(stats, kind) for kind in kinds}
    counts["updates"] = stats.updates + stats.updates_toast_unchanged
    return {k: v for k, v in counts.items() if v} | {"rows": rows + stats.inserts + stats.reinserts - stats.deletes}


def after(loops: int) -> Callable[[], bool]:
    calls = itertools.count()
    return lambda: next(calls) >= loops


SESSIONS = b"FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'demo traffic'"


def sessions(url: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(b"SELECT state " + SESSIONS).fetchall()


@pytest.mark.long
def test_every_kind_of_change_is_made_and_its_count_is_what_the_table_saw(databases: Databases) -> None:
    make_legacy(databases.legacy_url)
    stats = run_traffic(databases.legacy_url, FLAT_OUT, stop=after(800))
    never = {"lost_connections", "in_doubt", "errors", "last_error"}
    never |= {"refused", "longest_refusal_ms", "switches", "on_base"}  # see test_switch
    assert not [f.name for f in fields(stats) if f.name not in never and not getattr(stats, f.name)]
    assert [getattr(stats, name) for name in sorted(never)] == [0, 0, "", 0.0, 0, 0, 0, 0]
    assert stats.transactions + stats.rollbacks == 800
    assert seen(databases.legacy_url) == counted(stats)
    assert sessions(databases.legacy_url) == []


@pytest.mark.long
def test_a_rolled_back_transaction_or_savepoint_leaves_nothing(databases: Databases) -> None:
    make_legacy(databases.legacy_url, rows=200)
    with psycopg.connect(databases.legacy_url, autocommit=True) as connection:
        connection.execute("CREATE SEQUENCE attempted")  # a sequence remembers what a rollback forgets
        connection.execute(
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM nextval('attempted'); RETURN NULL; END $$; "
            "CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON amenity_bookings "
            "FOR EACH ROW EXECUTE FUNCTION note()"
        )
        stats = run_traffic(databases.legacy_url, FLAT_OUT, stop=after(300))
        [[attempted, kept]] = connection.execute(
            "SELECT (SELECT last_value FROM attempted), (SELECT count(*) FROM audit)"
        ).fetchall()
    assert stats.rollbacks > 10
    assert stats.savepoint_rollbacks > 10
    assert attempted >= kept + stats.rollbacks + stats.savepoint_rollbacks
    assert seen(databases.legacy_url) == counted(stats, 200)


@pytest.mark.long
def test_equal_seeds_write_the_same_on_both_server_versions(databases: Databases) -> None:
    results: list[Any] = []
    for url in (databases.legacy_url, databases.base_url):
        make_legacy(url, rows=1_000)
        stats = run_traffic(url, FLAT_OUT, stop=after(200))
        with psycopg.connect(url, autocommit=True) as connection:
            [[digest]] = connection.execute(
                "SELECT md5(string_agg(concat_ws('|', id, extract(epoch FROM booked_at), status, price, md5(notes)), "
                "'~' ORDER BY id)) FROM amenity_bookings"
            ).fetchall()
        results.append((replace(stats, seconds=0.0), digest))
    assert results[0] == results[1]


def test_it_writes_to_an_empty_table(databases: Databases) -> None:
    make_legacy(databases.legacy_url, rows=0)
    stats = run_traffic(databases.legacy_url, FLAT_OUT, stop=after(100))
    assert stats.inserts > 20
    assert stats.errors == 0
    assert seen(databases.legacy_url)["rows"] == counted(stats, 0)["rows"]


@pytest.mark.long
def test_it_keeps_to_its_rate_and_reports_each_second(databases: Databases) -> None:
    make_legacy(databases.legacy_url, rows=200)
    reports: list[TrafficStats] = []
    until, plan = time.monotonic() + 1.5, TrafficPlan(rate=40)
    stats = run_traffic(databases.legacy_url, plan, stop=lambda: time.monotonic() > until, on_stats=reports.append)
    assert stats.transactions + stats.rollbacks == pytest.approx(60, abs=20)
    assert len(reports) == 3
    assert reports[-1] == stats


@pytest.mark.long
def test_a_terminated_backend_is_replaced_and_counted(databases: Databases) -> None:
    make_legacy(databases.legacy_url)
    done = threading.Event()
    results: list[TrafficStats] = []
    thread = threading.Thread(
        target=lambda: results.append(run_traffic(databases.legacy_url, FLAT_OUT, stop=done.is_set)), daemon=True
    )
    thread.start()
    killed = 0
    with psycopg.connect(databases.legacy_url, autocommit=True) as connection:
        while killed < 3 and thread.is_alive():
            time.sleep(0.3)
            killed += connection.execute(b"SELECT pg_terminate_backend(pid) " + SESSIONS).rowcount
    time.sleep(0.5)
    done.set()
    thread.join(timeout=patience(15))
    [stats] = results  # empty when the thread died
    assert stats.lost_connections == 3
    assert stats.transactions > 50
    assert stats.last_error
    if stats.in_doubt == 0:
        assert seen(databases.legacy_url) == counted(stats)
    assert sessions(databases.legacy_url) == []


class CutChanges(Changes):
    """Loses its server process after a change, while the client is about to commit, roll back or go on."""

    def __init__(self, killer: psycopg.Connection[Any]) -> None:
        super().__init__(FLAT_OUT.seed, FLAT_OUT.first, FLAT_OUT.as_of)
        self._killer = killer

    def _change(self, connection: psycopg.Connection[Any], work: Work) -> None:
        super()._change(connection, work)
        if self._random.random() < 0.5:
            pid = connection.info.backend_pid
            self._killer.execute("SELECT pg_terminate_backend(%s)", [pid])
            while self._killer.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid]).rowcount:
                time.sleep(0.001)  # the function's own waiting comes in steps of 0.1 s


@pytest.mark.long
def test_a_connection_lost_at_any_point_is_an_error_of_the_database_and_commits_nothing(databases: Databases) -> None:
    make_legacy(databases.legacy_url, rows=300)
    messages, stats = list[str](), TrafficStats()
    with psycopg.connect(databases.legacy_url, autocommit=True) as killer:
        changes = CutChanges(killer)
        for _ in range(150):
            with psycopg.connect(databases.legacy_url, autocommit=True) as connection:
                try:
                    stats.add(changes.transact(connection))
                except psycopg.OperationalError as error:
                    messages.append(str(error))
                    assert not is_usable(connection)
                    connection.close()
    assert "the connection was lost in a rollback" in messages, "the seed must reach this point"
    assert len(messages) > 75
    assert seen(databases.legacy_url) == counted(stats, 300)


def test_a_failing_statement_is_an_error_and_not_the_end(databases: Databases) -> None:
    make_legacy(databases.legacy_url, rows=100)
    with psycopg.connect(databases.legacy_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE amenity_bookings RENAME TO hidden")
        stats = run_traffic(databases.legacy_url, FLAT_OUT, stop=after(6))
    assert stats.errors > 0
    assert stats.transactions == 0
    assert stats.last_error.startswith("UndefinedTable: ")


@pytest.mark.long
def test_a_process_gets_the_url_in_its_environment_and_stops_between_transactions(
    databases: Databases, tmp_path: Path
) -> None:
    make_legacy(databases.legacy_url)
    stats_file = tmp_path / "stats.json"
    process = start_traffic_process(databases.legacy_url, TrafficPlan(rate=300), stats_file=stats_file)
    time.sleep(1.3)
    running = json.loads(stats_file.read_text())
    stats = stop_traffic_process(process)
    assert isinstance(process.args, list)
    assert not [argument for argument in process.args if "postgres" in str(argument)]
    assert 0 < running["transactions"] <= stats.transactions
    assert TrafficStats.from_json(stats_file.read_text()) == stats
    assert list(tmp_path.iterdir()) == [stats_file]
    assert seen(databases.legacy_url) == counted(stats)
    assert sessions(databases.legacy_url) == []


def test_a_process_that_cannot_connect_is_reported_without_its_password(tmp_path: Path) -> None:
    url = "postgresql://nobody:verysecret@127.0.0.1:1/nowhere"
    with pytest.raises(EmbeddedServerError, match="did not start") as caught:
        start_traffic_process(url, TrafficPlan(), stats_file=tmp_path / "stats.json")
    assert "verysecret" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"rate": -1.0}, {"first": datetime(2024, 1, 1)}, {"first": TrafficPlan().as_of}])  # noqa: DTZ001 - naive on purpose
def test_a_plan_that_makes_no_sense_cannot_be_built(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        TrafficPlan(**wrong)
