"""`abandon` as a person types it."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from migration_assets_tests.abandon.catalogue import assert_as_found, catalogue
from migration_assets_tests.clones import Clones
from migration_assets_tests.confirmed_deeds import code_in
from migration_assets_tests.terminal.live_quarter import LiveQuarter, live_quarter


@pytest.fixture
def quarter(clones: Clones, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[LiveQuarter]:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MIGRATION_")]:
        monkeypatch.delenv(name)
    with live_quarter(clones) as made:
        yield made


@pytest.mark.long
def test_without_yes_it_only_tells_and_with_it_the_legacy_is_clean(quarter: LiveQuarter) -> None:
    before = catalogue(quarter.ground)
    told = quarter.run("abandon")
    assert told.exit_code == 0, told.output
    for text in ("Nothing was changed", "drop subscription", "drop slot", "13 weeks under CDC", "--yes"):
        assert text in told.output, text
    assert_as_found(quarter.ground, before)
    assert quarter.run("abandon --identity full").exit_code == 2
    assert "the base is there" in quarter.run("abandon --legacy-only").stderr
    unconfirmed = quarter.run("abandon --yes")
    assert unconfirmed.exit_code == 2
    assert "it asks for a confirmation code, and none was given" in unconfirmed.stderr
    quarter.ground.run(
        "base",
        "DROP TABLE migration.confirmations, migration.archive_adoptions",
        "DROP TABLE migration.ledger_identity, migration.watchers, migration.session_locks",
        "ALTER TABLE migration.cuts DROP COLUMN worker",
        "ALTER TABLE migration.repairs DROP COLUMN images_removed_at",
        "DO $$ DECLARE t regclass; BEGIN FOR t IN SELECT attrelid FROM pg_attribute WHERE attname = 'done_by'"
        " AND NOT attisdropped LOOP EXECUTE format('ALTER TABLE %s DROP COLUMN done_by', t); END LOOP; END $$",
        "DELETE FROM migration.schema_versions WHERE version > 9",
    )
    of_old = quarter.run("abandon --yes --confirm ABCD-EFGH-JKMN")
    assert "nobody was given this confirmation code" in of_old.stderr, "a ledger that is older than codes"
    assert_as_found(quarter.ground, before)
    code = code_in(quarter.run("abandon").output)
    done = quarter.run(f"abandon --yes --confirm {code}")
    assert done.exit_code == 0, done.output
    assert "is abandoned" in done.output
    assert quarter.ground.ask("legacy", "SELECT 1 FROM pg_namespace WHERE nspname = 'migration'") == []
    again = quarter.run("abandon --yes")
    assert again.exit_code == 2
    assert "nothing to abandon" in again.stderr
    seen = quarter.run("readiness")
    assert seen.exit_code == 1
    assert "there is no change stream" in seen.output
    started = quarter.run("stream start FY25-Q2")
    assert started.exit_code == 0, started.output
    quarter.ground.assert_same()
    old = quarter.run(f"abandon --yes --confirm {code}")
    assert old.exit_code == 2, "it abandons nothing twice"
    assert "this confirmation code was used at" in old.stderr
    quarter.ground.assert_same()


@pytest.mark.long
def test_a_base_that_is_gone_is_no_obstacle_with_legacy_only(quarter: LiveQuarter) -> None:
    away = {"MIGRATION_BASE_URL": "postgresql://nobody@127.0.0.1:1/nowhere", "MIGRATION_RETRY_ATTEMPTS": "1"}
    assert quarter.run("abandon", "--yes", **away).exit_code == 2
    with quarter.ground.databases.session("base", "test") as base:
        base.execute(f"ALTER SUBSCRIPTION {quarter.subscription} DISABLE".encode())
    alone = ("abandon", "--legacy-only", "--identity", "nothing")
    before = catalogue(quarter.ground)

    def refused(code: str, why: str) -> None:
        result = quarter.run(*alone, "--yes", *(("--confirm", code) if code else ()), **away)
        assert result.exit_code == 2
        assert why in result.stderr
        assert "`migration-assets abandon --legacy-only` shows what is there now, and its code" in result.stderr
        assert_as_found(quarter.ground, before)

    refused("", "it asks for a confirmation code, and none was given")
    other = code_in(quarter.run("abandon", "--legacy-only", **away).output)
    refused(other, "this confirmation code was not given for what is there now")
    code = code_in(quarter.run(*alone, **away).output)
    assert code == code_in(quarter.run(*alone, **away).output), "as long as nothing changes"
    with quarter.ground.databases.session("legacy", "test") as legacy:
        # The same names, and yet another one: as after a new beginning.
        legacy.execute(f"ALTER PUBLICATION {quarter.subscription} RENAME TO other".encode())
        legacy.execute(f"ALTER PUBLICATION other RENAME TO {quarter.subscription}".encode())
    refused(code, "this confirmation code was not given for what is there now")
    code = code_in(quarter.run(*alone, **away).output)
    done = quarter.run(*alone, "--yes", "--confirm", code, **away)
    assert done.exit_code == 0, done.output
    identity = "SELECT relreplident::text FROM pg_class WHERE relname = 'bookings' AND relkind = 'r'"
    assert quarter.ground.one("legacy", identity) == "n"
