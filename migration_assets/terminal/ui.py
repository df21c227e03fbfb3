"""Starts Dagster's web page and daemon on the project, with the pool sized as the settings say."""

import os
import signal
import sys

import dagster as dg

from migration_assets.defs.labels import LEGACY_READ_POOL
from migration_assets.runtime import project_folder
from migration_assets.settings import MigrationSettings
from migration_assets.terminal.ui_lock import take_ui_lock


def size_pool(instance: dg.DagsterInstance, settings: MigrationSettings) -> None:
    """Bound the copies that read the legacy at once, whoever starts them."""
    instance.event_log_storage.set_concurrency_slots(LEGACY_READ_POOL, settings.parallel_copies)


def serve_ui(settings: MigrationSettings, port: int) -> None:
    """Become `dagster dev` on 127.0.0.1; never returns. The environment is complete already.

    Raises:
        MigrationError: Dagster is running on this `var` already.
    """
    take_ui_lock(settings.var)
    with dg.DagsterInstance.get() as instance:
        size_pool(instance, settings)
    workspace = project_folder() / "workspace.yaml"
    command = [sys.executable, "-m", "dagster", "dev", "--host", "127.0.0.1", "--port", str(port), "-w", str(workspace)]
    # A script's `ui &` comes with SIGINT ignored; Dagster takes SIGINT's handler for SIGTERM too, so that only SIGKILL
    # would end it, which leaves its children behind.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Replaced, not spawned: Ctrl-C and signals reach Dagster itself, and no process of ours is left behind. The working
    # directory stays, so that runs read the same .env as this process did.
    os.execv(sys.executable, command)  # noqa: S606
