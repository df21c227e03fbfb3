"""Archives in a bucket: S3 and what speaks like it, Google Cloud Storage, Azure, all through `pyarrow.fs`."""

from contextlib import suppress
from typing import Any
from urllib.parse import quote

import duckdb
import pyarrow as pa
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow import fs

from migration_assets.archive.store_base import ArchiveStore, Output


class ObjectStore(ArchiveStore):
    """A prefix of a bucket. An object appears when it is whole, so publishing one is one request."""

    def __init__(
        self, filesystem: fs.FileSystem, root: str, *, scheme: str, query: str = "", secrets: tuple[str, ...] = ()
    ) -> None:
        self._scheme = scheme
        self._query = f"?{query}" if query else ""
        self._root = root.strip("/")
        self._filesystem = filesystem
        super().__init__(label=self.url_of(""), secrets=secrets)

    def open_output(self, path: str) -> Output:
        """A new object; it appears when it is closed."""
        with self.failures(path, "written"):
            return _ObjectOutput(self, path, self._filesystem.open_output_stream(self._at(path)))

    def open_input(self, path: str) -> pa.NativeFile:
        """An object for reading at any position."""
        with self.failures(path, "read"):
            return self._filesystem.open_input_file(self._at(path))

    def publish(self, path: str, data: bytes) -> None:
        """One object, written as a whole."""
        output = self.open_output(path)
        # Not in a `finally`: closing would make an object of the part that was written.
        output.write(data)
        output.close()

    def sync(self, path: str) -> None:
        """Nothing to do: what was stored lasts."""

    def move(self, source: str, target: str) -> None:
        """A copy inside the store, then a deletion."""
        with self.failures(target, "written"):
            self._filesystem.copy_file(self._at(source), self._at(target))
        self.delete(source)

    def delete(self, path: str) -> None:
        """No error when it is not there."""
        with self.failures(path, "deleted"), suppress(FileNotFoundError):
            self._filesystem.delete_file(self._at(path))

    def delete_folder(self, folder: str) -> None:
        """Everything under the prefix."""
        with self.failures(folder, "deleted"), suppress(FileNotFoundError):
            self._filesystem.delete_dir(self._at(folder))

    def exists(self, path: str) -> bool:
        """Whether there is an object, or one below this prefix."""
        with self.failures(path, "read"):
            return self._filesystem.get_file_info(self._at(path)).type is not fs.FileType.NotFound

    def list(self, folder: str) -> list[str]:
        """Names, sorted."""
        with self.failures(folder, "read"):
            selector = fs.FileSelector(self._at(folder), allow_not_found=True)
            return sorted(info.base_name for info in self._filesystem.get_file_info(selector))

    def size(self, path: str) -> int:
        """In bytes."""
        with self.open_input(path) as file, self.failures(path, "read"):
            return file.size()

    def url_of(self, path: str) -> str:
        """With the parameters that are no secret; who may enter, and Azure's account, are not in it."""
        place = "/".join(part for part in (self._root, path) if part)
        return f"{self._scheme}://{quote(place, safe='/=')}{self._query}"

    def duckdb_path(self, path: str) -> str:
        """The object's usual URL: a DuckDB with its own reader for it and the keys can use it as well."""
        return f"{self._scheme}://{self._at(path)}"

    def _register(self, connection: duckdb.DuckDBPyConnection) -> None:
        connection.register_filesystem(_reader(self._filesystem, self._scheme))

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root


class _ObjectOutput:
    """An object that is being written; errors are ArchiveErrors."""

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
    """The bridge over which DuckDB's own Parquet reader gets its bytes: no extension is downloaded."""
    prefix = f"{scheme}://"

    class Reader(ArrowFSWrapper):
        cachable = False  # instances carry credentials
        protocol = scheme  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

        @classmethod
        def _strip_protocol(cls, path: str) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
            return path.removeprefix(prefix)

        def glob(self, path: str, **_kwargs: Any) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
            # Our paths are names, never patterns; asking the store first would cost requests for every file.
            return [path]

    return Reader(filesystem)
