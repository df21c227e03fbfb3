"""A process that runs one step of a migration after another, each in a child of its own that may die.

Started once, since imports take a second and a fork takes milliseconds. It has no threads and never opens a connection
itself. Speaks JSON lines: a task comes in; the child's pid goes out, and later how it ended.
"""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

from migration_assets_tests.crashes.steps import STEPS, crash_migration
from migration_assets_tests.crashes.trap import Blow, Point, Trap, read_log


@dataclass(frozen=True)
class Task:
    """One step, where to strike it, and where its record goes."""

    step: str
    legacy_url: str
    base_url: str
    log: str
    point: Point | None = None
    blow: Blow = "kill"
    lag: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict[str, Any])


Run = Callable[[dict[str, Any], Trap], object]


@dataclass(frozen=True)
class Ended:
    """How a child ended: `signal` is 0 where it was not killed; `said` its result or error, None where it was."""

    signal: int
    said: str | None
    failed: bool
    labels: list[str]


@dataclass
class Child:
    """A step under way in a process of its own."""

    pid: int
    log: Path
    _answers: IO[str]
    _ended: Ended | None = None

    def wait(self) -> Ended:
        """Until it has ended."""
        if self._ended is None:
            status = json.loads(self._answers.readline())["status"]
            noted = read_log(self.log)
            said = next((entry for entry in noted if "said" in entry), None)
            self._ended = Ended(
                os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
                said["said"] if said else None,
                bool(said and said["failed"]),
                [entry["label"] for entry in noted if "label" in entry],
            )
        return self._ended


@dataclass
class Nursery:
    """Starts children, one at a time."""

    folder: Path
    _process: subprocess.Popen[str]
    _born: int = 0

    def start(self, task: Callable[[str], Task]) -> Child:
        """Begin a task; it is given the name of its record."""
        self._born += 1
        log = self.folder / f"{self._born}.jsonl"
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(task(str(log)))) + "\n")
        self._process.stdin.flush()
        return Child(json.loads(self._process.stdout.readline())["pid"], log, self._process.stdout)


@contextmanager
def nursery(module: str = __spec__.name) -> Generator[Nursery]:
    """A running one, of a module that ends with `serve()`; it and its last child are gone at the end."""
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # A stopped child of a group whose shell goes away would be woken and hung up by the kernel.
            start_new_session=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            assert process.stdout.readline(), "the nursery did not start: its error is above"
            yield Nursery(Path(folder), process)
        finally:
            process.kill()


def _strike(task: dict[str, Any], trap: Trap) -> object:
    trap.install()
    migration = crash_migration(task["legacy_url"], task["base_url"], **task["settings"])
    return STEPS[task["step"]].run(migration)


def _work(task: dict[str, Any], run: Run) -> NoReturn:
    point = Point(**task["point"]) if task["point"] else None
    trap = Trap(Path(task["log"]), point, task["blow"], task["lag"])
    code = 1
    try:
        trap.note(said=str(run(task, trap)), failed=False)
        code = 0
    except BaseException as error:  # noqa: BLE001 - whoever started the child looks at it
        trap.note(said=f"{type(error).__name__}: {error}", failed=True, trace=traceback.format_exc())
    finally:
        os._exit(code)


def serve(run: Run = _strike) -> None:
    """Run what is asked for on standard input, each in a child of its own.

    Args:
        run: Does a task, which comes as a dictionary, and returns what is to be said of it.
    """
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _work(json.loads(line), run)
        print(json.dumps({"pid": pid}), flush=True)
        print(json.dumps({"status": os.waitpid(pid, 0)[1]}), flush=True)


if __name__ == "__main__":
    serve()
