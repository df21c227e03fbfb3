"""One starter or stopper at a time, over all processes."""

import contextlib
from collections.abc import Generator
from pathlib import Path

import filelock

from migration_assets.domain.errors import EmbeddedServerError

_SECONDS = 600  # longer than one start may take: the second starter then finds everything done


@contextlib.contextmanager
def exclusive(var: Path) -> Generator[None]:
    """Hold `var/servers.lock`; the kernel drops it with the process that holds it, even after kill -9.

    Raises:
        EmbeddedServerError: Somebody else holds it for 10 minutes, or the file cannot be used.
    """
    # A soft lock, which is only a file that exists, would outlive a killed holder.
    lock = filelock.FileLock(var / "servers.lock", timeout=_SECONDS, fallback_to_soft=False)
    try:
        var.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise EmbeddedServerError(
            "another process has been starting or stopping the servers for 10 minutes",
            where=str(var),
            next_step="end that process; the lock goes with it",
        ) from error
    except OSError as error:
        raise EmbeddedServerError(
            f"its lock file cannot be used: {error}",
            where=str(var),
            state_left="nothing was touched",
            next_step="run the command as the user who owns the folder, or choose another folder",
        ) from error
    try:
        yield
    finally:
        lock.release()
