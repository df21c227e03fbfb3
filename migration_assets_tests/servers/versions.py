"""Servers of other versions than the embedded ones, where their programs are on this machine.

Debian's are looked for where its packages put them; others where `MIGRATION_TEST_POSTGRESQL_17=/…/bin` says.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from migration_assets.embedded import cluster
from migration_assets.embedded.access import SUPERUSER, ensure_password
from migration_assets.embedded.cluster import Cluster
from migration_assets.embedded.processes import Binaries, locate, own, run, server_user
from migration_assets.embedded.reach import reachable_binaries


@dataclass(frozen=True)
class Installed(Binaries):
    """Programs outside of the wheel; their servers take the settings of 16, which all versions know."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder.parent

    def program(self, name: str) -> str:
        """The wheel's newest one where this installation lacks it: a client works with older servers."""
        path = self.folder / name
        return str(path) if path.is_file() else reachable_binaries(locate(18), server_user())[0].program(name)


def installed(major: int) -> Installed | None:
    """Programs of that version that can be run here."""
    for folder in (os.environ.get(f"MIGRATION_TEST_POSTGRESQL_{major}"), f"/usr/lib/postgresql/{major}/bin"):
        if folder and (Path(folder) / "postgres").is_file():
            return Installed(16, Path(folder).parent, Path(folder))
    return None


def new_cluster(name: str, programs: Installed, folder: Path, like: Cluster, settings: Mapping[str, str]) -> Cluster:
    """An empty cluster of these programs, with the passwords of another one; it does not run yet."""
    user = server_user()
    folder.mkdir(mode=0o700)
    secret = folder / "secret"
    secret.write_text(ensure_password(like.passfile, user))
    for path in (folder, secret):
        own(path, user)
    code, said = run(
        [programs.program("initdb"), f"--pgdata={folder / 'data'}", f"--username={SUPERUSER}", f"--pwfile={secret}",
         "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"],
        user=user,
    )  # fmt: skip
    assert code == 0, said
    secret.unlink()
    with (folder / "data" / "postgresql.conf").open("a", encoding="utf-8") as configuration:
        configuration.write(f"\ninclude = '{cluster.FILE_NAME}'\n")
    return Cluster(name, folder, like.passfile, 0, programs, "other", user, settings)
