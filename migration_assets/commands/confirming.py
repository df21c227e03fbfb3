"""`--confirm CODE`, of every step that cannot be undone or that holds writes; on a terminal the code is asked for."""

import sys
from collections.abc import Sequence
from dataclasses import replace

import click

from migration_assets.domain.confirmation import CodeOfSeen, GivenCode
from migration_assets.terminal.output import say

confirm = click.option(
    "--confirm", "code", default="", metavar="CODE", help="The code that looking at it printed; good once, 15 minutes."
)


def asks() -> bool:
    """Whether somebody sits there who can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def in_one_line(given: Sequence[GivenCode]) -> str:
    """Several codes to copy, without a blank in between; good as long as the first of them is."""
    first = min(given, key=lambda one: one.until)
    return str(replace(first, code=",".join(one.code for one in given)))


def typed(given: GivenCode | CodeOfSeen | str, what: str) -> str:
    """The code as a person types it back, who has read what it is for."""
    say(f"To {what}, type {given}.", "yellow", fold=False)
    return str(click.prompt("Code", default="", show_default=False))
