"""Every pair of states: which may follow which."""

from itertools import product

import pytest

from migration_assets.domain.errors import SliceStateError
from migration_assets.domain.states import SliceState, may_become, require_slice_transition

_TABLE = """
             absent copied streaming validated signed_off archived retired
absent       .      yes    yes       .         .          .        .
copied       .      yes    yes       .         .          .        .
streaming    .      .      yes       yes       .          .        .
validated    .      .      yes       yes       yes        .        .
signed_off   .      .      yes       .         .          yes      .
archived     .      .      yes       .         .          yes      yes
retired      .      .      .         .         .          yes      .
"""
_HEAD, *_ROWS = (line.split() for line in _TABLE.strip().splitlines())
_ALLOWED = {(row[0], then) for row in _ROWS for then, cell in zip(_HEAD, row[1:], strict=True) if cell == "yes"}


@pytest.mark.parametrize(("now", "then"), list(product(SliceState, repeat=2)))
def test_a_transition_is_allowed_exactly_where_the_table_says(now: SliceState, then: SliceState) -> None:
    allowed = (now.value, then.value) in _ALLOWED
    assert may_become(now, then) is allowed
    if allowed:
        require_slice_transition(now, then, where="FY25-Q2|W05")
        return
    with pytest.raises(SliceStateError) as caught:
        require_slice_transition(now, then, where="FY25-Q2|W05")
    assert caught.value.what == f"the slice is {now.value} and cannot become {then.value}"
    assert caught.value.where == "FY25-Q2|W05"
    following = sorted(after for before, after in _ALLOWED if before == now.value)
    assert f"allowed from {now.value}: {', '.join(following)};" in caught.value.next_step


@pytest.mark.parametrize(("now", "then"), list(product(SliceState, repeat=2)))
def test_while_the_base_is_in_charge_a_week_that_is_over_is_archived_unsigned_and_nothing_else_is_allowed(
    now: SliceState, then: SliceState
) -> None:
    unsigned = {SliceState.ABSENT, SliceState.COPIED, SliceState.STREAMING, SliceState.VALIDATED}
    more = now in unsigned and then is SliceState.ARCHIVED
    assert may_become(now, then, base_in_charge=True) is (may_become(now, then) or more)
    if more:
        require_slice_transition(now, then, where="FY25-Q2|W05", base_in_charge=True)


def test_the_table_names_every_state() -> None:
    assert _HEAD == [row[0] for row in _ROWS] == [state.value for state in SliceState]


def test_no_way_leads_back_to_absent_and_every_state_can_be_reached() -> None:
    assert not any(then == "absent" for _, then in _ALLOWED)
    reached = {"absent"}
    for _ in SliceState:
        reached |= {then for now, then in _ALLOWED if now in reached}
    assert reached == {state.value for state in SliceState}
