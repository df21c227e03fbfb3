"""Manifests that were read before, by their SHA-256: who knows which one is in force need not fetch it again."""

import hashlib
import logging
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from migration_assets.archive.manifest import Manifest
from migration_assets.domain.errors import ArchiveError

log = logging.getLogger(__name__)
_SUFFIX = ".json"


class ManifestShelf:
    """A local folder of copies; losing it costs reads and nothing else. One process at a time writes to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, sha256: str) -> Manifest | None:
        """The manifest whose bytes have this SHA-256; None where there is no such copy, or it was changed."""
        try:
            data = self._at(sha256).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data).hexdigest() != sha256:
            return None
        try:
            return Manifest.from_bytes(data)
        except ArchiveError:
            return None  # of another version of this program

    def put(self, manifest: Manifest) -> None:
        """Keep a copy; where that cannot be, it is read from the archive again next time."""
        target = self._at(manifest.sha256)
        aside = target.with_suffix(".part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(manifest.to_bytes())
            aside.replace(target)
        except OSError as error:
            log.warning("a manifest cannot be kept in %s: %s", self._folder, error.strerror)

    def keep_only(self, sha256s: Collection[str]) -> None:
        """Drop the copies of all others."""
        kept = {f"{sha256}{_SUFFIX}" for sha256 in sha256s}
        with suppress(OSError):
            for path in self._folder.iterdir():
                if path.name not in kept:
                    path.unlink(missing_ok=True)

    def _at(self, sha256: str) -> Path:
        return self._folder / f"{sha256}{_SUFFIX}"
