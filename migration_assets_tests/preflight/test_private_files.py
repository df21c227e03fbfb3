"""What is written is nobody else's to read, and what others may read is a finding."""

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from migration_assets.cli import main
from migration_assets.domain.findings import Severity
from migration_assets.postgres.sessions import Databases
from migration_assets.preflight.run import examine_files
from migration_assets_tests.cutover.guard import migration_of

_WRITE = """
from contextlib import suppress
from pathlib import Path
from migration_assets.archive.store import LocalStore
from migration_assets.domain.errors import EmbeddedServerError
from migration_assets.runtime import open_migration
from migration_assets.settings import load_settings
with suppress(EmbeddedServerError):  # they were never started
    open_migration(load_settings(env_file=None))
LocalStore(Path("archive")).publish("week/manifest", b"x")
"""
_REAL = {"MIGRATION_LEGACY_URL": "postgresql://h/legacy", "MIGRATION_BASE_URL": "postgresql://h/base"}


@pytest.mark.long(but=1)
@pytest.mark.parametrize(
    ("settings", "folder", "file"),
    [
        (_REAL, 0o700, 0o600),
        ({**_REAL, "MIGRATION_FILES_FOR_GROUP": "true"}, 0o750, 0o640),
        # The embedded servers of root run as somebody else, who gets through folders and sees nothing in them.
        ({}, 0o711 if os.geteuid() == 0 else 0o700, 0o600),
    ],
)
def test_files_are_private_whatever_the_shell_says(
    tmp_path: Path, settings: dict[str, str], folder: int, file: int
) -> None:
    subprocess.run([sys.executable, "-c", _WRITE], cwd=tmp_path, env={**os.environ, **settings}, umask=0, check=True)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"archive": folder, "week": folder, "manifest": file}


def test_what_others_may_read_is_named_with_the_command_that_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    migration = migration_of(Databases("postgresql://h/legacy", "postgresql://h/base"))
    migration = replace(migration, settings=migration.settings.model_copy(update={"var": tmp_path / "var"}))
    [found] = examine_files(migration)
    assert found.severity is Severity.INFO, "nothing is there yet"
    for name in (".env", "url", "secrets/MIGRATION_BASE_URL", "var/archive/manifest", "var/dagster/run"):
        Path(name).parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        Path(name).write_text("")
        Path(name).chmod(0o644)
    monkeypatch.setenv("MIGRATION_LEGACY_URL_FILE", "url")
    monkeypatch.setenv("MIGRATION_SECRETS_FOLDER", "secrets")
    for folder in ("var", "var/archive"):
        Path(folder).chmod(0o755)
    [found] = examine_files(migration)
    assert found.severity is Severity.WARNING
    var = tmp_path / "var"  # settings make it absolute
    assert found.remedy == f"chmod o-rw .env url secrets/MIGRATION_BASE_URL {var} {var}/archive"
    subprocess.run(["/bin/sh", "-c", found.remedy], check=True)
    [found] = examine_files(migration)
    assert found.severity is Severity.INFO
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    elsewhere.chmod(0o755)
    for url in (str(elsewhere), f"file://{elsewhere}"):
        changed = migration.settings.model_copy(update={"archive_url": SecretStr(url)})
        [found] = examine_files(replace(migration, settings=changed))
        assert found.remedy == f"chmod o-rw {elsewhere}"


@pytest.mark.parametrize("command", [["servers", "start"], ["ui"]])
def test_a_command_that_starts_the_embedded_servers_is_private_from_its_first_file_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIGRATION_VAR", str(tmp_path / "var"))
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "servers.json").write_text("no record")
    before = os.umask(0)
    try:
        done = CliRunner().invoke(main, command)
    finally:
        os.umask(before)
    assert done.exit_code == 2, done.output
    assert stat.S_IMODE((tmp_path / "var" / "servers.lock").stat().st_mode) & 0o077 == 0
