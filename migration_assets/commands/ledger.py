"""`ledger upgrade`."""

import click

from migration_assets.commands.opening import opened
from migration_assets.ledger.upgrading import upgrade_ledger
from migration_assets.terminal.output import say


@click.group()
def ledger() -> None:
    """The ledger, schema `migration` in the base."""


@ledger.command()
def upgrade() -> None:
    """Bring the ledger to this program's version; an older program refuses it from then on."""
    before, now = upgrade_ledger(opened())
    say(f"the ledger has version {now} already" if before == now else f"the ledger has version {now}; it had {before}")
