"""kill -9 of the process that archives, at random moments: the archive of before or the new one is whole, always."""

import os
import random
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from migration_assets.archive.archiving import archive_week, reread_archive
from migration_assets.domain.errors import ArchiveError
from migration_assets.retirement.restoring import drill_week
from migration_assets.retirement.retiring import retire_week
from migration_assets.runtime import Migration
from migration_assets_tests.archive.conftest import LATER, WEEKS
from migration_assets_tests.archive.test_leaving_and_coming_back import on, state_of
from migration_assets_tests.ground import wait_for

_WEEK = WEEKS[3]  # the one with odd values
_KILLS, _KILLS_SOAK = 2, 8
_AT_WORK = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%FY25-Q2|W04:archive%'"


def start(migration: Migration) -> subprocess.Popen[bytes]:
    archive = migration.settings.archive_url
    assert archive is not None
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MIGRATION_")} | {
        "MIGRATION_LEGACY_URL": migration.databases.legacy_url,
        "MIGRATION_BASE_URL": migration.databases.base_url,
        "MIGRATION_VAR": str(migration.settings.var),
        "MIGRATION_ARCHIVE_URL": archive.get_secret_value(),
        "MIGRATION_AS_OF": LATER.isoformat(),
    }
    command = [sys.executable, "-m", "migration_assets.cli", "archive", "FY25-Q2", "W04"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def start_and_kill(migration: Migration, chance: random.Random) -> None:
    base = migration.databases.base_url
    process = start(migration)
    try:
        wait_for(lambda: on(base, _AT_WORK)[0][0] > 0 or process.poll() is not None, "it is at work")
        # Its work takes about half a second from here on.
        time.sleep(chance.uniform(0, 0.6))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_for(lambda: on(base, _AT_WORK)[0][0] == 0, "the server notices")


def why_not_readable(migration: Migration) -> str:
    try:
        reread_archive(migration, _WEEK)
    except ArchiveError as error:
        return str(error)
    return ""


@pytest.mark.long
def test_killed_at_any_moment_an_archive_is_whole_and_a_plain_rerun_ends_well(signed: Migration, soak: bool) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    first = archive_week(signed, _WEEK).record
    for turn in range(_KILLS_SOAK if soak else _KILLS):
        start_and_kill(signed, chance)
        assert state_of(signed, _WEEK) == "archived"
        # The ledger's archive, or a newer one that its death kept out of the ledger: never half of one.
        if error := why_not_readable(signed):
            assert "manifest" in error, f"seed {seed}, kill {turn}: {error}"
            assert retire_week(signed, _WEEK).obstacles, "what the ledger does not know is no reason to leave"
        assert archive_week(signed, _WEEK).record.native == first.native
        assert reread_archive(signed, _WEEK).record.verified_equal
    assert drill_week(signed, _WEEK).fingerprint == first.native
    archive = signed.settings.archive_url
    assert archive is not None
    root = Path(archive.get_secret_value())
    left = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert len(left) == 3, f"one file, its manifest, and whose place it is: {left}"
    assert retire_week(signed, _WEEK).obstacles == ()
