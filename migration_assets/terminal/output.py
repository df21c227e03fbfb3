"""Where the commands print: one console for results, and errors as text on standard error."""

import sys
from collections.abc import Iterable
from typing import NoReturn

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from migration_assets.domain.plain_text import plain


class _Terminal(Console):
    """A terminal that does nothing at the bidding of a text: in it are names that others have chosen."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            # What is taken out has no width: the layout stays as it is.
            yield segment if segment.control else segment._replace(text=plain(segment.text))


console = _Terminal()


def complain(text: str) -> NoReturn:
    """Say what is wrong and end with exit code 2."""
    _Terminal(stderr=True).print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)


def say(text: str, style: str = "", *, fold: bool = True) -> None:
    """One line of result, exactly as it is: brackets in it are no markup, and it is folded only on a terminal.

    What is to be copied from there is not: `fold=False`.
    """
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=not (fold and console.is_terminal))
