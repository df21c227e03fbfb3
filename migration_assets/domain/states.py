"""The states of slices, cutovers and the decommissioning, which may follow which, and how fresh a validation is.

Each kind has one function that owns its transitions. Pure: no clock.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Literal

from migration_assets.domain.errors import MigrationError, SliceStateError, StreamError


class SliceState(StrEnum):
    """Where a slice stands, in the order of its life."""

    ABSENT = "absent"
    COPIED = "copied"
    STREAMING = "streaming"
    VALIDATED = "validated"
    SIGNED_OFF = "signed_off"
    ARCHIVED = "archived"
    RETIRED = "retired"


_S = SliceState
_SLICE_STEPS: dict[SliceState, frozenset[SliceState]] = {
    # A week that was opened in advance has nothing to copy, so it joins the stream directly.
    _S.ABSENT: frozenset({_S.COPIED, _S.STREAMING}),
    # A copy may be repeated until the stream builds on it.
    _S.COPIED: frozenset({_S.COPIED, _S.STREAMING}),
    # From here on a re-copy keeps the slice in the stream.
    _S.STREAMING: frozenset({_S.STREAMING, _S.VALIDATED}),
    _S.VALIDATED: frozenset({_S.STREAMING, _S.VALIDATED, _S.SIGNED_OFF}),
    # A repair after the sign-off makes the sign-off void.
    _S.SIGNED_OFF: frozenset({_S.STREAMING, _S.ARCHIVED}),
    # A late booking makes the archive stale, and the slice is archived again; a repair also makes the sign-off void.
    _S.ARCHIVED: frozenset({_S.STREAMING, _S.ARCHIVED, _S.RETIRED}),
    # The slice is restored from its archive or from quarantine.
    _S.RETIRED: frozenset({_S.ARCHIVED}),
}
# While the base is in charge, a week can no longer be validated against the legacy or signed off: the cutover compared
# every week, and later rows were written in the base. Once the week is over, the archive's own verification decides.
_UNSIGNED = frozenset({_S.ABSENT, _S.COPIED, _S.STREAMING, _S.VALIDATED})
# The next step when a slice cannot enter this state, because it is too early or already past it.
_WAY = {
    _S.ABSENT: "nothing: a slice is absent only before its first copy",
    _S.COPIED: "where it differs from the legacy, `migration-assets repair QUARTER WEEK` mends it",
    _S.STREAMING: "copy the slice first; then `migration-assets stream start QUARTER` brings its quarter under CDC",
    _S.VALIDATED: "`migration-assets stream start QUARTER` brings its quarter under CDC; then validate it",
    _S.SIGNED_OFF: "`migration-assets sign-off QUARTER --approved-by NAME` says what is missing until then",
    _S.ARCHIVED: "an archive is made of signed-off weeks: `migration-assets sign-off QUARTER --approved-by NAME` says"
    " what is missing until then",
    _S.RETIRED: "archive it first: `migration-assets archive QUARTER WEEK`",
}


def _following(now: SliceState, *, base_in_charge: bool) -> frozenset[SliceState]:
    return _SLICE_STEPS[now] | {_S.ARCHIVED} if base_in_charge and now in _UNSIGNED else _SLICE_STEPS[now]


def may_become(now: SliceState, then: SliceState, *, base_in_charge: bool = False) -> bool:
    """Whether a slice in state `now` may be put into state `then`.

    Args:
        now: The slice's state.
        then: The requested state.
        base_in_charge: Whether the base is in charge and the slice's week is over.
    """
    return then in _following(now, base_in_charge=base_in_charge)


def require_slice_transition(now: SliceState, then: SliceState, *, where: str, base_in_charge: bool = False) -> None:
    """Refuse a step that the slice's state does not allow; the arguments are those of `may_become`.

    Raises:
        SliceStateError: The step is not allowed; the error names both states and the allowed next states.
    """
    if not may_become(now, then, base_in_charge=base_in_charge):
        following = ", ".join(sorted(_following(now, base_in_charge=base_in_charge))) or "none"
        raise SliceStateError(
            f"the slice is {now} and cannot become {then}",
            where=where,
            state_left="nothing was changed",
            next_step=f"{_WAY[then]}; allowed from {now}: {following}; see `migration-assets status`",
        )


SideName = Literal["legacy", "base"]


class CutoverError(MigrationError):
    """A cutover or rollback stopped; the error says where, and which side accepts writes now."""


class BaseInChargeError(StreamError):
    """The step needs the legacy to be in charge, and the base is; nothing was touched."""


class CutoverKind(StrEnum):
    """The direction in which writes move: to the base (cutover) or back to the legacy (rollback)."""

    CUTOVER = "cutover"
    ROLLBACK = "rollback"

    @property
    def source(self) -> SideName:
        """The side that accepts writes before the change."""
        return "legacy" if self is CutoverKind.CUTOVER else "base"

    @property
    def target(self) -> SideName:
        """The side that accepts writes after the change."""
        return "base" if self is CutoverKind.CUTOVER else "legacy"


class CutoverState(StrEnum):
    """How far a cutover or rollback is: the step under way, or the last one begun.

    In order: `waiting` for a small lag; writes `held` on the source; all changes `drained` to the target; both sides
    `compared`; `sequences` set on the target; the stream `reversed`; the target `open` for writes; the applications
    `switched`; `done`. A change that is taken back is `undoing`, then `undone`.
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


_C = CutoverState
_ORDER = (
    _C.BEGUN,
    _C.WAITING,
    _C.HELD,
    _C.DRAINED,
    _C.COMPARED,
    _C.SEQUENCES,
    _C.REVERSED,
    _C.OPEN,
    _C.SWITCHED,
    _C.DONE,
)
BEFORE_OPEN = _ORDER[: _ORDER.index(_C.OPEN)]
_CUTOVER_STEPS: dict[CutoverState, frozenset[CutoverState]] = {
    **{state: frozenset({after, _C.UNDOING}) for state, after in zip(BEFORE_OPEN, _ORDER[1:], strict=False)},
    # The outcome of the commit that opens the target may be unknown to us (a lost connection). The state is then read
    # from the server, which decides whether to go on or to undo.
    _C.OPEN: frozenset({_C.OPEN, _C.SWITCHED, _C.UNDOING}),
    # These steps are repeated until they succeed.
    _C.SWITCHED: frozenset({_C.SWITCHED, _C.DONE}),
    _C.DONE: frozenset({_C.DONE}),
    _C.UNDOING: frozenset({_C.UNDOING, _C.UNDONE}),
    _C.UNDONE: frozenset(),
}


def require_cutover_transition(before: CutoverState, after: CutoverState, *, opened: bool, where: str) -> None:
    """Refuse a change of a cutover's state that is not allowed.

    Args:
        before: The present state.
        after: The requested state.
        opened: Whether the target is known to have accepted writes; it then cannot be undone.
        where: The place that the error names.

    Raises:
        CutoverError: The change is not allowed.
    """
    if after in _CUTOVER_STEPS[before] and not (opened and after is _C.UNDOING):
        return
    raise CutoverError(
        f"{before} may not become {after}" + (" after the target accepted writes" if opened else ""),
        where=where,
        state_left="this step changed nothing",
        next_step="report this: it is a fault of this program",
    )


Scope = Literal["database", "table"]


class DecommissionError(MigrationError):
    """The legacy could not be decommissioned completely, or the step is impossible because it already is."""


class DecommissionState(StrEnum):
    """How far the decommissioning is.

    `begun`: the reverse stream is being drained and stopped, and the legacy fingerprinted. `fingerprinted`: this is
    finished. Up to here a rollback is possible and cancels the decommissioning. `closed`: the legacy is being closed,
    and there is no way back. `severed`: the legacy is closed, and the reverse stream is being removed. `done`.
    """

    BEGUN = "begun"
    FINGERPRINTED = "fingerprinted"
    CLOSED = "closed"
    SEVERED = "severed"
    DONE = "done"

    @property
    def final(self) -> bool:
        """Whether a rollback is no longer possible."""
        return self in {DecommissionState.CLOSED, DecommissionState.SEVERED, DecommissionState.DONE}


@dataclass(frozen=True)
class Obstacle:
    """One thing that prevents the decommissioning, and how to remove it."""

    code: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}. Remedy: {self.remedy}"


_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


class Freshness(StrEnum):
    """What the last validation still proves about a slice; only `fresh` proves that it is equal."""

    NEVER = "never validated"
    CHANGED = "changed since"
    ALTERED = "table altered since"
    FAILED = "failed"
    OLD = "too old"
    FRESH = "fresh"


@dataclass(frozen=True)
class LastValidation:
    """What the ledger knows about the last validation of one slice; times are aware and by the base's clock.

    Attributes:
        at: When the slice was validated; None for never.
        equal: Whether both sides were equal then; None (unknown) counts as no.
        changed_at: When this program last wrote rows of the slice.
        stream_changes: Row changes that the stream applied since the validation; None when unknown.
        altered: How the tables were altered since the validation, in words; None when no alteration is known.
    """

    at: datetime | None
    equal: bool | None
    changed_at: datetime | None
    stream_changes: int | None = None
    altered: str | None = None

    def freshness(self, *, now: datetime, max_age: timedelta) -> Freshness:
        """Judge the validation; an age of exactly `max_age` is fresh, and so is a validation at `changed_at` itself."""
        if self.at is None:
            return Freshness.NEVER
        # This comes before `failed`: a repair has ended the failure, and its result has not been validated yet.
        if self.changed_at is not None and self.changed_at > self.at:
            return Freshness.CHANGED
        if self.equal is not True:
            return Freshness.FAILED
        # The stream does not carry what a rewrite does to rows, and the server's counters do not show it.
        if self.altered:
            return Freshness.ALTERED
        # The absolute value: a clock that was set back must not keep a validation fresh for ever.
        return Freshness.OLD if abs(now - self.at) > max_age else Freshness.FRESH

    def describe(self, *, now: datetime, max_age: timedelta) -> str:
        """Describe it in one line: `validated at 2024-06-24 12:00 UTC, 3 h ago; since then 4 changes by the stream`."""
        if self.at is None:
            return "never validated"
        equal = self.equal is True
        head = f"{'validated' if equal else 'validation FAILED'} at {instant_text(self.at)}, {_ago(self.at, now)}"
        match self.freshness(now=now, max_age=max_age):
            case Freshness.CHANGED if self.changed_at is not None:
                return f"{head}; changed by us since then, at {instant_text(self.changed_at)}: not validated anew"
            case Freshness.ALTERED:
                return f"{head}; stale: {self.altered} since then"
            case Freshness.OLD:
                word = "older" if self.at <= now else "further"
                return f"{head}: {word} than {span_text(max_age)}{self._by_the_stream()}"
            case _:
                return head + self._by_the_stream()

    def _by_the_stream(self) -> str:
        if self.stream_changes is None:
            return ""
        changes = {0: "no changes", 1: "1 change"}.get(self.stream_changes, f"{self.stream_changes:,} changes")
        return f"; since then {changes} by the stream"


def changes_since(then: int | None, now: int | None) -> int | None:
    """The growth of a leaf's change counter; None if a value is missing or the counter was reset (as by a crash)."""
    if then is None or now is None or now < then:
        return None
    return now - then


def instant_text(moment: datetime) -> str:
    """The moment in UTC, as `2024-06-24 12:00 UTC`; it may be given in any zone."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def span_text(span: timedelta) -> str:
    """A length of time, rounded down: `40 s`, `12 min`, `3 h`, and days from two days on: `5 d`."""
    seconds = int(span.total_seconds())
    if seconds < _MINUTE:
        return f"{seconds} s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE} min"
    if seconds < 2 * _DAY:
        return f"{seconds // _HOUR} h"
    return f"{seconds // _DAY} d"


def _ago(moment: datetime, now: datetime) -> str:
    return f"{span_text(now - moment)} ago" if moment <= now else f"{span_text(moment - now)} ahead of the clock"
