"""The switch of the demo's applications: a file that names the side they write to, as a feature flag or DNS would.

The cutover's hook command sets it; the traffic reads it before every transaction.

    python -m migration_assets.embedded.switch PATH legacy|base
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

SIDES = ("legacy", "base")


@dataclass(frozen=True)
class Switch:
    """Which side the applications write to now.

    Attributes:
        urls: By side, libpq URLs; never shown.
        path: The file; None for applications that know one side only.
    """

    urls: Mapping[str, str] = field(repr=False)
    path: Path | None = None

    @classmethod
    def fixed(cls, url: str) -> Switch:
        """A switch that always names the legacy."""
        return cls({"legacy": url})

    def side(self) -> str:
        """The side that the applications write to.

        Raises:
            OSError: The file cannot be read.
            ValueError: It names no side.
        """
        if self.path is None:
            return "legacy"
        side = self.path.read_text(encoding="utf-8").strip()
        if side not in self.urls:
            raise ValueError(f"{self.path} names no side: {side[:20]!r}")
        return side


def point(path: Path, side: str) -> None:
    """Let the applications write to that side from their next transaction on; the file is replaced whole."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(f"{side}\n", encoding="utf-8")
    aside.replace(path)


@click.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("side", type=click.Choice(SIDES))
def main(path: Path, side: str) -> None:
    """Point the switch at PATH to a side; what the demo's MIGRATION_CUTOVER_HOOK_COMMAND calls."""
    point(path, side)


if __name__ == "__main__":
    main()
