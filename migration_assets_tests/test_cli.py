"""The command line as a person types it, on real databases."""

import os
import re
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result
from psycopg import sql

from migration_assets import cli
from migration_assets.cli import main
from migration_assets.embedded.bookings import create_bookings
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


def test_whatever_goes_wrong_is_text_and_exit_code_2_since_1_is_an_answer(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*words: str) -> str:
        result = run(environment, *words)
        assert result.exit_code == 2, (words, result.exception)
        assert "Traceback" not in result.output
        return str(result.stderr)

    assert "not UTF-8" in wrong("stream", "pause", "--reason", "\udcff")
    assert "not UTF-8" in wrong("query", "SELECT '\udcff'")
    assert "1<=x<=" in wrong("query", "SELECT 1", "--limit", "9" * 30)
    Path(".env").write_bytes(b"MIGRATION_TABLE=\xff\n")
    assert ".env cannot be read" in wrong("status")
    Path(".env").unlink()

    def no_such_file(_: object) -> None:
        (tmp_path / ("n" * 300)).read_text()

    def bug(_: object) -> None:
        raise KeyError("a guest's name")

    def no_room(_: object) -> None:
        with psycopg.connect(environment["MIGRATION_BASE_URL"]) as base:
            base.execute("SET temp_file_limit = 0; SET work_mem = '64kB'")
            base.execute("SELECT count(*) FROM (SELECT n FROM generate_series(1, 100000) n ORDER BY -n OFFSET 1) one")

    monkeypatch.setattr(cli, "examine", no_such_file)
    assert "OSError: [Errno 36]" in wrong("preflight")
    monkeypatch.setattr(cli, "examine", no_room)
    assert "(SQLSTATE 53400)" in wrong("preflight")
    # Where a bug of ours is is shown, and not what it says.
    monkeypatch.setattr(cli, "examine", bug)
    told = wrong("preflight")
    assert "KeyError, which was not expected, at test_cli.py:" in told
    assert "cli.py:" in told
    assert "guest" not in told


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


def test_a_name_that_a_stranger_chose_does_nothing_to_the_terminal(environment: dict[str, str]) -> None:
    with psycopg.connect(environment["MIGRATION_LEGACY_URL"], autocommit=True) as connection:
        connection.execute("CREATE SCHEMA migration; CREATE TABLE migration.markers (x int)")
        create = sql.SQL("CREATE VIEW migration.{} AS SELECT 1 AS x")
        connection.execute(create.format(sql.Identifier("his\x1b[2J\x1b]0;all is well\x07\u202e")))
    result = run(environment, "preflight")
    shown = " ".join(re.sub(r"[│\s]+", " ", result.output).split())
    assert "his[2J]0;all is well of" in shown
    assert not {"\x1b", "\x07", "\u202e"} & set(result.output)
