"""`archive`, `retire`, `restore` and `query` as a person types them."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner, Result

from migration_assets.cli import main
from migration_assets.runtime import Migration
from migration_assets_tests.archiving.conftest import LATER
from migration_assets_tests.archiving.test_leaving_and_coming_back import on
from migration_assets_tests.confirming import code_in

Run = Callable[..., Result]


@pytest.fixture
def run(signed: Migration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MIGRATION_")]:
        monkeypatch.delenv(name)
    archive = signed.settings.archive_url
    assert archive is not None
    environment = {
        "MIGRATION_LEGACY_URL": signed.databases.legacy_url,
        "MIGRATION_BASE_URL": signed.databases.base_url,
        "MIGRATION_VAR": str(signed.settings.var),
        "MIGRATION_ARCHIVE_URL": archive.get_secret_value(),
        "MIGRATION_AS_OF": LATER.isoformat(),
        "MIGRATION_RETENTION_QUARTERS": "1",
    }

    def invoke(line: str, **more: str) -> Result:
        return CliRunner().invoke(main, shlex.split(line), env=environment | more, catch_exceptions=False)

    return invoke


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
    assert "12 weeks in the base, 1 in Parquet alone" in asked.output
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
