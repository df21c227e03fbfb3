"""Runs Dagster's web server behind our guard, and its daemon; sizes the pools as the settings say.

One Dagster runs at a time on one `var`: two daemons on one instance would launch every run twice.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NoReturn

import dagster as dg

from migration_assets.domain.errors import MigrationError
from migration_assets.runtime import LEGACY_READ_POOL, MANY_WEEKS_POOL, project_folder
from migration_assets.settings import MigrationSettings
from migration_assets.terminal.leashed import GOODBYE_SECONDS
from migration_assets.terminal.output import console

_LOCK_FILE = "ui.lock"
_LOOK_SECONDS = 0.5
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def take_ui_lock(var: Path) -> int:
    """Take the lock. It is released when the last process that inherited the descriptor ends, however it ends.

    Returns:
        The open descriptor. It is inheritable, so that it survives the exec into Dagster.

    Raises:
        MigrationError: Dagster is running on this `var`.
    """
    var.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(var / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise MigrationError(
            "Dagster is running here already",
            where=str(var),
            state_left="nothing was changed",
            next_step="use the running one, or stop it (Ctrl-C where `make ui` runs) and try again",
        ) from None
    os.set_inheritable(descriptor, True)
    return descriptor


def size_pool(instance: dg.DagsterInstance, settings: MigrationSettings) -> None:
    """Limit the weeks that are worked on at once, and the steps on several weeks, across all runs of the instance."""
    instance.event_log_storage.set_concurrency_slots(LEGACY_READ_POOL, settings.weeks_at_once)
    instance.event_log_storage.set_concurrency_slots(MANY_WEEKS_POOL, 1)


def serve_ui(settings: MigrationSettings, host: str, port: int, *, read_only: bool) -> None:
    """Run Dagster's web server and daemon until a signal stops both. The environment must be complete.

    `dagster dev` is not used, since its web server accepts requests from any page in the operator's browser.

    Raises:
        MigrationError: Dagster is already running on this `var`, or one of the two processes ended by itself.
    """
    lock = take_ui_lock(settings.var)
    with dg.DagsterInstance.get() as instance:
        size_pool(instance, settings)
    workspace = str(project_folder() / "workspace.yaml")
    leashed = [sys.executable, "-m", "migration_assets.terminal.leashed"]
    page = [*leashed, "migration_assets.web.server", "--host", host, "--port", str(port)]
    page += ["--workspace", workspace, *(f"--origin={origin}" for origin in settings.ui_origins)]
    page += ["--read-only"] if read_only else []
    daemon = [*leashed, "dagster._daemon", "run", "--workspace", workspace]
    name = f"[{host}]" if ":" in host else host
    console.print(f"Dagster's page will be at http://{name}:{port} in a moment; Ctrl-C ends it.")
    _run_both({"web server": page, "daemon": daemon}, lock)


def _run_both(commands: dict[str, Sequence[str]], lock: int) -> None:
    # Before any child is started: a shell starts `ui &` with SIGINT ignored, and children would inherit that.
    for stop in _STOPS:
        signal.signal(stop, _interrupt)
    children: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in commands.items():
            # In process groups of their own, so that Ctrl-C reaches them only through this process. They hold the lock
            # while they live, and `leashed` ends them when this process ends.
            children[name] = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(lock,), process_group=0)
        while not any(child.poll() is not None for child in children.values()):
            time.sleep(_LOOK_SECONDS)
        ended = next(name for name, child in children.items() if child.returncode is not None)
        raise MigrationError(
            f"Dagster's {ended} ended by itself, exit code {children[ended].returncode}",
            where="ui",
            state_left="runs that were under way may go on; each of their changes is complete or absent",
            next_step="read its output above (for a port in use: --port), then start it again",
        )
    except KeyboardInterrupt:
        pass
    finally:
        _stop(children.values())


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _stop(children: Collection[subprocess.Popen[bytes]]) -> None:
    for stop in _STOPS:
        signal.signal(stop, signal.SIG_IGN)  # the children are already being ended
    for child in children:
        child.terminate()
    for child in children:
        try:
            child.wait(GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
