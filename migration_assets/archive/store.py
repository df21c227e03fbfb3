"""Where archives lie, by URL: a local folder, or a bucket (S3 and its like, Google Cloud Storage, Azure).

In a folder every write is on the disk when the call returns, the file's name included. Credentials come from the
environment and stay out of every text.
"""

import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

import duckdb
import pyarrow as pa
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow import fs

from migration_assets.archive.store_base import ArchiveStore, Output
from migration_assets.domain.errors import ArchiveError


class LocalStore(ArchiveStore):
    """A local folder, which is made when the first file is written."""

    def __init__(self, root: Path) -> None:
        super().__init__(label=str(root))
        self.root = root

    def open_output(self, path: str) -> Output:
        """Open a new file for writing; missing folders above it are made."""
        with self.failures(path, "written"):
            self._make_folder(self._at(path).parent)
            return _LocalOutput(self, path, self._at(path))

    def open_input(self, path: str) -> pa.NativeFile:
        """Open a file for reading at any position."""
        with self.failures(path, "read"):
            return pa.OSFile(str(self._at(path)), "rb")

    def publish(self, path: str, data: bytes) -> None:
        """Write a temporary file beside it, then rename that."""
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
                with suppress(OSError):  # after a success it was renamed and is gone
                    aside.unlink(missing_ok=True)
            sync_folder(target.parent)

    def sync(self, path: str) -> None:
        """Make the file's bytes and its name durable."""
        with self.failures(path, "written"):
            _sync(self._at(path))
            sync_folder(self._at(path).parent)

    def move(self, source: str, target: str) -> None:
        """Rename the file, and make both folders durable."""
        old, new = self._at(source), self._at(target)
        with self.failures(target, "written"):
            self._make_folder(new.parent)
            old.replace(new)
            sync_folder(new.parent)
            sync_folder(old.parent)

    def delete(self, path: str) -> None:
        """Delete a file durably; no error when it is not there."""
        with self.failures(path, "deleted"):
            file = self._at(path)
            if file.exists():
                file.unlink(missing_ok=True)
                sync_folder(file.parent)

    def delete_folder(self, folder: str) -> None:
        """Delete a folder and everything in it; no error when it is not there."""
        with self.failures(folder, "deleted"), suppress(FileNotFoundError):
            shutil.rmtree(self._at(folder))

    def exists(self, path: str) -> bool:
        """Return whether there is a file or a folder."""
        with self.failures(path, "read"):
            return self._at(path).exists()

    def list(self, folder: str) -> list[str]:
        """Names, sorted."""
        with self.failures(folder, "read"), suppress(FileNotFoundError):
            return sorted(entry.name for entry in self._at(folder).iterdir())
        return []

    def size(self, path: str) -> int:
        """Return the size of a file in bytes."""
        with self.failures(path, "read"):
            return self._at(path).stat().st_size

    def url_of(self, path: str) -> str:
        """Return the plain path, as people type it."""
        return str(self._at(path))

    def duckdb_path(self, path: str) -> str:
        """Return the plain path."""
        return str(self._at(path))

    def _register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Do nothing: DuckDB reads local folders by itself."""

    def _at(self, path: str) -> Path:
        return self.root / path

    def _make_folder(self, folder: Path) -> None:
        """Make the folder and those above it, and make their names durable."""
        if folder.is_dir():
            return
        if folder != folder.parent:
            self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


class _LocalOutput:
    """A file that is durable once it is closed. Errors while writing are ArchiveErrors."""

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
                # On the descriptor that wrote: one that is opened later may not learn of a failed write.
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
    """Make the names in a folder durable; Windows cannot open folders and needs no such call."""
    if os.name != "nt":
        _sync(folder)


class ObjectStore(ArchiveStore):
    """A prefix of a bucket. An object becomes visible when it is complete, so that publishing is a single write."""

    def __init__(
        self, filesystem: fs.FileSystem, root: str, *, scheme: str, query: str = "", secrets: tuple[str, ...] = ()
    ) -> None:
        self._scheme = scheme
        self._query = f"?{query}" if query else ""
        self._root = root.strip("/")
        self._filesystem = filesystem
        super().__init__(label=self.url_of(""), secrets=secrets)

    def open_output(self, path: str) -> Output:
        """Open a new object for writing; it becomes visible when it is closed."""
        with self.failures(path, "written"):
            return _ObjectOutput(self, path, self._filesystem.open_output_stream(self._at(path)))

    def open_input(self, path: str) -> pa.NativeFile:
        """Open an object for reading at any position."""
        with self.failures(path, "read"):
            return self._filesystem.open_input_file(self._at(path))

    def publish(self, path: str, data: bytes) -> None:
        """Write one object as a whole."""
        output = self.open_output(path)
        # Not in a `finally`: closing after an error would publish the part that was written.
        output.write(data)
        output.close()

    def sync(self, path: str) -> None:
        """Do nothing: stored objects are durable."""

    def move(self, source: str, target: str) -> None:
        """Copy the object inside the store, then delete the source."""
        with self.failures(target, "written"):
            self._filesystem.copy_file(self._at(source), self._at(target))
        self.delete(source)

    def delete(self, path: str) -> None:
        """Delete an object; no error when it is not there."""
        with self.failures(path, "deleted"), suppress(FileNotFoundError):
            self._filesystem.delete_file(self._at(path))

    def delete_folder(self, folder: str) -> None:
        """Delete everything under the prefix."""
        with self.failures(folder, "deleted"), suppress(FileNotFoundError):
            self._filesystem.delete_dir(self._at(folder))

    def exists(self, path: str) -> bool:
        """Return whether there is an object of this name, or one below it."""
        with self.failures(path, "read"):
            return self._filesystem.get_file_info(self._at(path)).type is not fs.FileType.NotFound

    def list(self, folder: str) -> list[str]:
        """Names, sorted."""
        with self.failures(folder, "read"):
            selector = fs.FileSelector(self._at(folder), allow_not_found=True)
            return sorted(info.base_name for info in self._filesystem.get_file_info(selector))

    def size(self, path: str) -> int:
        """Return the size of a file in bytes."""
        with self.open_input(path) as file, self.failures(path, "read"):
            return file.size()

    def url_of(self, path: str) -> str:
        """Return the URL with the parameters that are not secret; user info and Azure's account are left out."""
        place = "/".join(part for part in (self._root, path) if part)
        return f"{self._scheme}://{quote(place, safe='/=')}{self._query}"

    def duckdb_path(self, path: str) -> str:
        """Return the object's usual URL, which also works in another DuckDB that has a reader for it and the keys."""
        return f"{self._scheme}://{self._at(path)}"

    def _register(self, connection: duckdb.DuckDBPyConnection) -> None:
        connection.register_filesystem(_reader(self._filesystem, self._scheme))

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root


class _ObjectOutput:
    """An object that is being written. Errors while writing are ArchiveErrors."""

    def __init__(self, store: ObjectStore, path: str, stream: pa.NativeFile) -> None:
        self._store = store
        self._path = path
        self._stream = stream

    def write(self, data: bytes, /) -> int:
        with self._store.failures(self._path, "written"):
            return self._stream.write(data)

    def close(self) -> None:
        with self._store.failures(self._path, "written"):
            self._stream.close()


def _reader(filesystem: fs.FileSystem, scheme: str) -> Any:
    """Return a file system for DuckDB's own Parquet reader, so that no extension is downloaded."""
    prefix = f"{scheme}://"

    class Reader(ArrowFSWrapper):
        cachable = False  # instances carry credentials
        protocol = scheme  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

        @classmethod
        def _strip_protocol(cls, path: str) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
            return path.removeprefix(prefix)

        def glob(self, path: str, **_kwargs: Any) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
            # Our paths are names, never patterns. Asking the store would cost a request for every file.
            return [path]

    return Reader(filesystem)


__all__ = ["ArchiveStore", "Output", "open_store", "same_place"]

_FORMS = (
    "give a folder (/srv/archive, file:///srv/archive), or a bucket and a prefix:"
    " s3://bucket/prefix?region=eu-central-1, s3://bucket/prefix?endpoint_override=host:9000&scheme=http,"
    " gs://bucket/prefix, abfs://account@container/prefix; credentials come from the environment, or s3://key:secret@…"
)
_VIRTUAL = "force_virtual_addressing"
_S3_PARAMETERS = {"region", "scheme", "endpoint_override", "tls_ca_file_path", _VIRTUAL}
# Only these parameters are shown: one that is not known here may be a secret.
_SHOWN = _S3_PARAMETERS | {"blob_storage_authority", "dfs_storage_authority", "credential_kind", "enable_tls"}
# Parameters that say which server it is; all others say how it is reached.
_SERVERS = {"endpoint_override", "blob_storage_authority", "dfs_storage_authority"}
_REQUEST_SECONDS, _CONNECT_SECONDS, _ATTEMPTS = 60, 10, 5
_PATTERN = re.compile(r"[*?\[]")


def open_store(url: str) -> ArchiveStore:
    """Return the store that a folder or URL names. Nothing is created or requested there yet.

    Raises:
        ArchiveError: The URL is not that of a supported store, or a part of it is wrong; says which forms work.
    """
    try:
        parts = urlsplit(url)
        hash(parts.port)  # raises where it is no number
    except ValueError:
        raise _bad("it cannot be read as a URL") from None
    if Path(url).is_absolute():
        return LocalStore(_folder(url))
    path = unquote(parts.path)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and Path(path).is_absolute():
        return LocalStore(_folder(path))
    if parts.scheme in {"s3", "gs", "abfs", "abfss"} and parts.hostname:
        return _bucket(parts, url)
    raise _bad("it is neither an absolute folder nor the URL of a store that is known")


def same_place(one: str, other: str) -> bool:
    """Return whether two folders or URLs, as `url_of` writes them, are the same place.

    Region, scheme, certificates and the form of addresses only say how a place is reached, and may differ. The endpoint
    may not: a bucket of the same name on another server is another bucket. Whether the files there are the right ones
    is decided by their manifest's SHA-256, not here.
    """
    return _place(one) == _place(other)


def _place(url: str) -> tuple[str, frozenset[tuple[str, str]]]:
    # `_folder` refuses names with a question mark, so the first one begins the parameters.
    place, _, query = url.partition("?")
    return place, frozenset((name, value) for name, value in parse_qsl(query) if name in _SERVERS)


def _folder(path: str) -> Path:
    if _PATTERN.search(path):
        raise _bad("*, ? and [ in a name cannot be read by DuckDB, which takes them for patterns")
    return Path(path)


def _bucket(parts: SplitResult, url: str) -> ArchiveStore:
    parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
    secrets = _secrets(parts, parameters)
    try:
        filesystem, root = _open_s3(parts, parameters) if parts.scheme == "s3" else _open_by_arrow(parts, url)
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        text = str(error).partition("\n")[0]
        # Some of Arrow's messages repeat the URL or parts of it.
        tells = any(secret in text for secret in (*secrets, url))
        raise _bad("a part of it is wrong" if tells else text) from None
    _folder(root)
    shown = {name: value for name, value in parameters.items() if name in _SHOWN and "@" not in value}
    return ObjectStore(filesystem, root, scheme=parts.scheme, query=urlencode(shown, safe="/:"), secrets=secrets)


def _open_s3(parts: SplitResult, parameters: dict[str, str]) -> tuple[fs.FileSystem, str]:
    unknown = sorted(set(parameters) - _S3_PARAMETERS)
    if unknown:
        raise ValueError(f"unknown parameter {unknown[0]!r}; known are {', '.join(sorted(_S3_PARAMETERS))}")
    given: dict[str, Any] = {name: value for name, value in parameters.items() if name != _VIRTUAL}
    filesystem = fs.S3FileSystem(
        **given,
        access_key=_plain(parts.username),
        secret_key=_plain(parts.password),
        force_virtual_addressing=parameters.get(_VIRTUAL, "false").lower() == "true",
        request_timeout=_REQUEST_SECONDS,
        connect_timeout=_CONNECT_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        # With background writes, parts that wait for the network would pile up in memory without a limit.
        background_writes=False,
    )
    return filesystem, f"{parts.hostname}/{unquote(parts.path).strip('/')}".rstrip("/")


def _open_by_arrow(parts: SplitResult, url: str) -> tuple[fs.FileSystem, str]:
    if parts.scheme.startswith("abfs") and "background_writes" not in parts.query:
        url += f"{'&' if parts.query else '?'}background_writes=false"  # as for S3
    filesystem, root = fs.FileSystem.from_uri(url)
    return filesystem, root


def _secrets(parts: SplitResult, parameters: dict[str, str]) -> tuple[str, ...]:
    hidden = [value for name, value in parameters.items() if name not in _SHOWN]
    user_info = [text for text in (parts.username, parts.password) if text]
    found = {*hidden, *user_info, *(unquote(text) for text in user_info)} - {"", "anonymous"}
    return tuple(sorted(found, key=len, reverse=True))


def _plain(text: str | None) -> str | None:
    return None if text is None else unquote(text)


def _bad(what: str) -> ArchiveError:
    return ArchiveError(
        f"archives cannot go where MIGRATION_ARCHIVE_URL says: {what}",
        state_left="nothing was touched",
        next_step=_FORMS,
    )
