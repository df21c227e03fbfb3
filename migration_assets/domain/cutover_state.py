"""The states of a cutover and of a rollback, and the one function that owns which may follow which.

Both are the same machine with the sides exchanged: writes leave the *source* and go to the *target*. Up to and
including `reversed` the target never accepted a write, and the machine can be undone; from `open` on it only goes
forward.
"""

from enum import StrEnum
from typing import Literal

from migration_assets.domain.errors import MigrationError, StreamError

SideName = Literal["legacy", "base"]


class CutoverError(MigrationError):
    """A cutover or rollback stopped; says where, and which side accepts writes now."""


class BaseInChargeError(StreamError):
    """What was asked for rests on the legacy's being the truth, and the base is in charge; nothing was touched."""


class CutoverKind(StrEnum):
    """Where the writes go: to the base, or back to the legacy."""

    CUTOVER = "cutover"
    ROLLBACK = "rollback"

    @property
    def source(self) -> SideName:
        """The side that accepts writes before."""
        return "legacy" if self is CutoverKind.CUTOVER else "base"

    @property
    def target(self) -> SideName:
        """The side that accepts writes after."""
        return "base" if self is CutoverKind.CUTOVER else "legacy"


class CutoverState(StrEnum):
    """How far it is: the step that is under way, or was the last one to be.

    `waiting` for a small lag; writes `held` on the source; all of it `drained` to the target; both sides `compared`;
    `sequences` set on the target; the stream `reversed`; the target `open` for writes; the applications `switched`;
    `done`. Or `undoing`, and `undone`.
    """

    BEGUN = "begun"
    WAITING = "waiting"
    HELD = "held"
    DRAINED = "drained"
    COMPARED = "compared"
    SEQUENCES = "sequences"
    REVERSED = "reversed"
    OPEN = "open"
    SWITCHED = "switched"
    DONE = "done"
    UNDOING = "undoing"
    UNDONE = "undone"


_S = CutoverState
_ORDER = (
    _S.BEGUN,
    _S.WAITING,
    _S.HELD,
    _S.DRAINED,
    _S.COMPARED,
    _S.SEQUENCES,
    _S.REVERSED,
    _S.OPEN,
    _S.SWITCHED,
    _S.DONE,
)
BEFORE_OPEN = _ORDER[: _ORDER.index(_S.OPEN)]
_ALLOWED: dict[CutoverState, frozenset[CutoverState]] = {
    **{state: frozenset({after, _S.UNDOING}) for state, after in zip(BEFORE_OPEN, _ORDER[1:], strict=False)},
    # The commit that opens the target may be known to the servers alone: then the look after it decides.
    _S.OPEN: frozenset({_S.OPEN, _S.SWITCHED, _S.UNDOING}),
    # What comes after is repeated until it succeeds.
    _S.SWITCHED: frozenset({_S.SWITCHED, _S.DONE}),
    _S.DONE: frozenset({_S.DONE}),
    _S.UNDOING: frozenset({_S.UNDOING, _S.UNDONE}),
    _S.UNDONE: frozenset(),
}


def require_transition(before: CutoverState, after: CutoverState, *, opened: bool, where: str) -> None:
    """Refuse what is not allowed.

    Args:
        before: The state now.
        after: The state that is asked for.
        opened: Whether the target is known to have accepted writes: then nothing is undone any more.
        where: For the error.

    Raises:
        CutoverError: Not allowed.
    """
    if after in _ALLOWED[before] and not (opened and after is _S.UNDOING):
        return
    raise CutoverError(
        f"{before} may not become {after}" + (" after the target accepted writes" if opened else ""),
        where=where,
        state_left="nothing was changed by this",
        next_step="report this: it is a fault of this program",
    )
