"""Archives in a local folder: every write is on the disk when the call returns, names included."""

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

import duckdb
import pyarrow as pa

from migration_assets.archive.store_base import ArchiveStore, Output


class LocalStore(ArchiveStore):
    """A folder; it is made when the first file is written."""

    def __init__(self, root: Path) -> None:
        super().__init__(label=str(root))
        self.root = root

    def open_output(self, path: str) -> Output:
        """A new file; folders above it are made."""
        with self.failures(path, "written"):
            self._make_folder(self._at(path).parent)
            return _LocalOutput(self, path, self._at(path))

    def open_input(self, path: str) -> pa.NativeFile:
        """A file for reading at any position."""
        with self.failures(path, "read"):
            return pa.OSFile(str(self._at(path)), "rb")

    def publish(self, path: str, data: bytes) -> None:
        """Written aside, then renamed."""
        target = self._at(path)
        aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        with self.failures(path, "written"):
            self._make_folder(target.parent)
            try:
                with aside.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                aside.replace(target)
            finally:
                with suppress(OSError):  # it is gone already where all went well
                    aside.unlink(missing_ok=True)
            sync_folder(target.parent)

    def sync(self, path: str) -> None:
        """The file's bytes and its name."""
        with self.failures(path, "written"):
            _sync(self._at(path))
            sync_folder(self._at(path).parent)

    def move(self, source: str, target: str) -> None:
        """A rename."""
        old, new = self._at(source), self._at(target)
        with self.failures(target, "written"):
            self._make_folder(new.parent)
            old.replace(new)
            sync_folder(new.parent)
            sync_folder(old.parent)

    def delete(self, path: str) -> None:
        """Also makes the deletion last."""
        with self.failures(path, "deleted"):
            file = self._at(path)
            if file.exists():
                file.unlink(missing_ok=True)
                sync_folder(file.parent)

    def delete_folder(self, folder: str) -> None:
        """With everything in it."""
        with self.failures(folder, "deleted"), suppress(FileNotFoundError):
            shutil.rmtree(self._at(folder))

    def exists(self, path: str) -> bool:
        """Whether there is a file or a folder."""
        with self.failures(path, "read"):
            return self._at(path).exists()

    def list(self, folder: str) -> list[str]:
        """Names, sorted."""
        with self.failures(folder, "read"), suppress(FileNotFoundError):
            return sorted(entry.name for entry in self._at(folder).iterdir())
        return []

    def size(self, path: str) -> int:
        """In bytes."""
        with self.failures(path, "read"):
            return self._at(path).stat().st_size

    def url_of(self, path: str) -> str:
        """The plain path: what people type."""
        return str(self._at(path))

    def duckdb_path(self, path: str) -> str:
        """The plain path."""
        return str(self._at(path))

    def _register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Folders are what DuckDB reads by itself."""

    def _at(self, path: str) -> Path:
        return self.root / path

    def _make_folder(self, folder: Path) -> None:
        """With those above it; the new names last."""
        if folder.is_dir():
            return
        if folder != folder.parent:
            self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


class _LocalOutput:
    """A file whose bytes are on the disk once it is closed. An error while writing is an ArchiveError."""

    def __init__(self, store: LocalStore, path: str, place: Path) -> None:
        self._store = store
        self._path = path
        self._file = place.open("xb")

    def write(self, data: bytes, /) -> int:
        with self._store.failures(self._path, "written"):
            return self._file.write(data)

    def close(self) -> None:
        if self._file.closed:
            return
        with self._store.failures(self._path, "written"):
            try:
                self._file.flush()
                # On the descriptor that wrote: one opened later may not be told of a failed write.
                os.fsync(self._file.fileno())
            finally:
                with suppress(OSError):  # flushing a full disk's rest fails again; the first error counts
                    self._file.close()
            sync_folder(Path(self._file.name).parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last; Windows cannot open folders and needs no such call."""
    if os.name != "nt":
        _sync(folder)
