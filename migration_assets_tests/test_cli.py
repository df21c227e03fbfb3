"""The command line as a person types it, on real databases."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result

from migration_assets.cli import main
from migration_assets.embedded.bookings import create_bookings
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets_tests.conftest import Databases


@pytest.fixture
def environment(databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables of a real deployment; no .env of the developer's is read."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MIGRATION_")]:
        monkeypatch.delenv(name)
    return {
        "MIGRATION_LEGACY_URL": databases.legacy_url,
        "MIGRATION_BASE_URL": databases.base_url,
        "MIGRATION_AS_OF": "2024-06-24T12:00:00Z",
    }


def run(environment: dict[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), env=environment)


def test_preflight_prints_every_finding_and_the_quarters(environment: dict[str, str]) -> None:
    with psycopg.connect(environment["MIGRATION_LEGACY_URL"]) as connection:
        create_bookings(connection, rows=2000)
    result = run(environment, "preflight", "--all")
    assert result.exit_code == 0, result.output
    assert "0 blocking" in result.output
    assert "wal_level" in result.output
    assert "FY24-Q3, FY24-Q4, FY25-Q1, FY25-Q2" in result.output


def test_preflight_that_blocks_exits_with_1_and_names_the_remedy(environment: dict[str, str]) -> None:
    result = run(environment, "preflight")
    assert result.exit_code == 1, result.output
    assert "blocking" in result.output
    assert "MIGRATION_TABLE" in result.output


def test_status_of_an_untouched_base_says_what_to_do(environment: dict[str, str]) -> None:
    result = run(environment, "status")
    assert result.exit_code == 0, result.output
    assert "materialize quarter_partitions" in result.output


def test_a_wrong_setting_is_a_sentence_with_exit_code_2(environment: dict[str, str]) -> None:
    result = run({**environment, "MIGRATION_PARALLEL_COPIES": "many"}, "status")
    assert result.exit_code == 2
    assert "MIGRATION_PARALLEL_COPIES" in result.stderr
    assert "Traceback" not in result.output


def test_a_password_is_never_shown(environment: dict[str, str]) -> None:
    url = "postgresql://someone:open-sesame@127.0.0.1:1/nowhere"
    hidden = {**environment, "MIGRATION_LEGACY_URL": url, "MIGRATION_BASE_URL": url}
    for arguments in (["settings"], ["preflight"], ["status"]):
        result = run(hidden, *arguments)
        assert "open-sesame" not in result.output + result.stderr + str(result.exception), arguments


def test_the_demo_and_the_servers_refuse_to_touch_real_databases(environment: dict[str, str]) -> None:
    for arguments in (["demo"], ["servers", "start"], ["servers", "stop"], ["servers", "remove", "--yes"]):
        result = run(environment, *arguments)
        assert result.exit_code == 2, arguments
        assert "point at real databases" in result.stderr


def test_servers_that_never_ran_are_said_to_be_so(tmp_path: Path, environment: dict[str, str]) -> None:
    nothing = {"MIGRATION_LEGACY_URL": None, "MIGRATION_BASE_URL": None, "MIGRATION_VAR": str(tmp_path / "var")}
    result = CliRunner().invoke(main, ["servers", "status"], env=nothing)
    assert result.exit_code == 0, result.output
    assert "never started" in result.output
    result = CliRunner().invoke(main, ["status"], env=nothing)
    assert result.exit_code == 2
    assert "servers start" in result.stderr
    assert environment


def test_the_demo_tells_its_story_and_writes_what_it_measured(tmp_path: Path) -> None:
    var = tmp_path / "var"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MIGRATION_")}
    command = [sys.executable, "-m", "migration_assets.cli", "demo", "--rows", "5000"]
    servers = EmbeddedServers(var)
    try:
        done = subprocess.run(
            command, env={**environment, "MIGRATION_VAR": str(var)}, cwd=tmp_path, capture_output=True, text=True,
            timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        summary = json.loads((var / "demo" / "summary.json").read_text())
        assert summary["success"] is True
        assert summary["failures"] == {}
        assert len(summary["weeks"]) == 13
        assert all(week["equal"] and week["state"] == "signed_off" for week in summary["weeks"])
        assert all(week["legacy_fingerprint"] == week["base_fingerprint"] for week in summary["weeks"])
        with psycopg.connect(servers.base_url()) as base:
            [(rows,)] = base.execute(
                "SELECT count(*) FROM amenity_bookings WHERE booked_at >= '2024-04-01Z' AND booked_at < '2024-07-01Z'"
            ).fetchall()
        assert summary["rows"] == sum(week["rows"] for week in summary["weeks"]) > 1000
        assert summary["traffic"]["transactions"] > 0
        cdc = summary["cdc"]
        assert (cdc["weeks_validated"], cdc["rows_damaged"]) == (13, 3)
        found = re.search(r"\b([01]) missing, 0 extra, ([012]) changed\.", cdc["mismatch_found"])
        assert found, cdc["mismatch_found"]
        # Traffic that writes a damaged row anew, or deletes it, mends it before anybody looks.
        assert int(found[1]) + int(found[2]) > 0
        assert [cdc[step] for step in ("repaired", "reconciled", "signed_off")] == [True] * 3
        assert cdc["final_comparison"]["differing"] == 0
        assert cdc["final_comparison"]["rows"] == rows
        assert cdc["lag_seconds"]["measured"] > 0
        assert summary["evidence"]["holds"] is True
        assert all(Path(pack).is_file() for pack in summary["evidence"]["packs"])
        archive = summary["archive"]
        assert archive["opened_by_sensor"] == ["FY25-Q3"]
        assert (archive["weeks_archived"], archive["weeks_retired"], archive["failures"]) == (13, 13, [])
        assert "stale" in archive["late_change_refused"]
        assert archive["cold_answers_equal_legacy"] is True
        assert archive["rows_restored"] > 0
        assert [one["differing"] for one in archive["final_comparisons"].values()] == [0, 0]
        assert len(list((var / "archive").rglob("*.parquet"))) == 13
        cutover = summary["cutover"]
        assert [one["kind"] for one in cutover["runs"]] == ["rehearsal", "cutover", "rollback", "cutover"]
        assert all(0 < one["downtime_ms"] < 60_000 and one["rows_compared"] > 0 for one in cutover["runs"])
        applications = cutover["applications"]
        assert (applications["switches"], applications["errors"]) == (3, 0)
        assert applications["transactions_on_base"] > 0
        assert [one["differing"] for one in cutover["final_comparisons"].values()] == [0, 0]
        assert (cutover["decommissioned"], cutover["failures"]) == (True, [])
        with psycopg.connect(servers.legacy_url()) as legacy, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            legacy.execute("UPDATE amenity_bookings SET guests = 0")
        assert "Every week was proven equal" in done.stdout
    finally:
        servers.remove()
