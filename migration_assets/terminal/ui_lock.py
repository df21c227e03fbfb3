"""One Dagster at a time on one `var`: two daemons on one instance would launch every run twice."""

import fcntl
import os
from pathlib import Path

from migration_assets.domain.errors import MigrationError

_NAME = "ui.lock"


def take_ui_lock(var: Path) -> int:
    """Take the lock; it goes when the last process that inherited the descriptor ends, however it ends.

    Returns:
        The open descriptor, inheritable: it survives the exec into Dagster.

    Raises:
        MigrationError: Dagster is running on this `var`.
    """
    var.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(var / _NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise MigrationError(
            "Dagster is running here already",
            where=str(var),
            state_left="nothing was changed",
            next_step="use the one that runs, or stop it (Ctrl-C where `make ui` runs) and try again",
        ) from None
    os.set_inheritable(descriptor, True)
    return descriptor
