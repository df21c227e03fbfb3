"""The states of a slice, and the one function that owns which may follow which."""

from enum import StrEnum

from migration_assets.domain.errors import SliceStateError


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
_ALLOWED: dict[SliceState, frozenset[SliceState]] = {
    # A week that was opened ahead of its time has nothing to copy: it joins the stream as it is.
    _S.ABSENT: frozenset({_S.COPIED, _S.STREAMING}),
    # A copy may be repeated as long as nobody relies on it.
    _S.COPIED: frozenset({_S.COPIED, _S.STREAMING}),
    # From here on a re-copy keeps the slice in the stream.
    _S.STREAMING: frozenset({_S.STREAMING, _S.VALIDATED}),
    _S.VALIDATED: frozenset({_S.STREAMING, _S.VALIDATED, _S.SIGNED_OFF}),
    # A repair after the sign-off makes it void.
    _S.SIGNED_OFF: frozenset({_S.STREAMING, _S.ARCHIVED}),
    # A late booking makes an archive stale, and the slice is archived anew; a repair makes its sign-off void as well.
    _S.ARCHIVED: frozenset({_S.STREAMING, _S.ARCHIVED, _S.RETIRED}),
    # Restored: from its archive, or from quarantine.
    _S.RETIRED: frozenset({_S.ARCHIVED}),
}


def may_become(now: SliceState, then: SliceState) -> bool:
    """Whether a slice in state `now` may be put into state `then`."""
    return then in _ALLOWED[now]


def require_transition(now: SliceState, then: SliceState, *, where: str) -> None:
    """Refuse a step that the slice's state does not allow.

    Raises:
        SliceStateError: Names both states and those that could follow.
    """
    if not may_become(now, then):
        following = ", ".join(sorted(_ALLOWED[now])) or "none"
        raise SliceStateError(
            f"the slice is {now} and cannot become {then}",
            where=where,
            state_left="nothing was changed",
            next_step=f"allowed from {now}: {following}; see `migration-assets status`",
        )
