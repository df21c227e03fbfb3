"""Where the commands print: one console for results, and errors as text on standard error."""

import sys
from typing import NoReturn

from rich.console import Console

console = Console()


def complain(text: str) -> NoReturn:
    """Say what is wrong and end with exit code 2."""
    Console(stderr=True).print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)


def say(text: str, style: str = "", *, fold: bool = True) -> None:
    """One line of result, exactly as it is: brackets in it are no markup, and it is folded only on a terminal.

    What is to be copied from there is not: `fold=False`.
    """
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=not (fold and console.is_terminal))
