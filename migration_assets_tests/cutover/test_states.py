"""Which state may follow which."""

from itertools import pairwise

import pytest

from migration_assets.domain.states import BEFORE_OPEN, CutoverError, CutoverState, require_cutover_transition

_S = CutoverState


def allowed(before: CutoverState, after: CutoverState, *, opened: bool = False) -> bool:
    try:
        require_cutover_transition(before, after, opened=opened, where="t")
    except CutoverError:
        return False
    return True


def test_states_follow_each_other_in_their_order_and_none_is_skipped() -> None:
    order = [*BEFORE_OPEN, _S.OPEN, _S.SWITCHED, _S.DONE]
    for before, after in pairwise(order):
        assert allowed(before, after)
    for number, before in enumerate(order):
        assert not any(allowed(before, after) for after in order[number + 2 :])
        assert not any(allowed(before, after) for after in order[:number])


@pytest.mark.parametrize("before", list(CutoverState))
def test_nothing_is_undone_once_the_target_accepted_writes(before: CutoverState) -> None:
    assert not allowed(before, _S.UNDOING, opened=True)
    assert allowed(before, _S.UNDOING) == (before in {*BEFORE_OPEN, _S.OPEN, _S.UNDOING})


def test_an_end_is_an_end() -> None:
    assert [after for after in CutoverState if allowed(_S.UNDONE, after)] == []
    assert [after for after in CutoverState if allowed(_S.DONE, after)] == [_S.DONE]
