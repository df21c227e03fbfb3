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
# While the base is in charge nobody can prove a week against a legacy any more, nor sign it off: the cutover compared
# all of them, and what came after was born in the base. The archive's own proof decides, once the week is over.
_UNSIGNED = frozenset({_S.ABSENT, _S.COPIED, _S.STREAMING, _S.VALIDATED})
# What somebody does whose slice is not so far, or further.
_WAY = {
    _S.ABSENT: "nothing: a slice is absent only before its first copy",
    _S.COPIED: "where it differs from the legacy, `migration-assets repair QUARTER WEEK` mends it",
    _S.STREAMING: "a slice is copied before `migration-assets stream start QUARTER` brings its quarter under CDC",
    _S.VALIDATED: "`migration-assets stream start QUARTER` brings its quarter under CDC; then validate it",
    _S.SIGNED_OFF: "`migration-assets sign-off QUARTER --approved-by NAME` says what is missing until then",
    _S.ARCHIVED: "an archive is made of signed-off weeks: `migration-assets sign-off QUARTER --approved-by NAME` says"
    " what is missing until then",
    _S.RETIRED: "archive it first: `migration-assets archive QUARTER WEEK`",
}


def _following(now: SliceState, *, base_in_charge: bool) -> frozenset[SliceState]:
    return _ALLOWED[now] | {_S.ARCHIVED} if base_in_charge and now in _UNSIGNED else _ALLOWED[now]


def may_become(now: SliceState, then: SliceState, *, base_in_charge: bool = False) -> bool:
    """Whether a slice in state `now` may be put into state `then`.

    Args:
        now: Its state.
        then: The state that is asked for.
        base_in_charge: The base is in charge, and the slice's week is over.
    """
    return then in _following(now, base_in_charge=base_in_charge)


def require_transition(now: SliceState, then: SliceState, *, where: str, base_in_charge: bool = False) -> None:
    """Refuse a step that the slice's state does not allow; as `may_become`.

    Raises:
        SliceStateError: Names both states and those that could follow.
    """
    if not may_become(now, then, base_in_charge=base_in_charge):
        following = ", ".join(sorted(_following(now, base_in_charge=base_in_charge))) or "none"
        raise SliceStateError(
            f"the slice is {now} and cannot become {then}",
            where=where,
            state_left="nothing was changed",
            next_step=f"{_WAY[then]}; allowed from {now}: {following}; see `migration-assets status`",
        )
