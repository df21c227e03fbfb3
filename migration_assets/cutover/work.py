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
        """Whether writes were held by this process."""
        return self._timer is not None

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since writes were held."""
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
                # Not a cancel request: a server that stands still would never answer it.
                with suppress(OSError, psycopg.Error), socket.socket(fileno=socket.dup(connection.fileno())) as wire:
                    wire.shutdown(socket.SHUT_RDWR)

    def _try_release(self) -> bool | None:
        try:
            return self._release()
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise to
            log.critical("the timeout is over and the writes could not be released yet: %s", told(error))
            return None


# A step on the stream may take long; nobody is held while we wait for it.
_STREAM_LOCK_MS = 60_000
_SLICE_LOCK_MS = 5_000


@dataclass(frozen=True)
class KeptSession:
    """A session that was opened before writes were held; one thread at a time uses it.

    Applications whose writes wait, and try again, take all connections that a server has left; or somebody keeps them
    out by letting nobody in.
    """

    session: Connected
    alone: threading.Lock = field(default_factory=threading.Lock)

    def require_alive(self, side: SideName) -> None:
        """Open it, before anybody is held.

        Raises:
            CutoverError: Somebody ended it, or the network did.
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
    """Weeks with a leaf that no stream follows, as they were found equal while writes were held."""
    left: dict[int, AsFound] = field(default_factory=dict[int, AsFound])
    """Weeks that left the base, as the legacy was seen to have them before anybody was held; by their lock's key."""

    carried: set[int] = field(default_factory=set[int])
    """Weeks that the worker which brought the last marker has followed since their proof; by their lock's key."""

    kept: KeptSession | None = None
    """On the source, for letting its writes go where it takes no further session."""

    files: dict[SideName, Files] = field(default_factory=dict[SideName, Files])
    """Where each side's rows were before they were compared: no hold keeps anybody from an ALTER TABLE."""

    @property
    def source(self) -> Connected:
        """The side whose writes leave."""
        return self.legacy if self.kind is CutoverKind.CUTOVER else self.base

    @property
    def target(self) -> Connected:
        """The side that they go to."""
        return self.base if self.kind is CutoverKind.CUTOVER else self.legacy

    @property
    def reverse(self) -> StreamNames:
        """The reverse stream's names."""
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
        StreamError: There was none ever.
    """
    return names_of(require_stream(base, relation))


@contextmanager
def stream_to_ourselves(base: Connected, plan: CutoverPlan) -> Generator[None]:
    """Keep every other step from joining, copying, repairing, validating and pausing while the body runs.

    Raises:
        SliceBusyError: Somebody works on a week.
        StreamError: Somebody works on the stream.
    """
    with ExitStack() as stack:
        set_limits(base, lock=_STREAM_LOCK_MS, whole_session=True)
        stack.enter_context(stream_lock(base, plan.relation, lock=StreamLock.START))
        set_limits(base, lock=_SLICE_LOCK_MS, whole_session=True)
        stack.enter_context(slice_locks(base, read_slices(base, plan.relation)))
        set_limits(base, lock=_STREAM_LOCK_MS, whole_session=True)
        stack.enter_context(stream_lock(base, plan.relation))
        set_limits(base, lock=_SLICE_LOCK_MS, whole_session=True)
        yield
