"""Running PostgreSQL's programs, and telling which live processes belong to a data folder."""

import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from migration_assets.embedded.privileges import ServerUser

# Nothing is inherited: PGDATA, PGHOST, PGOPTIONS or LANG of the caller must not steer a private server.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C", "TZ": "UTC"}


def run(arguments: Sequence[str], *, user: ServerUser | None, timeout: float = 60.0) -> tuple[int, str]:
    """Run a program to its end as the server user.

    The output goes to a file: a server started by the program would keep a pipe open and block the reader for ever.

    Returns:
        Exit code (-1 when the time was up) and everything it printed.
    """
    with tempfile.TemporaryFile() as output:
        try:
            code = subprocess.run(
                list(arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",  # the caller's folder may be closed to the server user
                env=_ENVIRONMENT,
                check=False,
                timeout=timeout,
                user=user.uid if user else None,
                group=user.gid if user else None,
                extra_groups=[] if user else None,
                umask=0o077,
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
        except OSError as error:  # not executable by that user, or we may not change users
            return 126, str(error)
        output.seek(0)
        return code, output.read().decode(errors="replace").strip()


def wait_until(condition: Callable[[], bool], *, seconds: float) -> bool:
    """Ask every 20 ms until it is true; False when the time is up."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_alive(process: psutil.Process) -> bool:
    """False for a zombie too: without an init that reaps, a dead postmaster keeps its pid for ever."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def server_processes(data: Path) -> list[psutil.Process]:
    """Live postgres processes of a data folder, postmaster and children: each has it as its working directory."""
    folder = str(data.resolve())
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.name().startswith("postgres") and process.cwd() == folder and is_alive(process):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # gone, a zombie, or somebody else's
            continue
    return found


def postmaster(data: Path) -> psutil.Process | None:
    """The live postmaster that `postmaster.pid` names; None when the file is stale or missing."""
    lines = pid_file_lines(data)
    if not lines:
        return None
    try:
        process = psutil.Process(int(lines[0]))
        ours = process.name().startswith("postgres") and process.cwd() == str(data.resolve()) and is_alive(process)
    except (ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return process if ours else None


def pid_file_lines(data: Path) -> list[str]:
    """Lines of `postmaster.pid`: pid, data folder, start time, port, socket folder, address, shared memory, state."""
    try:
        return [line.strip() for line in (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []


def kill_server(data: Path, *, seconds: float = 20.0) -> bool:
    """SIGKILL the postmaster, then its children until none is left.

    Returns:
        False when processes were still alive when the time was up.
    """
    leader = postmaster(data)
    if leader is not None:
        _kill(leader)  # first, so that nobody forks any more

    def none_left() -> bool:
        left = server_processes(data)
        for process in left:
            _kill(process)
        return not left

    return wait_until(none_left, seconds=seconds)


def end_programs_on(folder: Path, *, seconds: float = 20.0) -> None:
    """SIGKILL what still works on `folder`: an initdb, and what it started, that outlived whoever started it."""

    def none_left() -> bool:
        left = [process for process in psutil.process_iter() if _names(process, str(folder))]
        for process in left:
            _kill(process)
        return not left

    wait_until(none_left, seconds=seconds)


def _names(process: psutil.Process, path: str) -> bool:
    try:
        named = any(path in argument for argument in process.cmdline()) or process.cwd().startswith(path)
        return process.name().startswith(("initdb", "postgres")) and named and is_alive(process)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
