"""The interface of every archive store, and what all stores share: DuckDB connections and errors without secrets."""

import errno
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Protocol

import duckdb
import pyarrow as pa

from migration_assets.domain.errors import ArchiveError

HASH_BLOCK = 4 * 1024 * 1024
_FULL = {errno.ENOSPC, errno.EDQUOT}
# Shorter secrets are not removed from an error's text: that would blot out half of the message.
_SHORTEST_SECRET = 4


class Output(Protocol):
    """An open file that is being written; `close` makes it durable (local) or visible (object store)."""

    def write(self, data: bytes, /) -> int:
        """Append the bytes."""
        ...

    def close(self) -> None:
        """Finish the file and make it durable."""
        ...


class ArchiveStore(ABC):
    """A place for files, named by paths relative to its root, separated by "/".

    Every method raises ArchiveError, without credentials in it, when the store refuses.

    Attributes:
        label: The place as a folder or URL without credentials, fit for logs and the ledger.
    """

    def __init__(self, label: str, secrets: tuple[str, ...] = ()) -> None:
        self.label = label
        self._secrets = secrets

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.label!r})"

    @abstractmethod
    def open_output(self, path: str) -> Output:
        """Open a new file for writing; missing folders above it are made."""

    @abstractmethod
    def open_input(self, path: str) -> pa.NativeFile:
        """Open a file for reading at any position."""

    @abstractmethod
    def publish(self, path: str, data: bytes) -> None:
        """Write a small file atomically and durably: readers see the old content or the new."""

    @abstractmethod
    def sync(self, path: str) -> None:
        """Make a file and its name durable; object stores do that by themselves."""

    @abstractmethod
    def move(self, source: str, target: str) -> None:
        """Move a file durably, in one step where the store can."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete a file; no error when it is not there."""

    @abstractmethod
    def delete_folder(self, folder: str) -> None:
        """Delete a folder and everything in it; no error when it is not there."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Return whether there is a file or a folder."""

    @abstractmethod
    def list(self, folder: str) -> list[str]:
        """Return the sorted names of files and folders directly in a folder; none when it is not there."""

    @abstractmethod
    def size(self, path: str) -> int:
        """Return the size of a file in bytes."""

    @abstractmethod
    def url_of(self, path: str) -> str:
        """Return the path or URL of a file or folder, without credentials."""

    @abstractmethod
    def duckdb_path(self, path: str) -> str:
        """Return what DuckDB opens over a connection of `connect_duckdb`; holds no pattern characters."""

    def read(self, path: str) -> bytes:
        """Return the content of a small file."""
        with self.open_input(path) as file, self.failures(path, "read"):
            return file.read()

    def sha256(self, path: str) -> str:
        """Return the SHA-256 of a file in hexadecimal; every byte is read."""
        digest = hashlib.sha256()
        with self.open_input(path) as file, self.failures(path, "read"):
            while block := file.read(HASH_BLOCK):
                digest.update(block)
        return digest.hexdigest()

    def connect_duckdb(
        self, database: str = ":memory:", *, read_only: bool = False, memory_mb: int = 512, threads: int = 2
    ) -> duckdb.DuckDBPyConnection:
        """Open a DuckDB that reads this store's files, in UTC, within limits, and downloads nothing.

        Nothing is spilled to disk, where rows would lie in clear text. Bytes that were read are not cached, so that
        every query sees the files as they are.
        """
        settings: dict[str, Any] = {
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "memory_limit": f"{memory_mb}MB",
            "threads": threads,
            "temp_directory": "",
            "enable_external_file_cache": False,
        }
        connection = duckdb.connect(database, read_only=read_only, config=settings)
        connection.execute("SET TimeZone = 'UTC'")
        self._register(connection)
        return connection

    @abstractmethod
    def _register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Teach the connection to read this store, where DuckDB cannot by itself."""

    def scrubbed(self, error: BaseException) -> str:
        """Return the first line of an error's text without secrets."""
        text = str(error).strip().partition("\n")[0] or type(error).__name__
        for secret in self._secrets:
            if len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, "***")
        return text

    @contextmanager
    def failures(self, path: str, doing: str) -> Generator[None]:
        """Turn errors of the system, of Arrow or of the store's server into an ArchiveError."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            where = self.url_of(path)
            if isinstance(error, OSError) and error.errno in _FULL:
                raise ArchiveError(
                    "no space is left where archives go",
                    where=where,
                    next_step="free space there, or let MIGRATION_ARCHIVE_URL name another place, then archive again",
                ) from None
            # The original error is not chained: its text may hold the secrets that were removed.
            raise ArchiveError(
                f"it cannot be {doing}: {self.scrubbed(error)}",
                where=where,
                next_step="see that the place is there and that this program may read and write in it",
            ) from None
