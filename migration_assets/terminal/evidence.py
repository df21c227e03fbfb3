"""The commands `evidence write`, `evidence verify` and `ledger upgrade`."""

import sys
from pathlib import Path

import click

from migration_assets.evidence.writing import verify_evidence, write_packs
from migration_assets.ledger.schema import upgrade_ledger
from migration_assets.terminal.arguments import opened, parse_quarter
from migration_assets.terminal.output import console, say

_SHOWN = 20


@click.group()
def evidence() -> None:
    """Write the pages that prove the migration to an auditor, and verify the chain of records behind them."""


@evidence.command()
@click.argument("quarters", nargs=-1, metavar="[QUARTER]...")
@click.option(
    "--to", "folder", type=click.Path(file_okay=False, path_type=Path), help="Folder; default: evidence in VAR."
)
def write(quarters: tuple[str, ...], folder: Path | None) -> None:
    """Write an HTML file for each QUARTER; without one, for every quarter that was begun and the whole migration."""
    wanted = [parse_quarter(text) for text in quarters]
    migration = opened()
    with console.status("Reading the ledger"):
        packs = write_packs(migration, wanted, folder)
    for pack in packs:
        say(f"{pack.path}")
        colour = {"good": "green", "open": "yellow"}.get(pack.answer.level, "bold red")
        say(f"  {pack.quarter.key if pack.quarter else 'the whole migration'}: {pack.answer.word}", colour)


@evidence.command()
@click.option(
    "--pack", type=click.Path(dir_okay=False, path_type=Path), help="A file of `evidence write`: the chain must contain"
    " its records, and the file must be unchanged.",
)  # fmt: skip
def verify(pack: Path | None) -> None:
    """Recompute the whole chain and compare it with the ledger; exit code 1 if something was changed."""
    migration = opened()
    with console.status("Reading the chain"):
        done = verify_evidence(migration, pack)
    if not done.holds:
        say(f"The evidence of {done.relation} does NOT hold. First: {done.breaks[0]}", "bold red")
        for one in done.breaks[1:_SHOWN]:
            say(f"  {one}", "red")
        if len(done.breaks) > _SHOWN:
            say(f"  and {len(done.breaks) - _SHOWN} more", "red")
        say(
            "Nothing was changed now. Next: find out who wrote to the ledger in the base, and restore it from a backup."
        )
        sys.exit(1)
    if done.head is None:
        say(f"There is no evidence of {done.relation} yet: the chain begins with the first reconciliation.", "yellow")
        return
    say(
        f"The evidence of {done.relation} holds: {done.records} records are unchanged, and so is"
        " the ledger data that they describe.",
        "green",
    )
    say(f"Last record: {done.head.id}, SHA-256 {done.head.sha256}")
    if done.pack is not None:
        say(f"{pack} is unchanged, and the chain still contains its last record, {done.pack.id}.", "green")


@click.group()
def ledger() -> None:
    """Maintain the ledger, the schema `migration` in the base."""


@ledger.command()
def upgrade() -> None:
    """Upgrade the ledger to this program's version; older programs refuse it from then on."""
    before, now = upgrade_ledger(opened())
    say(
        f"The ledger has version {now} already." if before == now else f"The ledger has version {now}; it had {before}."
    )
