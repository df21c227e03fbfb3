"""Concurrent writers on the legacy: seeded, counted, and never to be hurt by what the migration does.

Belongs here: the threads, their transactions, what they may run into, and the probe that measures how long the legacy
lets a writer wait. What a change is stands in `changes`.
"""

import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

import psycopg
from psycopg import IsolationLevel, errors

from migration_assets.postgres.sessions import Connected
from migration_assets_tests.convergence.changes import WEIGHTS, Hand
from migration_assets_tests.convergence.table import PROBE_ID
from migration_assets_tests.freezes import patience

WRITERS = 4
# What writers do to each other. Everything else is an outage that the migration has caused.
_AMONG_THEMSELVES = (errors.DeadlockDetected, errors.UniqueViolation, errors.SerializationFailure)


@dataclass
class Traffic:
    """What was committed, by kind; `waits` are the probe's milliseconds for one UPDATE of a row of its own."""

    committed: Counter[str] = field(default_factory=Counter[str])
    transactions: int = 0
    rollbacks: int = 0
    conflicts: int = 0
    waits: list[float] = field(default_factory=list[float])
    failures: list[BaseException] = field(default_factory=list[BaseException])

    def require_unhurt(self) -> None:
        """Fail when a writer met an error that other writers do not explain."""
        if self.failures:
            raise AssertionError(f"a writer on the legacy failed: {self.failures[0]!r}") from self.failures[0]


class Writer(threading.Thread):
    """One connection that writes until told to stop; the transaction under way is finished first."""

    def __init__(self, url: str, seed: str, number: int, stop: threading.Event) -> None:
        super().__init__(name=f"writer {number}", daemon=True)
        self.traffic = Traffic()
        self._url, self._stop_event = url, stop
        self._random = Random(f"{seed}/{number}")
        self._hand = Hand(self._random)
        self._isolation = IsolationLevel.REPEATABLE_READ if number == 1 else None

    def run(self) -> None:
        try:
            with psycopg.connect(self._url, autocommit=True) as connection:
                # Deadlocks are part of the game; a second for each would be a waste of time.
                connection.execute("SET deadlock_timeout = '15ms'")
                connection.execute("SET statement_timeout = '20s'")
                connection.isolation_level = self._isolation
                while not self._stop_event.is_set():
                    self._transact(connection)
                    if self._random.random() < 0.003:
                        # By hand, so that it is not cancelled for a lock as autovacuum's is.
                        connection.execute("VACUUM public.bookings")
                    self._stop_event.wait(self._random.uniform(0, 0.025))
        except BaseException as error:  # noqa: BLE001 - whoever started the thread raises it
            self.traffic.failures.append(error)

    def _transact(self, connection: Connected) -> None:
        done: list[str] = []
        try:
            with connection.transaction():
                changes = self._random.choices([1, 2, 5, 12], [60, 20, 15, 5])[0]
                for change in self._random.choices(list(WEIGHTS), list(WEIGHTS.values()), k=changes):
                    change(connection, self._hand)
                    done.append(change.__name__)
                if self._random.random() < 0.04:
                    # Held open on purpose, with all its locks: a cut has to get along with such people.
                    self._stop_event.wait(self._random.uniform(0.01, 0.15))
                if self._random.random() < 0.08:
                    raise psycopg.Rollback
                done.append("")
        except _AMONG_THEMSELVES:
            self.traffic.conflicts += 1
            return
        if done[-1:] != [""]:
            self.traffic.rollbacks += 1
            return
        self.traffic.transactions += 1
        self.traffic.committed.update(done[:-1])


class Probe(threading.Thread):
    """Changes one row that is nobody else's, every few milliseconds: what it waits, any writer waits."""

    def __init__(self, url: str, stop: threading.Event) -> None:
        super().__init__(name="probe", daemon=True)
        self.traffic = Traffic()
        self._url, self._stop_event = url, stop

    def run(self) -> None:
        try:
            with psycopg.connect(self._url, autocommit=True) as connection:
                while not self._stop_event.wait(0.01):
                    began = time.perf_counter()
                    connection.execute(
                        "UPDATE public.bookings SET guests = coalesce(guests, 0) %% 1000 + 1 WHERE id = %s", [PROBE_ID]
                    )
                    self.traffic.waits.append(1000 * (time.perf_counter() - began))
        except BaseException as error:  # noqa: BLE001 - whoever started the thread raises it
            self.traffic.failures.append(error)


@contextmanager
def writing(url: str, seed: object, writers: int = WRITERS) -> Generator[Traffic]:
    """Writers and a probe at work while the body runs; their counts are complete after it.

    Raises:
        AssertionError: A writer was hurt, unless the body has failed already.
    """
    stop, traffic = threading.Event(), Traffic()
    threads: list[Writer | Probe] = [Writer(url, str(seed), number, stop) for number in range(writers)]
    threads.append(Probe(url, stop))
    for thread in threads:
        thread.start()
    try:
        yield traffic
    finally:
        stop.set()
        for thread in threads:
            thread.join(patience(60))
            traffic.committed += thread.traffic.committed
            traffic.transactions += thread.traffic.transactions
            traffic.rollbacks += thread.traffic.rollbacks
            traffic.conflicts += thread.traffic.conflicts
            traffic.waits += thread.traffic.waits
            traffic.failures += thread.traffic.failures
            if thread.is_alive():
                traffic.failures.append(TimeoutError(f"{thread.name} did not end within a minute"))
    traffic.require_unhurt()
