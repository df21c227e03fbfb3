"""Where the commands print: a console for results, and errors as text on standard error."""

import sys
from collections.abc import Iterable
from typing import NoReturn

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from migration_assets.domain.plain_text import plain


class _Terminal(Console):
    """A console that removes control characters from texts, since they hold names that others have chosen."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            # The removed characters have no width, so the layout does not change.
            yield segment if segment.control else segment._replace(text=plain(segment.text))


console = _Terminal()


def complain(text: str) -> NoReturn:
    """Print an error on standard error and exit with code 2."""
    _Terminal(stderr=True).print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)


def say(text: str, style: str = "", *, fold: bool = True) -> None:
    """Print one line of result as it is; brackets are not markup. Long lines are folded only on a terminal.

    Args:
        text: The line.
        style: Colour and weight, as rich names them.
        fold: False for a line from which people copy a command or a code.
    """
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=not (fold and console.is_terminal))
