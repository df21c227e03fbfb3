"""What every store of archives can do, whatever lies below: a folder, or a bucket. No knowledge of slices."""

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
# What is removed from an error's text is at least this long: a shorter text would blot out half of the message.
_SHORTEST_SECRET = 4


class Output(Protocol):
    """An open file that is being written; `close` makes it last (local) or appear (object store)."""

    def write(self, data: bytes, /) -> int:
        """Append."""
        ...

    def close(self) -> None:
        """End it, on the disk."""
        ...


class ArchiveStore(ABC):
    """A place for files, named by paths relative to its root, separated by "/".

    Every method raises ArchiveError, without credentials in it, when the store says no.

    Attributes:
        label: The place as a folder or URL, without user info and secret parameters: fit for logs and the ledger.
    """

    def __init__(self, label: str, secrets: tuple[str, ...] = ()) -> None:
        self.label = label
        self._secrets = secrets

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.label!r})"

    @abstractmethod
    def open_output(self, path: str) -> Output:
        """A new file; folders above it are made."""

    @abstractmethod
    def open_input(self, path: str) -> pa.NativeFile:
        """A file for reading at any position."""

    @abstractmethod
    def publish(self, path: str, data: bytes) -> None:
        """Write a small file at once, or not at all: readers see the old content or the new; it lasts."""

    @abstractmethod
    def sync(self, path: str) -> None:
        """Make a file and its entry in the folder last; object stores do that by themselves."""

    @abstractmethod
    def move(self, source: str, target: str) -> None:
        """Move a file, in one step where the store can; it lasts."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete a file; no error when it is not there."""

    @abstractmethod
    def delete_folder(self, folder: str) -> None:
        """Delete a folder and everything in it; no error when it is not there."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether there is a file or a folder."""

    @abstractmethod
    def list(self, folder: str) -> list[str]:
        """Names of the files and folders directly in a folder, sorted; none when it is not there."""

    @abstractmethod
    def size(self, path: str) -> int:
        """Of a file, bytes."""

    @abstractmethod
    def url_of(self, path: str) -> str:
        """Where a file or folder is, as a path or URL, without credentials."""

    @abstractmethod
    def duckdb_path(self, path: str) -> str:
        """What DuckDB opens over a connection of `connect_duckdb`; holds no pattern characters."""

    def read(self, path: str) -> bytes:
        """All of a small file."""
        with self.open_input(path) as file, self.failures(path, "read"):
            return file.read()

    def sha256(self, path: str) -> str:
        """Of a file's content, hexadecimal; every byte is read."""
        digest = hashlib.sha256()
        with self.open_input(path) as file, self.failures(path, "read"):
            while block := file.read(HASH_BLOCK):
                digest.update(block)
        return digest.hexdigest()

    def connect_duckdb(
        self, database: str = ":memory:", *, read_only: bool = False, memory_mb: int = 512, threads: int = 2
    ) -> duckdb.DuckDBPyConnection:
        """DuckDB that reads this store's files, in UTC, within bounds, and downloads nothing.

        Nothing is spilled to disk: rows would lie there in the clear. Bytes that were read are not kept, so that
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
        """Teach the connection to read this store, where it cannot by itself."""

    def scrubbed(self, error: BaseException) -> str:
        """The first line of an error's text without anything secret."""
        text = str(error).strip().partition("\n")[0] or type(error).__name__
        for secret in self._secrets:
            if len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, "***")
        return text

    @contextmanager
    def failures(self, path: str, doing: str) -> Generator[None]:
        """Turn what the system, Arrow or the store's server says into an ArchiveError."""
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
            # Never the original as the cause: its text may hold what was scrubbed.
            raise ArchiveError(
                f"it cannot be {doing}: {self.scrubbed(error)}",
                where=where,
                next_step="see that the place is there and that this program may read and write in it",
            ) from None
