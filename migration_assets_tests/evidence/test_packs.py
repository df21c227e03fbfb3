"""Pages of a real migration, and the commands that write and verify them."""

import os
import pwd
import re
import shlex
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from migration_assets.cli import main
from migration_assets.copying.weeks import copy_week, validate_week
from migration_assets.domain.errors import MigrationError
from migration_assets.domain.evidence_chain import EvidenceError
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.evidence import writing as evidence
from migration_assets.evidence.writing import verify_evidence, write_packs
from migration_assets.ledger.chain import read_chain
from migration_assets.runtime import Migration
from migration_assets_tests.archive.conftest import QUARTER, WEEKS
from migration_assets_tests.evidence.story import tell

pytestmark = pytest.mark.long

Run = Callable[[str], Result]


@pytest.fixture(scope="module")
def told(signed: Migration) -> Migration:
    tell(signed)
    return signed


@pytest.fixture
def run(told: Migration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MIGRATION_")]:
        monkeypatch.delenv(name)
    environment = {
        "MIGRATION_LEGACY_URL": told.databases.legacy_url,
        "MIGRATION_BASE_URL": told.databases.base_url,
        "MIGRATION_VAR": str(tmp_path / "var"),
    }
    return lambda line: CliRunner().invoke(main, shlex.split(line), env=environment, catch_exceptions=False)


def test_pages_are_written_say_what_is_proven_and_prove_themselves(run: Run, tmp_path: Path) -> None:
    written = run("evidence write")
    assert written.exit_code == 0, written.output
    quarter = tmp_path / "var/evidence/evidence-public.amenity_bookings-FY25-Q2.html"
    whole = tmp_path / "var/evidence/evidence-public.amenity_bookings-migration.html"
    assert sorted(path.name for path in quarter.parent.iterdir()) == [quarter.name, whole.name]
    assert "FY25-Q2: Proven" in written.output
    assert "the whole migration: Not proven as a whole yet" in written.output, "the legacy holds other quarters"
    assert "FY24-Q3 is in the old database alone: it was not moved yet" in whole.read_text()

    text = quarter.read_text()
    for said in (
        "when Ada Lovelace signed on",
        f"by role migrator, {pwd.getpwuid(os.getuid()).pw_name} on {socket.gethostname()}",
        "only in the archive",
        "out of the table, still kept in the database",
        "back in the table",
        "all 13 weeks the same",
        "old database: PostgreSQL 16",
        "FY25-Q2|W04",
    ):
        assert said in text, said
    assert text.count("<svg") == 4
    assert len(re.findall('class="yes">same<', text)) == 14

    for path in (quarter, whole):
        verified = run(f"evidence verify --pack {path}")
        assert verified.exit_code == 0, verified.output
        assert "is unchanged, and the chain" in verified.output
    assert "The evidence of public.amenity_bookings holds" in run("evidence verify").output


def test_a_page_holds_no_row_of_the_table_and_no_credentials(told: Migration, tmp_path: Path) -> None:
    secrets = {"postgresql://", "@127.0.0.1", *re.findall(r":([^:@/]+)@", told.databases.base_url)}
    with told.databases.session("legacy", "test") as legacy:
        for (row,) in legacy.execute("SELECT to_jsonb(b) FROM public.amenity_bookings b LIMIT 200"):
            secrets |= {value for value in row.values() if isinstance(value, str) and len(value) > 16}
    assert len(secrets) > 200
    for pack in write_packs(told, (), tmp_path):
        text = pack.path.read_text()
        assert [secret for secret in secrets if secret in text] == []


def test_the_command_says_what_was_tampered_with_and_ends_with_1(told: Migration, run: Run) -> None:
    change = "UPDATE migration.sign_offs SET note = {} WHERE id = 1"
    with told.databases.session("base", "test") as base:
        base.execute(change.format("'never mind'").encode())
        try:
            found, page = run("evidence verify"), run("evidence write FY25-Q2")
        finally:
            base.execute(change.format("''").encode())
    assert found.exit_code == 1
    assert "does NOT hold. First: record 3: sign_off 1 was changed in the ledger: note" in found.output
    assert "FY25-Q2: The record is broken" in page.output
    assert run("evidence verify").exit_code == 0


def test_what_cannot_be_done_is_said_with_exit_code_2(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for line in (
        "evidence write FY30-Q1",
        "evidence write FY25-Q9",
        f"evidence write --to {tmp_path}/file/x",
        "evidence verify --pack nowhere.html",
    ):
        result = run(line)
        assert result.exit_code == 2, line
        assert result.stderr


def test_a_page_whose_record_cannot_be_noted_never_takes_its_place(
    told: Migration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [before] = write_packs(told, [QUARTER], tmp_path)
    content = before.path.read_bytes()
    (tmp_path / "ours").write_text("ours")
    link = before.path.with_suffix(".html.partial")
    link.symlink_to(tmp_path / "ours")  # of somebody who has the folder, too

    def fail(*_: object, **__: object) -> None:
        raise MigrationError("the base went away")

    monkeypatch.setattr(evidence, "append", fail)
    with pytest.raises(MigrationError):
        write_packs(told, [QUARTER], tmp_path)
    assert before.path.read_bytes() == content
    assert {before.path, link, tmp_path / "ours"} == set(tmp_path.iterdir())
    assert (tmp_path / "ours").read_text() == "ours"
    assert verify_evidence(told, before.path).holds


def test_a_quarter_that_the_ledger_does_not_know_is_refused_before_anything_is_written(
    told: Migration, tmp_path: Path
) -> None:
    with pytest.raises(EvidenceError, match="FY30-Q1"):
        write_packs(told, [QUARTER, FiscalQuarter(2030, 1)], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_signature_that_was_overtaken_is_no_proof_any_more(told: Migration, tmp_path: Path) -> None:
    copy_week(told, WEEKS[12])
    validate_week(told, WEEKS[12])
    [pack] = write_packs(told, [QUARTER], tmp_path)
    assert pack.answer.word == "No longer proven"
    text = pack.path.read_text()
    assert "FY25-Q2|W13: is validated again" in text
    assert "does not stand any more" in text
    assert verify_evidence(told).holds, "nobody tampered with anything"
    with told.databases.session("base", "test") as base:
        assert read_chain(base, told.spec.relation)[-1].kind == "pack"
