"""How far a stream is behind, and how fast it applies, by heartbeats that travel through it with the changes."""

import bisect
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.changes import load_process
from benchmarks.streams import Ground, Stream
from migration_assets.postgres.sessions import Databases, Timeouts, require_row

_EVERY = 0.05  # seconds between two heartbeats
_LOOK_EVERY = 0.004  # seconds between two looks at the base: what the lag is exact to
_PATIENCE = 600.0
_TIMEOUTS = Timeouts(lock=0, statement=0, idle_in_transaction=0)


@dataclass(frozen=True)
class Pace:
    """One run at one rate: row changes a second, milliseconds of lag, and what it cost for each change.

    `applied` counts until the base had the last change; `wal_bytes` are the legacy's, CPU that of both servers.
    """

    stream: str
    offered: int
    reached: float
    applied: float
    lag_ms: tuple[float, ...]
    cpu_ms_per_change: float
    wal_bytes_per_change: float


@dataclass(frozen=True)
class Backlog:
    """Changes that had piled up while the stream stood, applied at its own speed."""

    stream: str
    changes: int
    seconds: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        """Row changes a second, the worker's start included."""
        return self.changes / self.seconds


class Heartbeats:
    """Written to the legacy all the time, and looked for on the base; times are of one monotonic clock."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._sent: list[tuple[int, float]] = []  # number, when the legacy had acknowledged it
        self._seen: list[tuple[int, float]] = []  # newest number on the base, when it was seen first
        self._news = threading.Condition()
        self._done = threading.Event()

    def wait_for_one_sent_after(self, moment: float) -> float:
        """When a heartbeat that was sent after `moment` was visible on the base; all before it is applied then."""
        deadline = time.monotonic() + _PATIENCE
        with self._news:
            while True:
                for number, at in self._sent[bisect.bisect_right(self._sent, moment, key=lambda s: s[1]) :][:1]:
                    arrival = self._arrival(number)
                    if arrival is not None:
                        return max(arrival, at)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self._stream.name}: no heartbeat arrived in {_PATIENCE:g} s")
                self._news.wait(0.1)
                if self._done.is_set():
                    raise RuntimeError(f"{self._stream.name}: the heartbeats have ended")

    def lags_ms(self, begin: float, end: float) -> tuple[float, ...]:
        """From the legacy's acknowledgement until visible on the base, of those sent in between."""
        with self._news:
            found = [(at, self._arrival(number)) for number, at in self._sent if begin <= at <= end]
        return tuple(max(0.0, arrival - at) * 1000 for at, arrival in found if arrival is not None)

    def _arrival(self, number: int) -> float | None:
        place = bisect.bisect_left(self._seen, number, key=lambda seen: seen[0])
        return self._seen[place][1] if place < len(self._seen) else None

    def send(self) -> None:
        """Until `end`."""
        try:
            with self._stream.databases.session("legacy", "benchmark:beat", _TIMEOUTS) as legacy:
                due = time.monotonic()
                while not self._done.wait(max(0.0, due - time.monotonic())):
                    number = self._stream.beat(legacy)
                    with self._news:
                        self._sent.append((number, time.monotonic()))
                    due = max(due + _EVERY, time.monotonic())
        finally:
            self.end()

    def look(self) -> None:
        """Until `end`."""
        try:
            with self._stream.databases.session("base", "benchmark:look", _TIMEOUTS) as base:
                last = 0
                while not self._done.wait(_LOOK_EVERY):
                    newest = self._stream.newest(base)
                    if newest > last:
                        last = newest
                        with self._news:
                            self._seen.append((newest, time.monotonic()))
                            self._news.notify_all()
        finally:
            self.end()

    def end(self) -> None:
        """Also where one of both failed: nobody waits for the other then."""
        self._done.set()


@contextmanager
def heartbeats(stream: Stream) -> Generator[Heartbeats]:
    """They go on for as long as the body runs."""
    beats = Heartbeats(stream)
    with ThreadPoolExecutor(2, thread_name_prefix="heartbeats") as pool:
        both = [pool.submit(beats.send), pool.submit(beats.look)]
        try:
            yield beats
        finally:
            beats.end()
            for one in both:
                one.result()


def measure_pace(ground: Ground, stream: Stream, *, rate: int, seconds: float, warm_up: float) -> Pace:
    """Offer changes at a rate to a stream that has caught up; what the warm-up saw counts for the rate, not the lag."""
    load = ground.load(stream, rate=float(rate), seconds=warm_up + seconds)
    with load_process(load) as writers:
        stream.let_go()
        with heartbeats(stream) as beats:
            beats.wait_for_one_sent_after(time.monotonic())
            cpu, wal = ground.lab.server_cpu(), _wal_position(stream.databases)
            writers.go()
            written = writers.result()
            wal = _wal_position(stream.databases) - wal
            drained = beats.wait_for_one_sent_after(written.ended)
            cpu = ground.lab.server_cpu() - cpu
            lag = beats.lags_ms(written.began + warm_up, written.ended)
        stream.rest()
    return Pace(
        stream=stream.name,
        offered=rate,
        reached=written.per_second,
        applied=written.changes / (drained - written.began),
        lag_ms=lag,
        cpu_ms_per_change=cpu * 1000 / written.changes,
        wal_bytes_per_change=wal / written.changes,
    )


def measure_backlog(ground: Ground, stream: Stream, *, changes: int) -> Backlog:
    """Let changes pile up behind a stream at rest, then let it go."""
    with load_process(ground.load(stream, rate=0.0, changes=changes)) as writers:
        writers.go()
        written = writers.result()
    with heartbeats(stream) as beats:
        cpu, began = ground.lab.server_cpu(), time.monotonic()
        stream.let_go()
        seconds = beats.wait_for_one_sent_after(written.ended) - began
        cpu = ground.lab.server_cpu() - cpu
    stream.rest()
    return Backlog(stream.name, written.changes, seconds, cpu)


def _wal_position(databases: Databases) -> float:
    with databases.session("legacy", "benchmark") as legacy:
        row = legacy.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
        return float(require_row(row, "a position")[0])
