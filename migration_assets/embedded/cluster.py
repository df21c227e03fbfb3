"""One private PostgreSQL cluster: start, stop, kill, and whether it really accepts connections."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import psycopg

from migration_assets.domain.errors import EmbeddedServerError
from migration_assets.embedded import ports, server_settings
from migration_assets.embedded.addresses import HOST, server_url
from migration_assets.embedded.binaries import Binaries
from migration_assets.embedded.creation import create_cluster
from migration_assets.embedded.passwords import ensure_password
from migration_assets.embedded.privileges import ServerUser, own, owner_uid
from migration_assets.embedded.processes import (
    is_alive,
    kill_server,
    pid_file_lines,
    postmaster,
    run,
    server_processes,
    wait_until,
)
from migration_assets.embedded.shared_memory import free_shared_memory

StopMode = Literal["fast", "immediate"]

_SIGNALS: dict[StopMode, signal.Signals] = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_START_SECONDS = 300  # crash recovery replays up to max_wal_size
_PORT_LINE = 3
_TAIL_LINES = 25


@dataclass(frozen=True)
class Cluster:
    """One cluster and what it takes to run it; nothing happens before a method is called.

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
        """Create the cluster where it is missing and have it accept connections; a healthy one is left alone.

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
        """SIGKILL the postmaster and its children and wait until they are gone: a crash for drills.

        Raises:
            EmbeddedServerError: Some are still alive after 20 s.
        """
        if not kill_server(self.data):
            raise self._failure("killed processes are still there")

    def end(self) -> None:
        """Have nothing of it left but its folder, which may go then: no process, and no memory in the kernel.

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
        """Where a live postmaster of this data folder accepts connections now; None for a zombie or a frozen one."""
        lines = pid_file_lines(self.data)
        if postmaster(self.data) is None or len(lines) <= _PORT_LINE or not lines[_PORT_LINE].isdigit():
            return None
        port = lines[_PORT_LINE]
        code, _ = run([self.binaries.program("pg_isready"), "-q", "-h", HOST, "-p", port, "-t", "3"], user=self.user)
        return int(port) if code == 0 else None

    def _start_stopped(self) -> int:
        port = self.port
        for _ in range(5):
            if not port or not ports.is_free(port):
                port = ports.free_port()
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
            if ports.is_free(port) or postmaster(self.data) is not None:  # so the port was not the reason
                raise self._failure(f"it does not start: {output}")
        raise self._failure("five ports in a row were taken by other programs while it started")

    def _write_settings(self, port: int) -> None:
        file = self.data / server_settings.FILE_NAME
        aside = file.with_suffix(".aside")
        aside.write_text(server_settings.render(self.binaries.major, port, self.extra_settings), encoding="utf-8")
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
        """A real connection with the password, and the proof that the server behind the port is this one."""
        try:
            with psycopg.connect(server_url(port, "postgres", self.passfile), connect_timeout=10) as connection:
                row = connection.execute("SELECT current_setting('data_directory')").fetchone()
        except psycopg.Error as error:
            raise self._failure(f"it runs on port {port}, but a connection fails: {error}") from error
        if row is None or Path(str(row[0])).resolve() != self.data.resolve():
            raise self._failure(f"another PostgreSQL server answers on its port {port}")

    def _clear_remains(self) -> None:
        """After a crash: wait for children that outlived the postmaster, end them, then drop a stale pid file.

        PostgreSQL itself refuses to start when the pid in the file exists, even as a zombie or as another program.
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
