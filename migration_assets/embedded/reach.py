"""Puts programs and data into a shared folder where the server user cannot get into their own folders."""

import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from migration_assets.domain.errors import EmbeddedServerError
from migration_assets.embedded.processes import Binaries, ServerUser, own, package_folders, package_version, run

# Survives a reboot, unlike /tmp, and is open to every user.
_SHARED_PLACE = Path("/var/tmp")  # noqa: S108 - the owner and mode of each folder of ours below it are checked
_TRY_PROGRAMS = 'test -r "$1/share/postgresql/postgres.bki" && "$1/bin/initdb" --version && "$1/bin/postgres" --version'
_TRY_FOLDER = 'cd "$1" && : > reach-probe && rm reach-probe'


def reachable_binaries(installed: Binaries, user: ServerUser | None) -> tuple[Binaries, str]:
    """Programs that the server user can run: the installed ones, else a copy that is made once.

    Returns:
        The programs, and their full version such as `16.14`.

    Raises:
        EmbeddedServerError: They cannot be run, not even from a copy.
    """
    version, output = _try_programs(installed, user)
    if version:
        return installed, version
    if user is not None:
        copy = Binaries(major=installed.major, tree=_copied_tree(installed))
        version, output = _try_programs(copy, user)
        if version:
            return copy, version
    raise EmbeddedServerError(
        f"PostgreSQL {installed.major} cannot be run{f' as user {user.name}' if user else ''}: {output}",
        where=str(installed.home),
        state_left="nothing was created",
        next_step="run the command as an ordinary user, with the Python environment in a folder that is open to it",
    )


def reachable_home(wanted: Path, user: ServerUser | None) -> Path:
    """A folder for the servers' files: `wanted` where the server user can get into it, else one in a shared place.

    The shared folder's name is derived from `wanted`, so that it is found again without the records.

    Raises:
        EmbeddedServerError: There is no such folder, or the one in the shared place is not ours.
    """
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        if _make_servers_folder(wanted, user):
            return wanted
        if user is not None:
            elsewhere = shared_home(wanted)
            _make_passable(elsewhere)
            if _make_servers_folder(elsewhere, user):
                return elsewhere
    except OSError as error:
        raise _unreachable(wanted, user) from error
    raise _unreachable(wanted, user)


def shared_home(wanted: Path) -> Path:
    """The folder in the shared place that stands in for `wanted`, whether or not it exists."""
    return _SHARED_PLACE / f"migration_assets-data-{_digest(str(wanted.resolve()))}"


def _unreachable(wanted: Path, user: ServerUser | None) -> EmbeddedServerError:
    return EmbeddedServerError(
        f"no folder for the servers' data can be made that {user.name if user else 'this user'} can write to",
        where=str(wanted),
        state_left="no cluster was created",
        next_step="run the command as an ordinary user, or choose another folder",
    )


def _make_servers_folder(home: Path, user: ServerUser | None) -> bool:
    servers = home / "servers"
    existed = servers.is_dir()
    servers.mkdir(mode=0o700, exist_ok=True)
    own(servers, user)
    code, _ = run(["/bin/sh", "-c", _TRY_FOLDER, "sh", str(servers.resolve())], user=user)
    if code != 0 and not existed:
        servers.rmdir()
    return code == 0


def _try_programs(programs: Binaries, user: ServerUser | None) -> tuple[str, str]:
    code, output = run(["/bin/sh", "-c", _TRY_PROGRAMS, "sh", str(programs.home)], user=user)
    return (output.split()[-1], output) if code == 0 else ("", output)


def _copied_tree(installed: Binaries) -> Path:
    found = Path(installed.program("postgres")).stat()
    digest = _digest(f"{installed.tree}|{found.st_size}|{found.st_mtime_ns}")
    target = _SHARED_PLACE / f"migration_assets-{package_version()}-{digest}"
    if not target.is_dir():
        aside = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=_SHARED_PLACE))
        try:
            _copy_open_to_all(installed.tree, aside)
            aside.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process finished the same copy first
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    _check_ours(target)
    return target


def _copy_open_to_all(tree: Path, aside: Path) -> None:
    unused = shutil.ignore_patterns("include", "__pycache__", "*.py", "*.a")
    for folder in package_folders(tree):
        shutil.copytree(folder, aside / folder.name, symlinks=True, ignore=unused)
    for path in [aside, *aside.rglob("*")]:
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if executable else 0o644)


def _make_passable(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o755)
        folder.chmod(0o755)  # whatever the umask: the server user has to get through
    except FileExistsError:
        _check_ours(folder)


def _check_ours(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise EmbeddedServerError(
            "the folder exists, but belongs to another user or is writable by others",
            where=str(folder),
            state_left="nothing was touched",
            next_step="look at who made it, and remove it",
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
