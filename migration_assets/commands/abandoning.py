"""`abandon`: an unfinished migration is undone on the legacy."""

from functools import partial

import click

from migration_assets.abandon.step import Abandoned, abandon_migration, clean_legacy
from migration_assets.commands.confirming import asks, confirm, typed
from migration_assets.commands.opening import opened
from migration_assets.terminal.output import say

_IDENTITIES = {"default": "d", "nothing": "n", "full": "f"}


@click.command()
@click.option("--yes", is_flag=True, help="Do it; without this it is only said what would be done.")
@click.option("--legacy-only", is_flag=True, help="The base is gone for good: clean the legacy alone.")
@click.option("--name", help="With --legacy-only: the publication and slot, where several could be meant.")
@click.option(
    "--identity", help="With --legacy-only: the replica identity from before: default, nothing, full, or an index."
)
@confirm
def abandon(yes: bool, legacy_only: bool, name: str | None, identity: str | None, code: str) -> None:
    """Undo an unfinished migration: the legacy is as it was found; the base keeps its rows and follows nothing.

    Without --yes it shows what would be done, and the code that --yes asks for.
    """
    if (name or identity) and not legacy_only:
        raise click.UsageError("--name and --identity are for --legacy-only: else the base's ledger knows them")
    migration = opened()
    if legacy_only:
        former = _IDENTITIES.get(identity.lower(), f"i:{identity}") if identity else None
        deed = partial(clean_legacy, migration, name=name, former_identity=former, on_step=say)
    else:
        deed = partial(abandon_migration, migration, on_step=say)
    if yes and not code and asks():
        looked = deed(apply=False)
        _tell(looked)
        code = typed(looked.confirmation, "abandon the migration") if looked.confirmation else ""
    _tell(deed(apply=yes, confirm=code))


def _tell(done: Abandoned) -> None:
    if not done.applied:
        say(f"Nothing was changed. To abandon the migration of {done.relation} would be to do this:")
        for number, what in enumerate(done.done, 1):
            say(f"{number:3}. {what}")
    for note in done.notes:
        say(f"Note: {note}", "yellow")
    if done.applied:
        say(f"The migration of {done.relation} is abandoned; its rows stay in the base, which follows nothing.")
    else:
        say("With --yes it is done.")
    if done.confirmation is not None:
        say(f"It asks for the code: --confirm {done.confirmation}.")
