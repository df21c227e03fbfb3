"""How long the machine had no time for anybody: what a stopwatch on others' waits has to allow for."""

import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

_TICK_SECONDS = 0.005


def crowding() -> float:
    """How many processes wanted each core in the last minute; 1.0 where there were cores enough."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def patience(seconds: float) -> float:
    """How long to wait now for what takes a quiet machine a small part of that, seconds; forever is never waited."""
    return seconds * crowding()


@dataclass
class Freezes:
    """`longest_ms`: the longest time in which a thread that wanted to run did not."""

    longest_ms: float = 0.0


@contextmanager
def freezes() -> Generator[Freezes]:
    """Measured while the block runs."""
    seen, stop = Freezes(), threading.Event()

    def tick() -> None:
        before = time.perf_counter()
        while not stop.wait(_TICK_SECONDS):
            now = time.perf_counter()
            seen.longest_ms = max(seen.longest_ms, (now - before - _TICK_SECONDS) * 1000)
            before = now

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
