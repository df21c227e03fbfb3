"""Cutovers in the terminal: the state that is under way, the timeline when it is over, and the list of all."""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from migration_assets.cutover.reverse_health import ReverseHealth
from migration_assets.domain.cutover_state import CutoverKind, CutoverState
from migration_assets.domain.cutover_timeline import steps_of
from migration_assets.ledger.cutovers import CutoverRecord
from migration_assets.readiness.step import OnState
from migration_assets.terminal.figures import count, duration, gigabytes, milliseconds

_LOOKS_A_SECOND = 5
_MEANS = {
    CutoverState.BEGUN: "looks at both sides, prepares the way back",
    CutoverState.WAITING: "waits for a small lag",
    CutoverState.HELD: "holds the writes",
    CutoverState.DRAINED: "lets everything arrive",
    CutoverState.COMPARED: "compares both sides",
    CutoverState.SEQUENCES: "sets the sequences",
    CutoverState.REVERSED: "turns the stream round",
    CutoverState.OPEN: "opens the other side",
    CutoverState.SWITCHED: "tells the applications",
    CutoverState.DONE: "puts the old stream away",
    CutoverState.UNDOING: "lets the writes go on where they were, undoes the rest",
    CutoverState.UNDONE: "is as before",
}
_STYLES = {"succeeded": "green", "rehearsed": "cyan", "aborted": "red", "running": "bold yellow"}


class _Progress:
    """Is told states by one thread and drawn by another."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._reached: list[tuple[CutoverKind, CutoverState, float]] = []

    def on_state(self, kind: CutoverKind, state: CutoverState) -> None:
        self._reached.append((kind, state, time.monotonic()))
        if not self._console.is_terminal:
            self._console.print(f"{kind}: {state}: {_MEANS[state]}", highlight=False)

    def __rich__(self) -> Table:
        table = Table.grid(padding=(0, 2))
        reached = list(self._reached)
        if not reached:
            table.add_row(Text("looking whether everything is ready", "bold"))
            return table
        ends = [*(at for _, _, at in reached[1:]), time.monotonic()]
        for number, ((kind, state, at), end) in enumerate(zip(reached, ends, strict=True), 1):
            now = number == len(reached)
            style = "bold" if now else "dim"
            table.add_row(
                Text(str(kind), style), Text(str(state), style), Text(_MEANS[state], style),
                Text(duration(end - at), style),
            )  # fmt: skip
        return table


@contextmanager
def cutover_progress(console: Console) -> Generator[OnState]:
    """Show every state with its seconds while it lasts; line by line where nobody looks."""
    progress = _Progress(console)
    if not console.is_terminal:
        yield progress.on_state
        return
    with Live(progress, console=console, refresh_per_second=_LOOKS_A_SECOND, transient=True):
        yield progress.on_state


def print_cutover(console: Console, record: CutoverRecord) -> None:
    """Its timeline, what was compared, and how long writes were held."""
    table = Table()
    for column in ("state", "what it did", "began", "took"):
        table.add_column(column, justify="right" if column == "took" else "left")
    for step in steps_of(record.timeline):
        took = "" if step.seconds is None else duration(step.seconds)
        table.add_row(str(step.state), _MEANS[step.state], f"{step.started:%H:%M:%S.%f}"[:-3], took)
    console.print(table)
    compared = count(record.compared_weeks or 0, "week") + " compared, " + count(record.compared_rows or 0, "row")
    held = "Writes were never held" if record.downtime_ms is None else f"Writes were held for {downtime(record)}"
    console.print(f"{held}; {compared}.", highlight=False)


def print_cutovers(console: Console, records: Sequence[CutoverRecord]) -> None:
    """All of them, oldest first; what went wrong below, where it has room."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("id", "what", "approved by", "began", "outcome", "state", "writes held"):
        table.add_column(column, overflow="fold", no_wrap=column != "approved by")
    for one in records:
        table.add_row(
            str(one.id), "rehearsal" if one.rehearse else str(one.kind), Text(one.approved_by),
            f"{one.started_at:%Y-%m-%d %H:%M:%S}", Text(one.outcome, _STYLES.get(one.outcome, "")), str(one.state),
            downtime(one),
        )  # fmt: skip
    console.print(table)
    for one in records:
        if one.error:
            console.print(Text(f"{one.id}: {one.error}"), soft_wrap=not console.is_terminal)


def print_reverse(console: Console, health: ReverseHealth, problems: Sequence[str]) -> None:
    """What a rollback would rest on."""
    kept = "no slot" if health.retained_wal_bytes is None else gigabytes(health.retained_wal_bytes)
    arrives = "a marker came through" if health.arrives else "no marker came through"
    console.print(
        f"Reverse stream (base to legacy): {arrives}; WAL that it keeps on the base: {kept}.", highlight=False
    )
    for problem in problems:
        console.print(Text(f"In the way: {problem}.", "red"))


def downtime(record: CutoverRecord) -> str:
    """How long no side accepted writes."""
    return "-" if record.downtime_ms is None else milliseconds(record.downtime_ms)
