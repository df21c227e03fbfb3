"""One private PostgreSQL cluster: made as a whole or not at all, started, stopped, killed, asked whether it answers.

Its settings fit logical replication and bulk loads on a small machine. It keeps its port on 127.0.0.1. A killed server
leaves a piece of shared memory in the kernel until its folder is started again; that is freed, too.
"""

import ctypes
import os
import re
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import psycopg

from migration_assets.domain.errors import EmbeddedServerError
from migration_assets.embedded.access import HOST, SUPERUSER, ensure_password, server_url, write_secret
from migration_assets.embedded.processes import (
    Binaries,
    Major,
    ServerUser,
    end_programs_on,
    is_alive,
    kill_server,
    own,
    owner_uid,
    pid_file_lines,
    postmaster,
    run,
    server_processes,
    wait_until,
)

FILE_NAME = "migration_assets.conf"

_COMMON = {
    # Reachable from this machine only; no socket files, whose paths are limited to 103 bytes on macOS.
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "max_connections": "100",
    # Files below the data folder, so that what a killed server leaves is deleted with it.
    "dynamic_shared_memory_type": "mmap",
    # Logical replication. The default retry interval delays apply starts by up to 5 s.
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_logical_replication_workers": "20",
    "max_worker_processes": "32",
    "wal_retrieve_retry_interval": "100ms",
    # A forgotten slot must not fill the disk.
    "max_slot_wal_keep_size": "16GB",
    # Bulk load: few and slow checkpoints.
    "shared_buffers": "256MB",
    "maintenance_work_mem": "128MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    "track_io_timing": "on",
    # pg_ctl -l owns the log file.
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "lc_messages": "C",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_ONLY: dict[Major, dict[str, str]] = {
    16: {},
    18: {"max_active_replication_origins": "20"},  # default 10: the 11th subscription would loop without a word
}


def render(major: Major, port: int, extra: Mapping[str, str]) -> str:
    """The text of the included configuration file; `extra` wins over our settings.

    Raises:
        EmbeddedServerError: A name in `extra` is not that of a setting.
    """
    settings = {**_COMMON, **_ONLY[major], **extra, "port": str(port)}
    for name in extra:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
            raise EmbeddedServerError(f"{name!r} is not the name of a PostgreSQL setting", next_step="correct it")
    lines = ["# Rewritten at every start by migration_assets."]
    lines += [f"{name} = '{_escaped(value)}'" for name, value in settings.items()]
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


_START_LINE, _MEMORY_LINE = 2, 6
_REMOVE = 0  # IPC_RMID


def free_shared_memory(data: Path) -> None:
    """Free the shared memory that `postmaster.pid` names; nothing happens after a clean stop.

    Call it only when no process of the server is left.
    """
    found = segment_of(data)
    if found is not None:
        _libc().shmctl(found, _REMOVE, None)


def segment_of(data: Path) -> int | None:
    """The id of the shared memory segment; None where the file names none, or one from before the last boot."""
    lines = pid_file_lines(data)
    if len(lines) <= _MEMORY_LINE or not lines[_MEMORY_LINE] or float(lines[_START_LINE]) < psutil.boot_time():
        return None
    key, number = (int(word) for word in lines[_MEMORY_LINE].split())
    # Key and id must agree, because the id alone may belong to another program by now.
    return number if _libc().shmget(ctypes.c_int(key), 0, 0) == number else None


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.shmget.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_int]
    libc.shmctl.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    return libc


_ASIDE = "initdb-"
# Text sorts by code point everywhere. 18 has a C.UTF-8 of its own; 16 needs the system's, which macOS may lack.
_LOCALES: dict[Major, list[list[str]]] = {
    16: [["--locale=C.UTF-8"], ["--locale=C"]],
    18: [["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]],
}


def create_cluster(folder: Path, binaries: Binaries, user: ServerUser | None, password: str, *, sync: bool) -> None:
    """Make `folder/data` unless it exists.

    It is made aside and renamed at the end; the remains of an earlier, killed attempt are removed first.

    Args:
        folder: The cluster's own folder, made when missing.
        binaries: Programs that `user` can run.
        user: Who will own the data; None means ourselves.
        password: The superuser's; it passes through a file that only the server user can read, removed at once.
        sync: Whether to wait for the disk; False only where a power cut may lose everything.

    Raises:
        EmbeddedServerError: initdb failed; nothing is left of it.
    """
    data = folder / "data"
    if data.is_dir():
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    own(folder, user)
    for leftover in folder.glob(f"{_ASIDE}*"):
        end_programs_on(leftover)  # we hold the lock, so a process that works there has lost its starter
        free_shared_memory(leftover / "data")
        shutil.rmtree(leftover, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=folder))
    try:
        own(aside, user)
        secret = aside / "secret"
        write_secret(secret, f"{password}\n", user)
        _initdb(aside / "data", binaries, user, secret, sync=sync)
        secret.unlink()
        with (aside / "data" / "postgresql.conf").open("a", encoding="utf-8") as configuration:
            configuration.write(f"\ninclude = '{FILE_NAME}'\n")
            configuration.flush()
            os.fsync(configuration.fileno())
        (aside / "data").rename(data)
        _sync_folder(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _initdb(data: Path, binaries: Binaries, user: ServerUser | None, secret: Path, *, sync: bool) -> None:
    arguments = [
        binaries.program("initdb"),
        f"--pgdata={data}",
        f"--username={SUPERUSER}",
        f"--pwfile={secret}",
        "--auth=scram-sha-256",
        # Many rounds slow down guessing, but our password is random. Dagster connects for every event, and with the
        # default of 4,096 rounds half of a short run would be spent on handshakes.
        "--set=scram_iterations=1",
        "--encoding=UTF8",
        "--data-checksums",
        "--no-instructions",
    ]
    if not sync:
        arguments.append("--no-sync")
    code, output = 1, ""
    for locale in _LOCALES[binaries.major]:
        code, output = run([*arguments, *locale], user=user, timeout=300)
        if code == 0:
            return
        shutil.rmtree(data, ignore_errors=True)
    raise EmbeddedServerError(
        f"initdb of PostgreSQL {binaries.major} failed with exit code {code}: {output}",
        where=str(data.parent.parent),
        state_left="no cluster was created",
        next_step="correct what initdb complains about, then start again",
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Below the ports that Linux (32768) and macOS (49152) use for outgoing connections, so a port stays free.
_LOWEST, _COUNT = 20_000, 10_000


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port that is free now; another program may take it before the server does, so check after the start."""
    for _ in range(100):
        port = _LOWEST + secrets.randbelow(_COUNT)
        if is_free(port):
            return port
    raise EmbeddedServerError(
        f"no free port found between {_LOWEST} and {_LOWEST + _COUNT}",
        where="127.0.0.1",
        next_step="stop other servers",
    )


StopMode = Literal["fast", "immediate"]

_SIGNALS: dict[StopMode, signal.Signals] = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_START_SECONDS = 300  # crash recovery may replay up to max_wal_size
_PORT_LINE = 3
_TAIL_LINES = 25


@dataclass(frozen=True)
class Cluster:
    """One server and what is needed to run it; constructing it does nothing.

    Attributes:
        name: `legacy` or `base`.
        folder: Its own folder, which holds `data/` and `server.log`; the parent exists and is open to `user`.
        passfile: libpq password file, absolute.
        port: The port to keep; 0 when it never had one.
        binaries: Programs that `user` can run.
        version: Full version of the programs, such as `16.14`.
        user: Who runs the server; None means ourselves.
        extra_settings: PostgreSQL settings that win over ours.
    """

    name: str
    folder: Path
    passfile: Path
    port: int
    binaries: Binaries
    version: str
    user: ServerUser | None
    extra_settings: Mapping[str, str]

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """Everything the server prints, appended over its starts."""
        return self.folder / "server.log"

    def start(self) -> int:
        """Create the cluster where it is missing and start it; a running server is left alone.

        Settings that changed since take effect at the next real start.

        Returns:
            The port it listens on, which differs from `port` when another program has taken that one.

        Raises:
            EmbeddedServerError: It does not come up; the message has the end of its log.
        """
        sync = self.extra_settings.get("fsync", "on").lower() != "off"
        create_cluster(self.folder, self.binaries, self.user, ensure_password(self.passfile, self.user), sync=sync)
        self._check_owner()
        running = postmaster(self.data)
        if running is not None:
            wait_until(lambda: bool(self.accepting_port()) or not is_alive(running), seconds=_START_SECONDS)
            port = self.accepting_port()
            if port is not None:
                self._check_identity(port)
                return port
            if is_alive(running):
                raise self._failure(f"process {running.pid} runs, but accepts no connections")
        self._clear_remains()
        return self._start_stopped()

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop it and wait until its processes are gone; nothing happens when none runs.

        A fast stop that takes longer than 60 s (it waits for subscribers that do not answer) becomes an immediate one.

        Raises:
            EmbeddedServerError: It is still alive after that.
        """
        attempts: list[StopMode] = ["fast", "immediate"] if mode == "fast" else ["immediate"]
        for attempt in attempts:
            running = postmaster(self.data)
            if running is not None:
                _send(running, _SIGNALS[attempt])
            elif not server_processes(self.data):
                return
            if wait_until(lambda: not server_processes(self.data), seconds=60):
                return
        raise self._failure("it does not stop", next_step="end its processes by hand, then start it again")

    def kill(self) -> None:
        """Crash the server for a drill: SIGKILL all its processes and wait until they are gone.

        Raises:
            EmbeddedServerError: Some are still alive after 20 s.
        """
        if not kill_server(self.data):
            raise self._failure("killed processes are still there")

    def end(self) -> None:
        """End all its processes and free its shared memory, so that its folder may be deleted.

        An immediate stop is about as fast as a kill, and frees what a killed server leaves behind.

        Raises:
            EmbeddedServerError: Some processes are still alive after 30 s.
        """
        running = postmaster(self.data)
        if running is not None:
            _send(running, _SIGNALS["immediate"])
            wait_until(lambda: not server_processes(self.data), seconds=10)
        self.kill()
        free_shared_memory(self.data)

    def accepting_port(self) -> int | None:
        """The port on which this server accepts connections now; None where it does not, also for a frozen one."""
        lines = pid_file_lines(self.data)
        if postmaster(self.data) is None or len(lines) <= _PORT_LINE or not lines[_PORT_LINE].isdigit():
            return None
        port = lines[_PORT_LINE]
        code, _ = run([self.binaries.program("pg_isready"), "-q", "-h", HOST, "-p", port, "-t", "3"], user=self.user)
        return int(port) if code == 0 else None

    def _start_stopped(self) -> int:
        port = self.port
        for _ in range(5):
            if not port or not is_free(port):
                port = free_port()
            self._write_settings(port)
            code, output = run(
                [
                    self.binaries.program("pg_ctl"),
                    "start",
                    f"--pgdata={self.data}",
                    f"--log={self.log}",
                    f"--timeout={_START_SECONDS}",
                    "--wait",
                    "--silent",
                ],
                user=self.user,
                timeout=_START_SECONDS + 30,
            )
            if code == 0:
                self._check_identity(port)
                return port
            if is_free(port) or postmaster(self.data) is not None:  # so the port was not the reason
                raise self._failure(f"it does not start: {output}")
        raise self._failure("five ports in a row were taken by other programs while it started")

    def _write_settings(self, port: int) -> None:
        file = self.data / FILE_NAME
        aside = file.with_suffix(".aside")
        aside.write_text(render(self.binaries.major, port, self.extra_settings), encoding="utf-8")
        aside.chmod(0o600)
        own(aside, self.user)
        aside.replace(file)

    def _check_owner(self) -> None:
        found, wanted = self.data.stat().st_uid, owner_uid(self.user)
        if found != wanted:
            raise self._failure(
                f"the data folder belongs to the user with id {found}, but the server would run as {wanted}",
                next_step="run the command as the user who created it, or delete the folder to begin anew",
            )

    def _check_identity(self, port: int) -> None:
        """Connect with the password and check that the server on the port is this one, by its data folder."""
        try:
            with psycopg.connect(server_url(port, "postgres", self.passfile), connect_timeout=10) as connection:
                row = connection.execute("SELECT current_setting('data_directory')").fetchone()
        except psycopg.Error as error:
            raise self._failure(f"it runs on port {port}, but a connection fails: {error}") from error
        if row is None or Path(str(row[0])).resolve() != self.data.resolve():
            raise self._failure(f"another PostgreSQL server answers on its port {port}")

    def _clear_remains(self) -> None:
        """Clear up after a crash: end children that outlived the postmaster, then delete a stale pid file.

        PostgreSQL refuses to start when the pid in the file exists, even as a zombie or as another program.
        """
        if not wait_until(lambda: not server_processes(self.data), seconds=5) and not kill_server(self.data):
            raise self._failure("processes of a dead server are still there and cannot be ended")
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _failure(self, what: str, next_step: str = "") -> EmbeddedServerError:
        try:
            tail = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
        except OSError:
            tail = []
        log = "\n".join([f"\nEnd of {self.log}:", *tail]) if tail else ""
        return EmbeddedServerError(
            f"{what}{log}",
            where=f"embedded PostgreSQL {self.binaries.major} '{self.name}'",
            state_left=f"its data is in {self.data}",
            next_step=next_step or "correct what the log says, then start the servers again",
        )


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
