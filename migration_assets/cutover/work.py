"""What a run of the machine has at hand: the sessions, the locks, the names, the deadline."""

import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import psycopg

from migration_assets.cutover.deadline import Deadline
from migration_assets.cutover.left_weeks import AsFound
from migration_assets.cutover.plan import CutoverPlan
from migration_assets.cutover.reverse import reverse_names
from migration_assets.domain.cutover_state import CutoverError, CutoverKind, CutoverState, SideName
from migration_assets.ledger.definitions import Files
from migration_assets.ledger.locks import slice_locks
from migration_assets.ledger.proofs import Proof
from migration_assets.ledger.slices import SliceRecord, read_slices
from migration_assets.ledger.stream import (
    StreamLock,
    StreamNames,
    names_of,
    stream_lock,
)
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected, Timeouts
from migration_assets.stream.running import require_stream

# A step on the stream may take long; nobody is held while we wait for it.
_STREAM_LOCK_MS = 60_000


@dataclass(frozen=True)
class KeptSession:
    """A session that was opened before writes were held; one thread at a time uses it.

    Applications whose writes wait, and try again, take all connections that a server has left; or somebody keeps them
    out by letting nobody in.
    """

    session: Connected
    alone: threading.Lock = field(default_factory=threading.Lock)

    def require_alive(self, side: SideName) -> None:
        """Before anybody is held.

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
    """One cutover or rollback under way. `base` holds the locks, so that what it does is never done by a dead run."""

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
        """Say that a state was reached to whoever watches."""
        if self.plan.on_state is not None:
            with suppress(Exception):
                self.plan.on_state(self.kind, state)


def long_session() -> Timeouts:
    """Of the sessions that the whole run goes through: a statement may take long, a lock not."""
    return Timeouts(lock=5_000, statement=0, idle_in_transaction=30_000)


def forward_names(base: Connected, relation: str) -> StreamNames:
    """The names of the stream from the legacy to the base.

    Raises:
        StreamError: There was none ever.
    """
    return names_of(require_stream(base, relation))


@contextmanager
def stream_to_ourselves(base: Connected, plan: CutoverPlan) -> Generator[None]:
    """Nobody joins, copies, repairs, validates or pauses meanwhile.

    Raises:
        SliceBusyError: Somebody works on a week.
        StreamError: Somebody works on the stream.
    """
    with ExitStack() as stack:
        base.execute(f"SET lock_timeout = {_STREAM_LOCK_MS}".encode())
        stack.enter_context(stream_lock(base, plan.relation, lock=StreamLock.START))
        base.execute("SET lock_timeout = '5s'")
        stack.enter_context(slice_locks(base, read_slices(base, plan.relation)))
        base.execute(f"SET lock_timeout = {_STREAM_LOCK_MS}".encode())
        stack.enter_context(stream_lock(base, plan.relation))
        base.execute("SET lock_timeout = '5s'")
        yield
