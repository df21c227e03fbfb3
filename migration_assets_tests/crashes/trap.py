"""Kills, freezes or watches a process at a statement that it sends; everything else about it is the product's own.

Belongs here: the hook into psycopg, and how a statement is called. The hook is only ever installed in a child that was
made to die.
"""

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg import sql

When = Literal["before", "during"]
Blow = Literal["kill", "freeze"]

_QUOTED = re.compile(r"'(?:[^']|'')*'")
_NUMBERS = re.compile(r"\b\d+\b|%s|%\(\w+\)s")
_LISTS = re.compile(r"#(?:, ?#)+")
_WEEK = re.compile(r"FY\d\d-Q\d(\|W\d\d)?|repair \d+")
_OURS = re.compile(r"migration_assets_[0-9a-f]{12}")
_LEAF = re.compile(r"_fy\d\d_q\d(_w\d\d)?")
_LONGEST = 90


@dataclass(frozen=True, order=True)
class Point:
    """The `occurrence`-th time that a statement that begins so is about to be sent, or is on its way."""

    label: str
    occurrence: int = 1
    when: When = "before"

    def __str__(self) -> str:
        return f"{self.when} {self.label} #{self.occurrence}"


@dataclass
class Trap:
    """Writes down every statement, and strikes at one of them.

    `lag` are seconds from a statement's sending to the blow, where that comes while the statement is under way.
    """

    log: Path
    point: Point | None = None
    blow: Blow = "kill"
    lag: float = 0.0
    _seen: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, **entry: object) -> None:
        """One line in the log; it is there whatever happens next."""
        with self.log.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def sent(self, label: str) -> None:
        """A statement is about to be sent by some thread of this process."""
        with self._lock:
            self.note(label=label)
            if self.point is None or not label.startswith(self.point.label):
                return
            self._seen += 1
            if self._seen != self.point.occurrence:
                return
            self.note(struck=str(self.point))
        if self.point.when == "before":
            self._strike()
        else:
            threading.Thread(target=self._strike_soon, daemon=True).start()

    def _strike_soon(self) -> None:
        time.sleep(self.lag)
        self._strike()

    def _strike(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL if self.blow == "kill" else signal.SIGSTOP)
        time.sleep(0.2)  # the blow reaches this thread a little later

    def install(self) -> None:
        """From now on every statement of every connection of this process passes by here first."""
        cursor: Any = psycopg.Cursor
        connection: Any = psycopg.Connection
        for name in ("execute", "executemany"):
            setattr(cursor, name, self._watched(getattr(cursor, name)))
        cursor.copy = self._watched_copy(cursor.copy)
        connection._exec_command = self._watched_command(connection._exec_command)

    def _watched(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(cursor: Any, query: Any, *args: Any, **more: Any) -> Any:
            self.sent(label_of(cursor.connection, query))
            return original(cursor, query, *args, **more)

        return call

    def _watched_copy(
        self, original: Callable[..., AbstractContextManager[Any]]
    ) -> Callable[..., AbstractContextManager[Any]]:
        @contextmanager
        def call(cursor: Any, query: Any, *args: Any, **more: Any) -> Generator[Any]:
            self.sent(label_of(cursor.connection, query))
            with original(cursor, query, *args, **more) as copy:
                yield copy

        return call

    def _watched_command(self, original: Callable[..., Generator[Any, Any, Any]]) -> Callable[..., Any]:
        """BEGIN, COMMIT, ROLLBACK and savepoints; a generator that psycopg drives itself."""

        def call(connection: Any, command: Any, *args: Any, **more: Any) -> Generator[Any, Any, Any]:
            self.sent(label_of(connection, command))
            return (yield from original(connection, command, *args, **more))

        return call


def label_of(connection: Any, query: Any) -> str:
    """What a statement is called in every run: who sends it, to which server, without its values and names of weeks."""
    text = query.as_string(connection) if isinstance(query, sql.Composable) else query
    text = text.decode() if isinstance(text, bytes) else str(text)
    text = _LISTS.sub("#", _NUMBERS.sub("#", _QUOTED.sub("#", _LEAF.sub("_leaf", " ".join(text.split())))))
    side = "legacy" if connection.info.server_version < 170000 else "base"
    session = str(connection.info.parameter_status("application_name") or "new").removeprefix("migration_assets:")
    return f"{side}[{_WEEK.sub('*', session)}] {_OURS.sub('ours', text)[:_LONGEST]}"


def read_log(log: Path) -> list[dict[str, Any]]:
    """All that was noted; the last line may be half."""
    lines = log.read_text().split("\n") if log.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


_CHANGES = re.compile(
    r"\] (?!SELECT|SET|--|COPY \(SELECT|BEGIN|SAVEPOINT|RELEASE|DEALLOCATE|ROLLBACK|SHOW)|advisory|nextval"
    r"|export_snapshot|_slot\(|terminate_backend|\.subscribe\("
)
_ENDS = re.compile(r"\] COMMIT$")


def points_of(labels: list[str]) -> list[Point]:
    """Where to strike, from the record of an undisturbed run.

    Every statement's first time; the last, too, where it changes something, and one in the middle where it commits; the
    same while it is under way. Reads that repeat until something happens are struck once.
    """
    counts = Counter(labels)
    points: list[Point] = []
    for label, count in counts.items():
        if _CHANGES.search(label):
            times = {1, count, (count + 1) // 2} if _ENDS.search(label) else {1, count}
            points += [Point(label, time, when) for time in sorted(times) for when in ("before", "during")]
        else:
            points.append(Point(label))
    return points
