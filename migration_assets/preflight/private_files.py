"""Whether others of this machine may read what is nobody else's: files with passwords, folders with rows."""

import shlex
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from migration_assets.archive.archiving import archive_store
from migration_assets.archive.store_local import LocalStore
from migration_assets.domain.errors import ArchiveError
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
    open_to_others = [*_open(settings.files_with_secrets()), *_open([settings.var, *_archive(migration)])]
    if not open_to_others:
        return [Finding(_CODE, Area.FILES, Severity.INFO, "no other user may read secrets, archives or var")]
    names = ", ".join(map(str, open_to_others))
    remedy = f"chmod o-rw {shlex.join(map(str, open_to_others))}"
    return [Finding(_CODE, Area.FILES, Severity.WARNING, f"every user of this machine may read {names}", remedy)]


def _archive(migration: Migration) -> Iterator[Path]:
    """The folder of the archive, where it is one."""
    try:
        store = archive_store(migration)
    except ArchiveError:
        return  # whoever archives, or asks, is told what is wrong with the URL
    if isinstance(store, LocalStore):
        yield store.root


def _open(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        try:
            mode = path.stat().st_mode
        except OSError:
            continue  # not there, or not to be seen
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            yield path
