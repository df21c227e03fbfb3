"""`archive`, `retire`, `restore` and `query` as a person types them."""

import contextlib
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner, Result

from migration_assets.cli import main
from migration_assets.runtime import Migration
from migration_assets_tests.archive.conftest import LATER, WEEKS
from migration_assets_tests.archive.test_leaving_and_coming_back import on, state_of
from migration_assets_tests.confirmed_deeds import code_in

Run = Callable[..., Result]


@pytest.fixture
def environment(signed: Migration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MIGRATION_")]:
        monkeypatch.delenv(name)
    archive = signed.settings.archive_url
    assert archive is not None
    return {
        "MIGRATION_LEGACY_URL": signed.databases.legacy_url,
        "MIGRATION_BASE_URL": signed.databases.base_url,
        "MIGRATION_VAR": str(signed.settings.var),
        "MIGRATION_ARCHIVE_URL": archive.get_secret_value(),
        "MIGRATION_AS_OF": LATER.isoformat(),
        "MIGRATION_RETENTION_QUARTERS": "1",
    }


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    def invoke(line: str, **more: str) -> Result:
        return CliRunner().invoke(main, shlex.split(line), env=environment | more, catch_exceptions=False)

    return invoke


@pytest.mark.long
def test_a_week_from_the_archive_to_its_return(run: Run, signed: Migration, tmp_path: Path) -> None:
    archived = run("archive FY25-Q2 W01-W02")
    assert archived.exit_code == 0, archived.output
    assert "checksum" in archived.output
    assert "2 of 2 weeks archived." in archived.output
    assert "1 of 1 weeks read again." in run("archive FY25-Q2 W02 --reread").output

    look = run("retire FY25-Q2 W02-W03")
    assert look.exit_code == 1, "W03 is not archived"
    assert "W02 may leave: nothing stands in the way" in look.output
    assert "W03 stays: " in look.output
    assert "Nothing was changed" in look.output

    asked_for = run("retire FY25-Q2 W02 --apply")
    assert asked_for.exit_code == 2, asked_for.output
    assert "it asks for a confirmation code, and none was given" in asked_for.stderr
    left = run(f"retire FY25-Q2 W02 --apply --confirm {code_in(look.output)}")
    assert left.exit_code == 0, left.output
    assert "lies in quarantine" in left.output
    assert "to be dropped after 2024-11-08" in left.output

    asked = run(
        "query \"SELECT fiscal_week, count(*) AS n FROM amenity_bookings WHERE fiscal_week = 'W02' GROUP BY 1\""
    )
    assert asked.exit_code == 0, asked.output
    assert "12 weeks in the base, 1 only in Parquet" in asked.output
    assert (
        "PARQUET" in run("query --explain \"SELECT count(*) FROM amenity_bookings WHERE fiscal_week = 'W02'\"").output
    )

    target = tmp_path / "all.parquet"
    written = run(f"query 'SELECT * FROM amenity_bookings' --to {target}")
    assert written.exit_code == 0, written.output
    there = on(signed.databases.legacy_url, "SELECT count(*) FROM amenity_bookings WHERE booked_at >= '2024-04-01'")
    assert duckdb.sql(f"SELECT count(*) FROM '{target}'").fetchall() == there

    assert "restored, compared and dropped" in run("restore FY25-Q2 W02 --drill").output
    back = run("restore FY25-Q2 W02")
    assert back.exit_code == 0, back.output
    assert "back from quarantine" in back.output
    again = run("restore FY25-Q2 W02")
    assert again.exit_code == 2
    assert "it is in the base" in again.output


def test_what_cannot_be_asked_or_done_is_said_without_a_secret(run: Run) -> None:
    wrong = run("query 'DELETE FROM amenity_bookings'")
    assert wrong.exit_code == 2
    assert "a question is one SELECT" in wrong.output
    assert "Next: " in wrong.output
    url = run("archive FY25-Q2 W05", MIGRATION_ARCHIVE_URL="ftp://key:hunter2@host/x")
    assert url.exit_code == 2
    assert "hunter2" not in url.output
    assert "s3://" in url.output, "the forms that work"
    settings = run("settings", MIGRATION_ARCHIVE_URL="s3://key:hunter2@bucket/x")
    assert "hunter2" not in settings.output
    empty = run("archive FY25-Q3 W01")
    assert empty.exit_code == 2
    assert "not open in the base" in empty.output


@pytest.mark.long
def test_on_a_terminal_it_looks_by_itself_and_asks(run: Run, environment: dict[str, str], signed: Migration) -> None:
    assert run("archive FY25-Q2 W10-W11").exit_code == 0
    ours, its = pty.openpty()
    line = [sys.executable, "-m", "migration_assets.cli", "retire", "FY25-Q2", "W10-W11", "--apply"]
    # So narrow that a line would be folded; what is to be copied is not.
    process = subprocess.Popen(
        line, stdin=its, stdout=its, stderr=its, env=os.environ | environment | {"COLUMNS": "40"}
    )
    os.close(its)
    try:
        shown = ""
        while "Code: " not in shown:
            shown += os.read(ours, 4096).decode()
        [codes] = re.findall(r"To retire them, type (\S+) \(good once, until [\d:]+ UTC\)", shown)
        assert codes.count(",") == 1, "one for each week"
        assert state_of(signed, WEEKS[9]) == "archived"
        os.write(ours, f"{codes}\n".encode())
        with contextlib.suppress(OSError):  # its end
            while said := os.read(ours, 4096).decode():
                shown += said
    finally:
        os.close(ours)  # whoever waits for a code waits no longer
        process.wait()
    assert "2 of 2 weeks retired." in shown
    assert state_of(signed, WEEKS[9]) == "retired"
