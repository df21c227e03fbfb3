"""Bounds the time without writes: when it is over the source accepts them again, whatever the step hangs at."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import errors

from migration_assets.domain.cutover_state import CutoverError
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected

# The steps give up by themselves a little earlier; the watchdog is for those that hang.
_STEPS = 0.9
_WATCHDOG = 0.95
_AGAIN_SECONDS = 1.0
log = logging.getLogger(__name__)


class Deadline:
    """Runs from the moment that writes are held. `release` must need no session of the step's."""

    def __init__(self, seconds: float, release: Callable[[], bool]) -> None:
        self._seconds, self._release = seconds, release
        self._started = time.monotonic()
        self._expired, self._stopped = threading.Event(), threading.Event()
        self._sessions: list[Connected] = []
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def start(self) -> None:
        """Writes are about to be held."""
        self._started = time.monotonic()
        self._timer = threading.Timer(self._seconds * _WATCHDOG, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        """Nobody is held any more, or the other side is open."""
        self._stopped.set()
        if self._timer is not None:
            self._timer.cancel()

    @property
    def started(self) -> bool:
        """Whether writes were held by this process."""
        return self._timer is not None

    @property
    def elapsed_ms(self) -> float:
        """Since writes were held."""
        return (time.monotonic() - self._started) * 1000

    def remaining(self) -> float:
        """Seconds that the steps have left; 0 or less: none."""
        if self._timer is None:
            return self._seconds
        return self._started + self._seconds * _STEPS - time.monotonic()

    def check(self, what: str) -> None:
        """Give up when the time is over.

        Raises:
            CutoverError: It is.
        """
        if self._expired.is_set() or self.remaining() <= 0:
            raise CutoverError(
                f"{what} took longer than the timeout of {self._seconds:g} s allows",
                next_step="see what was slow in the timeline; mend it or raise MIGRATION_CUTOVER_TIMEOUT_SECONDS",
            )

    @contextmanager
    def bounding(self, *connections: Connected, what: str) -> Generator[None]:
        """No statement of these sessions takes longer than what is left; they have no other limit of their own.

        Raises:
            CutoverError: The time is over.
        """
        for connection in connections:
            _limit(connection, self.remaining())
        try:
            yield
        except errors.QueryCanceled:
            self.check(what)
            raise
        finally:
            for connection in connections:
                if not connection.broken:
                    _limit(connection, 0)

    @contextmanager
    def watched(self, connection: Connected) -> Generator[Connected]:
        """A session of the steps': it is cut off when the watchdog strikes."""
        with self._lock:
            self._sessions.append(connection)
        try:
            yield connection
        finally:
            with self._lock:
                self._sessions.remove(connection)

    def _expire(self) -> None:
        while (released := self._try_release()) is None:
            if self._stopped.wait(_AGAIN_SECONDS):
                return
        if not released:
            return
        self._expired.set()
        log.error("the timeout of %g s is over: the writes were released", self._seconds)
        with self._lock:
            for connection in self._sessions:
                # Not a cancel request: a server that stands still would never answer it.
                with suppress(OSError, psycopg.Error), socket.socket(fileno=socket.dup(connection.fileno())) as wire:
                    wire.shutdown(socket.SHUT_RDWR)

    def _try_release(self) -> bool | None:
        try:
            return self._release()
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise to
            log.critical("the timeout is over and the writes could not be released yet: %s", told(error))
            return None


def _limit(connection: Connected, seconds: float) -> None:
    limit = f"{max(0, int(seconds * 1000))}ms"
    connection.execute("SELECT set_config('statement_timeout', %s, false)", [limit])
