"""A disk that is really full after so many megabytes, where this user may mount one."""

import errno
import os
import secrets
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from migration_assets.embedded.processes import own, server_user

_FILLER = "filler"


@dataclass(frozen=True)
class SmallDisk:
    """A file system of its own, in memory; what is in it belongs to the servers' user."""

    place: Path
    folder: Path

    def fill(self, but_kb: int = 0) -> None:
        """Leave so much room at most."""
        with (self.place / _FILLER).open("ab", buffering=0) as file:
            while shutil.disk_usage(self.place).free > but_kb * 1024:
                try:
                    file.write(bytes(4096))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    return

    def free(self) -> None:
        """Take away what `fill` put there."""
        (self.place / _FILLER).unlink(missing_ok=True)

    def grow(self, megabytes: int) -> None:
        """Let it have so many in all."""
        _mount("-o", f"remount,size={megabytes}m", str(self.place))


@contextmanager
def small_disk(above: Path, megabytes: int) -> Generator[SmallDisk]:
    """Skips the test where nobody may mount anything.

    Args:
        above: A folder that the servers' user can get through.
        megabytes: Its size.
    """
    if os.name == "nt" or os.geteuid() != 0:
        pytest.skip("a small disk has to be mounted, which this user may not: run as root")
    place = above / f"disk-{secrets.token_hex(4)}"
    place.mkdir()
    try:
        _mount("-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", str(place))
    except subprocess.CalledProcessError as error:
        place.rmdir()
        pytest.skip(f"a small disk has to be mounted, which is not allowed here: {error.stderr.strip()}")
    try:
        folder = place / "data"
        folder.mkdir(mode=0o700)
        own(folder, server_user())
        yield SmallDisk(place, folder)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)
