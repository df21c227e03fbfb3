"""Runs client programs and measures them: wall clock, CPU of clients and servers, the memory of all clients."""

import os
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

import psutil

_PAUSE = 0.1  # seconds between two looks at /proc: a look costs milliseconds of the cores that are being measured


class ClientFailedError(Exception):
    """A client program ended with an error; the text is the end of what it printed."""


@dataclass
class Usage:
    """What one contender used; `phases` are wall-clock seconds, in order, `server_cpu` both servers' CPU in each."""

    read_server_cpu: Callable[[], float]
    peak_rss_bytes: int = 0
    cpu_seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict[str, float])
    server_cpu: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def seconds(self) -> float:
        """All phases."""
        return sum(self.phases.values())

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Measure one phase."""
        cpu, start = self.read_server_cpu(), time.perf_counter()
        yield
        self.phases[name] = time.perf_counter() - start
        self.server_cpu[name] = self.read_server_cpu() - cpu


@contextmanager
def measured(read_server_cpu: Callable[[], float]) -> Generator[Usage]:
    """Watch all child processes of ours meanwhile; the benchmark itself does not count."""
    usage, done = Usage(read_server_cpu), threading.Event()
    watcher = threading.Thread(target=_watch, args=(usage, done), daemon=True)
    before = _children_cpu()
    watcher.start()
    try:
        yield usage
    finally:
        done.set()
        watcher.join()
        usage.cpu_seconds = _children_cpu() - before


def process_tree_cpu(pid: int) -> float:
    """CPU seconds of a process, its living children, and those that it has outlived."""
    leader = psutil.Process(pid)
    own = leader.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in leader.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:  # it ended in between; the leader has it now
            continue
        total += times.user + times.system
    return total


def run_client(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Run a program to its end and return what it printed.

    Raises:
        ClientFailedError: It ended with an error.
    """
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})}
    )
    if done.returncode:
        raise ClientFailedError(f"{os.path.basename(command[0])}: {done.stderr.strip()[-2000:]}")  # noqa: PTH119
    return done.stdout


def run_pipe(source: Sequence[str], sink: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Run `source | sink`.

    Raises:
        ClientFailedError: Either ended with an error.
    """
    variables = {**os.environ, **(environment or {})}
    with (
        subprocess.Popen(source, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=variables) as reader,
        subprocess.Popen(sink, stdin=reader.stdout, stderr=subprocess.PIPE, env=variables) as writer,
    ):
        _require_pipe(reader.stdout).close()  # only the sink holds it now, so that the source notices its end
        complaint = _require_pipe(writer.stderr).read() + _require_pipe(reader.stderr).read()
    if reader.returncode or writer.returncode:
        raise ClientFailedError(complaint.decode(errors="replace").strip()[-2000:])


def _require_pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _watch(usage: Usage, done: threading.Event) -> None:
    ourselves = psutil.Process()
    while not done.wait(_PAUSE):
        total = 0
        for child in ourselves.children(recursive=True):
            try:
                total += child.memory_info().rss
            except psutil.Error:  # it ended in between
                continue
        usage.peak_rss_bytes = max(usage.peak_rss_bytes, total)


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
