"""Pairs of real servers for tests, gone at the end."""

import getpass
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock

from migration_assets.embedded.servers import EmbeddedServers

_MEMORY = Path("/dev/shm")  # noqa: S108 - the folders of ours below it are made by mkdtemp
_NAME = "migration_assets_tests-"
_ROOM = 4 * 1024**3  # for several at once, of some 300 MB each


@contextmanager
def running_pair(folder: Path, **settings: str) -> Generator[EmbeddedServers]:
    """Both servers, started, and removed at the end; a power cut may lose everything, which makes them faster."""
    pair = EmbeddedServers(folder, extra_settings={"fsync": "off", "max_prepared_transactions": "4", **settings})
    try:
        pair.start()
        yield pair
    finally:
        pair.remove()


@contextmanager
def quick_pair(**settings: str) -> Generator[EmbeddedServers]:
    """As `running_pair`, in memory where the machine has room for it.

    Every test makes and drops two databases of 300 files each: a disk's file system spends a fifth of all the time of
    the suite on finding free inodes (ext4 does not take those that were freed in the last five seconds).
    """
    _sweep()
    in_memory = os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM
    place = _MEMORY if in_memory else None
    with tempfile.TemporaryDirectory(prefix=f"{_NAME}{os.getpid()}-", dir=place) as folder:
        Path(folder).chmod(0o711)  # where we are root, the servers' user has to get through
        with running_pair(Path(folder), **settings) as pair:
            yield pair


def _sweep() -> None:
    """What tests left that were killed: nobody has much memory to lose.

    One worker at a time: two that remove the same folder would take its lock file away from each other.
    """
    if not os.access(_MEMORY, os.W_OK):
        return
    with FileLock(_MEMORY / f"{getpass.getuser()}-{_NAME}sweep.lock"):
        for folder in _MEMORY.glob(f"{_NAME}*"):
            owner = int(folder.name.removeprefix(_NAME).split("-")[0])
            if not psutil.pid_exists(owner) and os.access(folder, os.W_OK):
                EmbeddedServers(folder).remove()
                shutil.rmtree(folder, ignore_errors=True)
