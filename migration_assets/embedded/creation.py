"""initdb, all or nothing: a data folder that exists is always a complete one."""

import os
import shutil
import tempfile
from pathlib import Path

from migration_assets.domain.errors import EmbeddedServerError
from migration_assets.embedded import server_settings
from migration_assets.embedded.addresses import SUPERUSER
from migration_assets.embedded.binaries import Binaries, Major
from migration_assets.embedded.passwords import write_secret
from migration_assets.embedded.privileges import ServerUser, own
from migration_assets.embedded.processes import end_programs_on, run
from migration_assets.embedded.shared_memory import free_shared_memory

_ASIDE = "initdb-"
# Order by code point everywhere. 18 brings its own C.UTF-8; 16 needs the system's, which macOS may lack.
_LOCALES: dict[Major, list[list[str]]] = {
    16: [["--locale=C.UTF-8"], ["--locale=C"]],
    18: [["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]],
}


def create_cluster(folder: Path, binaries: Binaries, user: ServerUser | None, password: str, *, sync: bool) -> None:
    """Make `folder/data` unless it is there.

    It is made aside and renamed at the very end; what an earlier, killed attempt left behind is removed first.

    Args:
        folder: The cluster's own folder, made when missing.
        binaries: Programs that `user` can run.
        user: Who will own the data; None means ourselves.
        password: The superuser's; it passes through a file that only the server user can read, removed at once.
        sync: Whether to wait for the disk; False only where a power cut may lose everything.

    Raises:
        EmbeddedServerError: initdb failed; nothing is left of it.
    """
    data = folder / "data"
    if data.is_dir():
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    own(folder, user)
    for leftover in folder.glob(f"{_ASIDE}*"):
        end_programs_on(leftover)  # we hold the lock, so whoever works there has lost its starter
        free_shared_memory(leftover / "data")
        shutil.rmtree(leftover, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=folder))
    try:
        own(aside, user)
        secret = aside / "secret"
        write_secret(secret, f"{password}\n", user)
        _initdb(aside / "data", binaries, user, secret, sync=sync)
        secret.unlink()
        with (aside / "data" / "postgresql.conf").open("a", encoding="utf-8") as configuration:
            configuration.write(f"\ninclude = '{server_settings.FILE_NAME}'\n")
            configuration.flush()
            os.fsync(configuration.fileno())
        (aside / "data").rename(data)
        _sync_folder(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _initdb(data: Path, binaries: Binaries, user: ServerUser | None, secret: Path, *, sync: bool) -> None:
    arguments = [
        binaries.program("initdb"),
        f"--pgdata={data}",
        f"--username={SUPERUSER}",
        f"--pwfile={secret}",
        "--auth=scram-sha-256",
        # Many rounds slow down who guesses words; our password is 32 random bytes. Dagster connects for every event,
        # and with the default of 4,096 rounds half of a short run would be spent on shaking hands.
        "--set=scram_iterations=1",
        "--encoding=UTF8",
        "--data-checksums",
        "--no-instructions",
    ]
    if not sync:
        arguments.append("--no-sync")
    code, output = 1, ""
    for locale in _LOCALES[binaries.major]:
        code, output = run([*arguments, *locale], user=user, timeout=300)
        if code == 0:
            return
        shutil.rmtree(data, ignore_errors=True)
    raise EmbeddedServerError(
        f"initdb of PostgreSQL {binaries.major} failed with exit code {code}: {output}",
        where=str(data.parent.parent),
        state_left="no cluster was created",
        next_step="correct what initdb complains about, then start again",
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
