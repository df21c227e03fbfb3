"""What one run of the machine works with: sessions, locks, names, and the deadline.

The deadline bounds the time without writes: when it is over, the source accepts them again, whatever a step hangs at.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import psycopg
from psycopg import errors

from migration_assets.cutover.left_weeks import AsFound
from migration_assets.cutover.plan import CutoverPlan
from migration_assets.cutover.reverse import reverse_names
from migration_assets.domain.states import CutoverError, CutoverKind, CutoverState, SideName
from migration_assets.ledger.definitions import Files
from migration_assets.ledger.proofs import Proof
from migration_assets.ledger.slices import SliceRecord, read_slices, slice_locks
from migration_assets.ledger.stream import StreamLock, StreamNames, names_of, stream_lock
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected, Timeouts, set_limits
from migration_assets.stream.plan import SLICE_LOCK_MS
from migration_assets.stream.running import require_stream

# The steps give up by themselves a little earlier; the watchdog is for steps that hang.
_STEPS = 0.9
_WATCHDOG = 0.95
_AGAIN_SECONDS = 1.0
log = logging.getLogger(__name__)


class Deadline:
    """A watchdog that runs from the moment that writes are held. `release` must not need a session of the steps."""

    def __init__(self, seconds: float, release: Callable[[], bool]) -> None:
        self._seconds, self._release = seconds, release
        self._started = time.monotonic()
        self._expired, self._stopped = threading.Event(), threading.Event()
        self._sessions: list[Connected] = []
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def start(self) -> None:
        """Start the watchdog: writes are about to be held."""
        self._started = time.monotonic()
        self._timer = threading.Timer(self._seconds * _WATCHDOG, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        """Stop the watchdog: nobody is held any more, or the other side is open."""
        self._stopped.set()
        if self._timer is not None:
            self._timer.cancel()

    @property
    def started(self) -> bool:
        """Whether this process has held writes."""
        return self._timer is not None

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since writes were held."""
        return (time.monotonic() - self._started) * 1000

    def remaining(self) -> float:
        """Seconds that the steps have left; 0 or less means none."""
        if self._timer is None:
            return self._seconds
        return self._started + self._seconds * _STEPS - time.monotonic()

    def check(self, what: str) -> None:
        """Give up when the time is over.

        Args:
            what: The step that took so long, for the error.

        Raises:
            CutoverError: The time is over.
        """
        if self._expired.is_set() or self.remaining() <= 0:
            raise CutoverError(
                f"{what} took longer than the timeout of {self._seconds:g} s allows",
                next_step="see in the timeline what was slow; make it faster, or raise"
                " MIGRATION_CUTOVER_TIMEOUT_SECONDS",
            )

    @contextmanager
    def bounding(self, *connections: Connected, what: str) -> Generator[None]:
        """Limit every statement of these sessions to the time that is left; they have no other limit of their own.

        Raises:
            CutoverError: The time is over.
        """
        for connection in connections:
            set_limits(connection, statement=max(1.0, self.remaining() * 1000), whole_session=True)
        try:
            yield
        except errors.QueryCanceled:
            self.check(what)
            raise
        finally:
            for connection in connections:
                if not connection.broken:
                    set_limits(connection, statement=0, whole_session=True)

    @contextmanager
    def watched(self, connection: Connected) -> Generator[Connected]:
        """Register a session of the steps, which is cut off when the watchdog strikes."""
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
                # We shut the socket instead of sending a cancel request, which a frozen server would never answer.
                with suppress(OSError, psycopg.Error), socket.socket(fileno=socket.dup(connection.fileno())) as wire:
                    wire.shutdown(socket.SHUT_RDWR)

    def _try_release(self) -> bool | None:
        try:
            return self._release()
        except Exception as error:  # noqa: BLE001 - nothing would catch an error of this thread
            log.critical("the timeout is over and the writes could not be released yet: %s", told(error))
            return None


# A step on the stream may take long; nobody is held while we wait for it.
_STREAM_LOCK_MS = 60_000


@dataclass(frozen=True)
class KeptSession:
    """A session that was opened before writes were held, for letting them go; one thread at a time uses it.

    It is needed where the server takes no new session any more: applications whose writes wait and are tried again may
    take all connections that are left, or a DBA lets nobody connect so as to keep the applications out.
    """

    session: Connected
    alone: threading.Lock = field(default_factory=threading.Lock)

    def require_alive(self, side: SideName) -> None:
        """Open it, before anybody is held.

        Raises:
            CutoverError: The session was ended, by a person or by the network.
        """
        try:
            with self.alone:
                self.session.execute("SELECT 1")
        except psycopg.OperationalError as error:
            raise CutoverError(
                f"the session that would let the {side}'s writes go again was ended: {told(error)}",
                where=f"the {side}",
                next_step=f"see what ends idle sessions on the {side}, a person or the network between; then run this"
                " again",
            ) from error


@dataclass(frozen=True)
class Work:
    """One cutover or rollback under way. `base` holds the locks: a dead run can do nothing in that session."""

    plan: CutoverPlan
    id: int
    kind: CutoverKind
    base: Connected
    legacy: Connected
    forward: StreamNames
    deadline: Deadline
    unfollowed: list[tuple[SliceRecord, Proof]] = field(default_factory=list[tuple[SliceRecord, Proof]])
    """Weeks that have a leaf but are not under CDC, with the proofs that they were equal while writes were held."""
    left: dict[int, AsFound] = field(default_factory=dict[int, AsFound])
    """Weeks that left the base, as the legacy had them before writes were held; by the key of the week's lock."""

    carried: set[int] = field(default_factory=set[int])
    """Keys of the locks of the weeks whose proof the last marker's apply worker has carried on without a gap."""

    kept: KeptSession | None = None
    """A session on the source that lets its writes go where the server takes no further session."""

    files: dict[SideName, Files] = field(default_factory=dict[SideName, Files])
    """The table's files on each side before the comparison: a hold does not refuse an ALTER TABLE that rewrites it."""

    @property
    def source(self) -> Connected:
        """The side that gives the writes away."""
        return self.legacy if self.kind is CutoverKind.CUTOVER else self.base

    @property
    def target(self) -> Connected:
        """The side that the writes go to."""
        return self.base if self.kind is CutoverKind.CUTOVER else self.legacy

    @property
    def reverse(self) -> StreamNames:
        """The names of the reverse stream."""
        return reverse_names(self.forward)

    def tell(self, state: CutoverState) -> None:
        """Tell the observer of the run, if there is one, that a state was reached."""
        if self.plan.on_state is not None:
            with suppress(Exception):
                self.plan.on_state(self.kind, state)


def long_session() -> Timeouts:
    """Timeouts of the run's own sessions: a statement may take long, a lock may not."""
    return Timeouts(lock=5_000, statement=0, idle_in_transaction=30_000)


def forward_names(base: Connected, relation: str) -> StreamNames:
    """The names of the stream from the legacy to the base.

    Raises:
        StreamError: There never was a change stream.
    """
    return names_of(require_stream(base, relation))


@contextmanager
def stream_to_ourselves(base: Connected, plan: CutoverPlan) -> Generator[None]:
    """Keep every other step from joining, copying, repairing, validating and pausing while the body runs.

    Raises:
        SliceBusyError: Another process works on a week.
        StreamError: Another process works on the stream.
    """
    with ExitStack() as stack:
        set_limits(base, lock=_STREAM_LOCK_MS, whole_session=True)
        stack.enter_context(stream_lock(base, plan.relation, lock=StreamLock.START))
        set_limits(base, lock=SLICE_LOCK_MS, whole_session=True)
        stack.enter_context(slice_locks(base, read_slices(base, plan.relation)))
        set_limits(base, lock=_STREAM_LOCK_MS, whole_session=True)
        stack.enter_context(stream_lock(base, plan.relation))
        set_limits(base, lock=SLICE_LOCK_MS, whole_session=True)
        yield
