"""Whether others of this machine may read what is nobody else's: files with passwords, folders with rows."""

import shlex
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.runtime import Migration

_CODE = "private_files"


def examine_files(migration: Migration) -> list[Finding]:
    """What this program writes is private; `.env`, files of secrets and folders that were there before may not be.

    A folder that others may only go through, to a name that they know, is no finding.

    Raises:
        SettingsError: `.env` cannot be read.
    """
    settings = migration.settings
    local = Path(settings.archive_url.get_secret_value()) if settings.archive_url else settings.var / "archive"
    open_to_others = [*_open(settings.files_with_secrets()), *_open([settings.var, local])]
    if not open_to_others:
        return [Finding(_CODE, Area.FILES, Severity.INFO, "no other user may read secrets, archives or var")]
    names = ", ".join(map(str, open_to_others))
    remedy = f"chmod o-rw {shlex.join(map(str, open_to_others))}"
    return [Finding(_CODE, Area.FILES, Severity.WARNING, f"every user of this machine may read {names}", remedy)]


def _open(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        try:
            mode = path.stat().st_mode
        except OSError:
            continue  # not there, not to be seen, or a bucket
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            yield path
