"""`readiness`: whether the applications may move to the base."""

import sys

import click

from migration_assets.commands.opening import opened
from migration_assets.domain.cutover_state import CutoverKind
from migration_assets.readiness.readiness import examine_cutover
from migration_assets.readiness.step import give_code_for
from migration_assets.terminal.output import console, say
from migration_assets.terminal.readiness import print_readiness


@click.command()
@click.option("--all", "everything", is_flag=True, help="Show what is well, too.")
def readiness(everything: bool) -> None:
    """Examine whether everything is ready for the cutover; exit code 1 where something blocks. Changes nothing."""
    migration = opened()
    with console.status("Looking at both sides"):
        examined = examine_cutover(migration)
    print_readiness(console, list(examined.findings), everything=everything)
    if not examined.ready:
        sys.exit(1)
    say("Nothing stands in the way of the cutover.", "green")
    say(f"For real it asks for a code: --confirm {give_code_for(migration, CutoverKind.CUTOVER)}.")
