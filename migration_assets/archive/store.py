"""Where archives go, by URL: the forms that work, and the store behind each. Credentials stay out of every text."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

import pyarrow as pa
from pyarrow import fs

from migration_assets.archive.store_base import ArchiveStore, Output
from migration_assets.archive.store_local import LocalStore
from migration_assets.archive.store_objects import ObjectStore
from migration_assets.domain.errors import ArchiveError

__all__ = ["ArchiveStore", "Output", "open_store", "same_place"]

_FORMS = (
    "give a folder (/srv/archive, file:///srv/archive), or a bucket and a prefix:"
    " s3://bucket/prefix?region=eu-central-1, s3://bucket/prefix?endpoint_override=host:9000&scheme=http,"
    " gs://bucket/prefix, abfs://account@container/prefix; credentials come from the environment, or s3://key:secret@…"
)
_VIRTUAL = "force_virtual_addressing"
_S3_PARAMETERS = {"region", "scheme", "endpoint_override", "tls_ca_file_path", _VIRTUAL}
# Only these are shown: a parameter that we do not know may be a secret.
_SHOWN = _S3_PARAMETERS | {"blob_storage_authority", "dfs_storage_authority", "credential_kind", "enable_tls"}
# Which server it is; all others say how to reach it.
_SERVERS = {"endpoint_override", "blob_storage_authority", "dfs_storage_authority"}
_REQUEST_SECONDS, _CONNECT_SECONDS, _ATTEMPTS = 60, 10, 5
_PATTERN = re.compile(r"[*?\[]")


def open_store(url: str) -> ArchiveStore:
    """The store that the URL names. Nothing is made or asked there yet.

    Raises:
        ArchiveError: It is no URL of a store that we know, or one of its parts is wrong; says which forms work.
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
    """Whether two URLs or folders, as `url_of` writes them, are the same place.

    Region, scheme, certificates and the form of addresses say how a place is reached, and may change. The endpoint may
    not: a bucket of the same name on another server is another bucket. Whether the files there are the right ones is
    not asked here: their manifest's SHA-256 says that.
    """
    return _place(one) == _place(other)


def _place(url: str) -> tuple[str, frozenset[tuple[str, str]]]:
    # No folder has a question mark in its name: see `_folder`.
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
        # Arrow repeats the URL, or parts of it, in some messages.
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
        # In the background, parts that the network does not take yet would pile up in memory without a bound.
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
