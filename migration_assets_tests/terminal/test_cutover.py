"""A cutover as a terminal draws it: live, and when it is over."""

import io
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rich.console import Console

from migration_assets.cutover.plan import steps_of
from migration_assets.domain.states import BEFORE_OPEN, CutoverKind, CutoverState
from migration_assets.ledger.cutovers import CutoverRecord
from migration_assets.terminal.cutover import cutover_progress, print_cutover, print_cutovers

AT = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
# jsonb gives keys back by their length, and drops zeros at the end of a fraction.
TIMELINE = {
    "held": {"started": "2026-11-22T18:00:00.5+00:00", "finished": "2026-11-22T18:00:00.75+00:00"},
    "begun": {"started": "2026-11-22T18:00:00+00:00", "finished": "2026-11-22T18:00:00.25+00:00"},
    "drained": {"started": "2026-11-22T18:00:00.75+00:00"},
    "waiting": {"started": "2026-11-22T18:00:00.25+00:00", "finished": "2026-11-22T18:00:00.5+00:00"},
}
RECORD = CutoverRecord(
    1, "public.bookings", CutoverKind.CUTOVER, False, "[bold]Ada[/bold]", CutoverState.DRAINED, TIMELINE, False,
    AT, None, None, 312.5, 13, 364, None, "running", None, AT, None,
)  # fmt: skip


def drawn(*, terminal: bool = True) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=140)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_every_state_is_shown_while_it_lasts(*, terminal: bool) -> None:
    console = drawn(terminal=terminal)
    with cutover_progress(console) as on_state:
        for state in (*BEFORE_OPEN, CutoverState.UNDOING, CutoverState.UNDONE):
            on_state(CutoverKind.CUTOVER, state)
    assert "compares both sides" in text_of(console)
    assert "examining whether everything is ready" in text_of(console) or not terminal


def test_the_timeline_is_in_the_order_of_the_machine_and_an_unfinished_step_has_no_time() -> None:
    steps = steps_of(TIMELINE)
    assert [step.state for step in steps] == ["begun", "waiting", "held", "drained"]
    assert [step.seconds for step in steps] == [0.25, 0.25, 0.25, None]


def test_what_it_took_and_who_answers_for_it_is_told_as_it_is() -> None:
    console = drawn(terminal=False)
    print_cutover(console, RECORD)
    print_cutover(console, replace(RECORD, downtime_ms=None, compared_weeks=None, compared_rows=None))
    print_cutovers(console, [RECORD, replace(RECORD, id=2, rehearse=True, outcome="rehearsed")])
    shown = text_of(console)
    assert "Writes were held for 312 ms; 13 weeks compared, 364 rows." in shown
    assert "Writes were never held; 0 weeks compared, 0 rows." in shown
    assert "[bold]Ada[/bold]" in shown
    assert "rehearsal" in shown
