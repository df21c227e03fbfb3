"""`cutover`, `rollback`, `release-writes` and `cutovers`: where the applications' writes go."""

import sys
from typing import NoReturn

import click

from migration_assets.commands.confirming import asks, confirm, typed
from migration_assets.commands.opening import opened
from migration_assets.domain.cutover_state import CutoverError, CutoverKind
from migration_assets.readiness import step as steps
from migration_assets.readiness.readiness import examine_cutover
from migration_assets.runtime import Migration
from migration_assets.terminal.cutover import cutover_progress, print_cutover, print_cutovers, print_reverse
from migration_assets.terminal.output import console, say

_SHOWN = "`migration-assets cutovers` lists what was done"


@click.command()
@click.option("--approved-by", required=True, help="The person who answers for it.")
@click.option("--for-real", is_flag=True, help="Open the base; without this it is rehearsed and undone.")
@confirm
def cutover(approved_by: str, for_real: bool, code: str) -> None:
    """Move the applications' writes to the base, or rehearse it. Holds writes for a moment in both cases.

    For real it asks for the code that `readiness` and a rehearsal print. Ctrl-C undoes it, until the base is open. Exit
    code 1 where it was refused, stopped or undone.
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
        say("Rehearsed: the legacy goes on as before. With --for-real it is done, and takes as long.", "green")
        say(f"It asks for the code: --confirm {done.confirmation}.")
        return
    say(
        "The base is in charge; the legacy follows it. `migration-assets rollback` goes back, with nothing lost.",
        "green",
    )


@click.command()
@click.option("--approved-by", help="The person who answers for it.")
@click.option("--yes", is_flag=True, help="Do it; without this it is only said what would be done.")
@confirm
def rollback(approved_by: str | None, yes: bool, code: str) -> None:
    """Move the writes back to the legacy, with all that was written to the base; then the base follows again.

    It asks for the code that looking at it prints. Ctrl-C undoes it, until the legacy is open. Exit code 1 where it was
    stopped or undone, or could not be done now.
    """
    if yes and not approved_by:
        raise click.UsageError("say who answers for it: --approved-by")
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
    say("The legacy is in charge, with all that was written to the base; the base follows it again.", "green")
    if done.error:
        say(f"The applications were NOT told: {done.error}", "bold red")
        say("Next: switch them to the legacy now (run the hook by hand); do not roll back again.", "red")
        sys.exit(1)


@click.command("release-writes")
def release_writes() -> None:
    """After a cutover or rollback died: finish it where the other side is open, else undo it. Safe to repeat."""
    migration = opened()
    try:
        with console.status("Looking who may write"):
            done = steps.release_writes(migration)
    except CutoverError as error:
        _stopped(error)
    say(f"{done}.", "green")


@click.command("hold-again")
def hold_again() -> None:
    """While the base is in charge: let nobody write to the legacy any more, whoever ended its hold. Safe to repeat."""
    migration = opened()
    try:
        with console.status("Looking for a moment without an open writer"):
            done = steps.hold_again(migration)
    except CutoverError as error:
        _stopped(error)
    say(f"{done}.", "green")


@click.command()
def cutovers() -> None:
    """List every cutover, rehearsal and rollback so far, and say who is in charge."""
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
        return ""  # the step says what blocks it
    return typed(steps.give_code_for(migration, CutoverKind.CUTOVER), "move the writes to the base")


def _ask_for_rollback(migration: Migration) -> str:
    looked = _look_at_rollback(migration)
    return "" if looked is None else typed(looked.confirmation, "move the writes back to the legacy")


def _look_at_rollback(migration: Migration) -> steps.RollbackPreview | None:
    with console.status("Looking at the reverse stream"):
        looked = steps.preview_rollback(migration)
    if looked is not None:
        print_reverse(console, looked.health, looked.problems)
        _say_broken_keys(looked.broken, "already now, and after a rollback")
    return looked


def _preview(migration: Migration) -> None:
    _say_charge(migration)
    looked = _look_at_rollback(migration)
    if looked is None:
        say("Nothing to roll back. Nothing was changed.")
        return
    say(
        "A rollback holds the base's writes, lets all of them arrive on the legacy, compares both sides, opens the"
        " legacy, tells the applications, and lets the base follow again. Nothing was changed."
    )
    say(f"With --approved-by NAME --yes it is done; it asks for the code: --confirm {looked.confirmation}.")
    if looked.problems:
        sys.exit(1)


def _say_broken_keys(found: list[str], when: str) -> None:
    """No rollback stops at them: it is the way out. They want to be mended by hand, on either side."""
    for line in found:
        say(f"Rows of the legacy that point nowhere {when}, which its foreign key does not notice: {line}", "yellow")


def _stopped(error: CutoverError) -> NoReturn:
    say(str(error), "red")
    say(f"{_SHOWN}.")
    sys.exit(1)
