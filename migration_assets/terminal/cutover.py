"""The commands `cutover`, `rollback`, `release-writes`, `hold-again` and `cutovers`, and how a cutover is shown."""

import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import click
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from migration_assets.cutover.observing import ReverseHealth
from migration_assets.cutover.plan import steps_of
from migration_assets.domain.states import CutoverError, CutoverKind, CutoverState
from migration_assets.ledger.cutovers import CutoverRecord
from migration_assets.readiness import step as steps
from migration_assets.readiness.readiness import examine_cutover
from migration_assets.readiness.step import OnState
from migration_assets.runtime import Migration
from migration_assets.terminal.arguments import asks, confirm, opened, typed
from migration_assets.terminal.figures import count, duration, gigabytes, milliseconds
from migration_assets.terminal.output import console, say

_LOOKS_A_SECOND = 5
_SHOWN = "`migration-assets cutovers` lists what was done"
_MEANS = {
    CutoverState.BEGUN: "examines both sides, prepares the way back",
    CutoverState.WAITING: "waits for a small lag",
    CutoverState.HELD: "holds the writes",
    CutoverState.DRAINED: "waits until every change has arrived",
    CutoverState.COMPARED: "compares both sides",
    CutoverState.SEQUENCES: "sets the sequences",
    CutoverState.REVERSED: "reverses the stream",
    CutoverState.OPEN: "opens the other side",
    CutoverState.SWITCHED: "switches the applications",
    CutoverState.DONE: "removes the old stream",
    CutoverState.UNDOING: "releases the writes where they were, undoes the rest",
    CutoverState.UNDONE: "has restored the state from before",
}
_STYLES = {"succeeded": "green", "rehearsed": "cyan", "aborted": "red", "running": "bold yellow"}


class _Progress:
    """The states so far; one thread adds them and another draws them."""

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
            table.add_row(Text("examining whether everything is ready", "bold"))
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
    """Show every state with its duration as it happens; without a terminal print a line for each."""
    progress = _Progress(console)
    if not console.is_terminal:
        yield progress.on_state
        return
    with Live(progress, console=console, refresh_per_second=_LOOKS_A_SECOND, transient=True):
        yield progress.on_state


def print_cutover(console: Console, record: CutoverRecord) -> None:
    """Print the timeline, what was compared, and how long writes were held."""
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
    """Print all of them as a table, oldest first, and the errors below it."""
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
    """Print the state of the reverse stream, on which a rollback depends."""
    kept = "no slot" if health.retained_wal_bytes is None else gigabytes(health.retained_wal_bytes)
    arrives = "a marker came through" if health.arrives else "no marker came through"
    console.print(
        f"Reverse stream (base to legacy): {arrives}; WAL that it retains on the base: {kept}.", highlight=False
    )
    for problem in problems:
        console.print(Text(f"In the way: {problem}.", "red"))


def downtime(record: CutoverRecord) -> str:
    """How long no side accepted writes, as text; `-` if writes were never held."""
    return "-" if record.downtime_ms is None else milliseconds(record.downtime_ms)


@click.command()
@click.option("--approved-by", required=True, help="The person who approves it.")
@click.option("--for-real", is_flag=True, help="Open the base; without this the cutover is rehearsed and undone.")
@confirm
def cutover(approved_by: str, for_real: bool, code: str) -> None:
    """Move the applications' writes to the base, or rehearse it. Both hold writes for a moment.

    --for-real asks for the code that `readiness` and a rehearsal print. Ctrl-C undoes it until the base is open. Exit
    code 1 if it was refused, stopped or undone.
    """
    migration = opened()
    if for_real and not code and asks():
        code = _ask_for_cutover(migration)
    try:
        with cutover_progress(console) as on_state:
            done = steps.cut_over(migration, approved_by, rehearse=not for_real, confirm=code, on_state=on_state)
    except CutoverError as error:
        _stopped(error)
    print_cutover(console, done)
    if done.rehearse:
        say("Rehearsed: the legacy goes on as before. The cutover with --for-real takes as long.", "green")
        say(f"Needed for that: --confirm {done.confirmation}.")
        return
    say(
        "The base is in charge; the legacy follows it. `migration-assets rollback` goes back without loss.",
        "green",
    )


@click.command()
@click.option("--approved-by", help="The person who approves it.")
@click.option("--yes", is_flag=True, help="Do it; without this only show what would be done.")
@confirm
def rollback(approved_by: str | None, yes: bool, code: str) -> None:
    """Move the writes back to the legacy, with everything written to the base; then the base follows again.

    Without --yes it shows what would be done, and the code that --yes asks for. Ctrl-C undoes it until the legacy is
    open. Exit code 1 if it was stopped or undone, or is not possible now.
    """
    if yes and not approved_by:
        raise click.UsageError("--yes needs the person who approves it: --approved-by")
    migration = opened()
    if not yes or not approved_by:
        _preview(migration)
        return
    if not code and asks() and steps.rollback_begins(migration):
        code = _ask_for_rollback(migration)
    try:
        with cutover_progress(console) as on_state:
            done = steps.roll_back(migration, approved_by, confirm=code, on_state=on_state)
    except CutoverError as error:
        _stopped(error)
    print_cutover(console, done)
    _say_broken_keys(steps.broken_keys(migration, done.id), "after the rollback")
    say("The legacy is in charge, with everything written to the base; the base follows it again.", "green")
    if done.error:
        say(f"The applications were NOT told: {done.error}", "bold red")
        say("Next: switch them to the legacy now (run the hook by hand); do not roll back again.", "red")
        sys.exit(1)


@click.command("release-writes")
def release_writes() -> None:
    """After a cutover or rollback died: finish it if the other side is open, else undo it. Safe to repeat."""
    migration = opened()
    try:
        with console.status("Examining which side accepts writes"):
            done = steps.release_writes(migration)
    except CutoverError as error:
        _stopped(error)
    say(f"{done}.", "green")


@click.command("hold-again")
def hold_again() -> None:
    """While the base is in charge: hold the legacy's writes again after somebody ended the hold. Safe to repeat."""
    migration = opened()
    try:
        with console.status("Waiting for a moment without an open writer"):
            done = steps.hold_again(migration)
    except CutoverError as error:
        _stopped(error)
    say(f"{done}.", "green")


@click.command()
def cutovers() -> None:
    """List every cutover, rehearsal and rollback so far, and the side in charge."""
    migration = opened()
    found = steps.cutovers(migration)
    if found:
        print_cutovers(console, found)
    else:
        say("Nothing was rehearsed or cut over so far.")
    _say_charge(migration)


def _say_charge(migration: Migration) -> None:
    say(f"The {steps.side_in_charge(migration)} is in charge of {migration.spec.relation}.")
    held = steps.writes_held(migration)
    if held is not None:
        say(f"{held.what}. Next: {held.next_step}.", "yellow" if held.alive else "bold red")


def _ask_for_cutover(migration: Migration) -> str:
    with console.status("Looking at both sides"):
        examined = examine_cutover(migration)
    if not examined.ready:
        return ""  # the step itself reports what blocks it
    return typed(steps.give_code_for(migration, CutoverKind.CUTOVER), "move the writes to the base")


def _ask_for_rollback(migration: Migration) -> str:
    preview = _show_rollback(migration)
    return "" if preview is None else typed(preview.confirmation, "move the writes back to the legacy")


def _show_rollback(migration: Migration) -> steps.RollbackPreview | None:
    with console.status("Examining the reverse stream"):
        preview = steps.preview_rollback(migration)
    if preview is not None:
        print_reverse(console, preview.health, preview.problems)
        _say_broken_keys(preview.broken, "already now, and after a rollback")
    return preview


def _preview(migration: Migration) -> None:
    _say_charge(migration)
    preview = _show_rollback(migration)
    if preview is None:
        say("Nothing to roll back. Nothing was changed.")
        return
    say(
        "A rollback holds the base's writes, waits until all of them have arrived on the legacy, compares both sides,"
        " opens the legacy, switches the applications, and lets the base follow again. Nothing was changed."
    )
    say(f"To do it: --approved-by NAME --yes --confirm {preview.confirmation}.")
    if preview.problems:
        sys.exit(1)


def _say_broken_keys(found: list[str], when: str) -> None:
    """A rollback goes on in spite of them, since it is the way out. They need a repair by hand, on either side."""
    for line in found:
        say(
            f"Rows of the legacy that reference missing rows {when}, which its foreign key does not detect: {line}",
            "yellow",
        )


def _stopped(error: CutoverError) -> NoReturn:
    say(str(error), "red")
    say(f"{_SHOWN}.")
    sys.exit(1)
