"""`manifest.json`: what an archive of a week is, and where its files lie. Nothing is opened here.

    <table>/fiscal_quarter=FY24-Q3/fiscal_week=W05/part-<generation>-00000.parquet
    <table>/fiscal_quarter=FY24-Q3/fiscal_week=W05/manifest.json
    <table>/.staging/FY24-Q3-W05/<generation>/part-<generation>-00000.parquet

A generation is one try at archiving a week: its files never overwrite another's. Staging lies beside the weeks, on the
same disk, so that moving a file is a rename; its name starts with a dot, which Spark, Arrow and others leave out.

Everything but the list of files also stands in every Parquet file's key-value metadata (`HEAD_KEY`): a file that is
found anywhere says what it belongs to, and a manifest cannot be changed without contradicting its files. Format 2 says
which ledger wrote the archive and has a digest of every file's footer; format 1 has neither. Manifests that were read
before are kept by their SHA-256, so that they need not be fetched again.
"""

import hashlib
import json
import logging
import re
import secrets
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from migration_assets.archive.columns import ColumnStatistics, StoredColumn
from migration_assets.domain.errors import ArchiveError, CalendarError
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalWeek

FORMAT = 2
_FIRST_FORMAT = 1
HEAD_KEY = b"migration_assets.manifest"


@dataclass(frozen=True)
class ArchivedFile:
    """One Parquet file.

    Attributes:
        name: Its name in the week's folder.
        rows: Number of rows.
        bytes: Size of the file.
        sha256: Of the whole file.
        lower: The smallest control value in it; None without rows.
        upper: The largest control value in it; None without rows.
        footer_sha256: Of the Parquet footer, see `parts.footer_sha256`; None in format 1.
    """

    name: str
    rows: int
    bytes: int
    sha256: str
    lower: str | None
    upper: str | None
    footer_sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the file for the manifest; a field that the format does not have is left out."""
        return {name: value for name, value in vars(self).items() if name != "footer_sha256" or value is not None}


@dataclass(frozen=True)
class Manifest:
    """An archive of one week.

    Attributes:
        relation: The table, as in the ledger.
        week: The archived week.
        control_column: The column that decides a row's week; rows are sorted by it.
        key_columns: The primary key, which orders rows with the same control value.
        lower_bound: Lower bound of the week, as in the ledger; inclusive.
        upper_bound: Upper bound of the week; exclusive.
        generation: The attempt that wrote these files.
        rows: Rows in all files.
        native: PostgreSQL's fingerprint of the leaf, by `native_method`.
        native_method: See `domain/fingerprint.py`.
        portable: The fingerprint that both PostgreSQL and DuckDB can compute, by `portable_method`.
        portable_method: Its name.
        columns: In the table's order.
        statistics: By column name.
        lsn: WAL position of the base's snapshot.
        snapshot_at: When the snapshot was taken.
        archived_at: When this archive was begun.
        versions: Versions of the tools that made it, by name.
        files: In the order of their rows.
        ledger: The ledger that wrote it, as the text of a `LedgerIdentity`; None in format 1.
        format: Format of the manifest itself.
    """

    relation: str
    week: FiscalWeek
    control_column: str
    key_columns: tuple[str, ...]
    lower_bound: str
    upper_bound: str
    generation: str
    rows: int
    native: Fingerprint
    native_method: str
    portable: Fingerprint
    portable_method: str
    columns: tuple[StoredColumn, ...]
    statistics: Mapping[str, ColumnStatistics]
    lsn: str
    snapshot_at: datetime
    archived_at: datetime
    versions: Mapping[str, str]
    files: tuple[ArchivedFile, ...] = field(default=())
    ledger: str | None = None
    format: int = FORMAT

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        wrong = {
            "two columns have the same name": len(set(names)) < len(names),
            f"there is no control column {self.control_column!r}": self.control_column not in names,
            "a key column is not a column": not set(self.key_columns) <= set(names),
            "statistics of a column that is not there": not set(self.statistics) <= set(names),
            "a fingerprint of another number of rows": {self.native.rows, self.portable.rows} != {self.rows},
            "a time without a zone": None in {self.snapshot_at.tzinfo, self.archived_at.tzinfo},
            "files with another number of rows": bool(self.files) and sum(f.rows for f in self.files) != self.rows,
            "a file twice": len({f.name for f in self.files}) < len(self.files),
            "a file outside of its folder": any("/" in f.name or f.name.startswith(".") for f in self.files),
        }
        for what, is_so in wrong.items():
            if is_so:
                raise ValueError(what)

    @property
    def control(self) -> StoredColumn:
        """The column that decides a row's week."""
        return next(column for column in self.columns if column.name == self.control_column)

    @property
    def total_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(file.bytes for file in self.files)

    def head(self) -> dict[str, Any]:
        """Return everything except the files, as JSON values."""
        signed = {} if self.ledger is None else {"ledger": self.ledger}
        return {
            "format": self.format,
            "relation": self.relation,
            "week": self.week.key,
            "control_column": self.control_column,
            "key_columns": list(self.key_columns),
            "lower_bound": self.lower_bound,
            "upper_bound": self.upper_bound,
            "generation": self.generation,
            "rows": self.rows,
            "native": _sums(self.native),
            "native_method": self.native_method,
            "portable": _sums(self.portable),
            "portable_method": self.portable_method,
            "lsn": self.lsn,
            "snapshot_at": self.snapshot_at.astimezone(UTC).isoformat(),
            "archived_at": self.archived_at.astimezone(UTC).isoformat(),
            **signed,
            "versions": dict(sorted(self.versions.items())),
            "columns": [column.to_json() for column in self.columns],
            "statistics": {
                column.name: self.statistics[column.name].to_json()
                for column in self.columns
                if column.name in self.statistics
            },
        }

    def head_bytes(self) -> bytes:
        """Return the head for the files' key-value metadata."""
        return json.dumps(self.head(), ensure_ascii=False, separators=(",", ":")).encode()

    def to_bytes(self) -> bytes:
        """Return the content of `manifest.json`; equal manifests give equal bytes."""
        content = {**self.head(), "files": [file.to_json() for file in self.files]}
        return (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode()

    @property
    def sha256(self) -> str:
        """SHA-256 of `to_bytes` in hexadecimal, kept in the ledger. For a manifest that was read, hash its bytes."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str = "") -> Self:
        """Read `manifest.json`.

        Raises:
            ArchiveError: It is damaged, is something else, or was written by a newer program.
        """
        return cls._read(data, where, files=True)

    @classmethod
    def from_head(cls, data: bytes, *, where: str = "") -> Self:
        """Read a Parquet file's head; the manifest has no files then. Raises ArchiveError like `from_bytes`."""
        return cls._read(data, where, files=False)

    @classmethod
    def _read(cls, data: bytes, where: str, *, files: bool) -> Self:
        try:
            content = json.loads(data)
            if isinstance(content["format"], int) and content["format"] > FORMAT:
                raise _unreadable(where, f"it has format {content['format']}, this program knows {FORMAT}: update it")
            values: dict[str, Any] = {
                **content,
                "format": _known(content["format"]),
                "week": FiscalWeek.parse(content["week"]),
                "key_columns": tuple(content["key_columns"]),
                "native": _fingerprint(content["rows"], content["native"]),
                "portable": _fingerprint(content["rows"], content["portable"]),
                "columns": tuple(StoredColumn.from_json(column) for column in content["columns"]),
                "statistics": {
                    name: ColumnStatistics.from_json(values) for name, values in content["statistics"].items()
                },
                "snapshot_at": datetime.fromisoformat(content["snapshot_at"]),
                "archived_at": datetime.fromisoformat(content["archived_at"]),
                "versions": dict(content["versions"]),
                "files": tuple(ArchivedFile(**file) for file in content["files"]) if files else (),
            }
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError, CalendarError, RecursionError) as error:
            raise _unreadable(where, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from None


def differences(one: Manifest, other: Manifest) -> list[str]:
    """Return the names of fields in which two manifests differ, files aside; empty for the same archive."""
    names = [entry.name for entry in fields(Manifest) if entry.name != "files"]
    return [name for name in names if getattr(one, name) != getattr(other, name)]


def _sums(fingerprint: Fingerprint) -> dict[str, str]:
    # As texts: many JSON readers lose the last digits of large numbers.
    return {"sum_a": str(fingerprint.sum_a), "sum_b": str(fingerprint.sum_b)}


def _fingerprint(rows: int, sums: Mapping[str, str]) -> Fingerprint:
    return Fingerprint(rows, int(sums["sum_a"]), int(sums["sum_b"]))


def _known(found: object) -> int:
    if not isinstance(found, int) or isinstance(found, bool) or found < _FIRST_FORMAT:
        raise ValueError(f"format {found!r} is not known")
    return found


def _unreadable(where: str, why: str) -> ArchiveError:
    return ArchiveError(
        f"the manifest cannot be read: {why}",
        where=where,
        state_left="the Parquet files were not touched",
        next_step="archive the week again while it is in the base; else take the manifest from a backup of the archive",
    )


MANIFEST = "manifest.json"
PART_SUFFIX = ".parquet"
# File systems allow 255 bytes in a name. A table's name may have 131 bytes; escaping can triple that.
_LONGEST_NAME = 200
_HASH_DIGITS = 16
_GENERATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_PART = re.compile(rf"part-{_GENERATION.pattern}-[0-9]{{5,}}{re.escape(PART_SUFFIX)}")
# Capitals are escaped too: some file systems treat "Bookings" and "bookings" as the same name.
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_.")


def table_folder(relation: str) -> str:
    """Return the table's folder, unique to it: `public.amenity_bookings`; odd bytes become `%` and two digits."""
    escaped = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in relation.encode())
    if len(escaped) > _LONGEST_NAME:
        digest = hashlib.sha256(relation.encode()).hexdigest()[:_HASH_DIGITS]
        escaped = f"{escaped[: _LONGEST_NAME - _HASH_DIGITS - 1]}~{digest}"
    # No valid relation starts with a dot, but `..` must never lead out of the root.
    return "%2E" + escaped[1:] if escaped.startswith(".") else escaped


def slice_folder(relation: str, week: FiscalWeek) -> str:
    """Return a week's folder: `public.amenity_bookings/fiscal_quarter=FY24-Q3/fiscal_week=W05`."""
    return f"{table_folder(relation)}/fiscal_quarter={week.quarter.key}/fiscal_week={week.name}"


def staging_of_week(relation: str, week: FiscalWeek) -> str:
    """Return the folder in which every attempt at a week writes first; what remains there is from a dead attempt."""
    return f"{table_folder(relation)}/.staging/{week.quarter.key}-{week.name}"


def staging_folder(relation: str, week: FiscalWeek, generation: str) -> str:
    """Return the folder in which one attempt writes."""
    return f"{staging_of_week(relation, week)}/{_checked(generation)}"


def part_name(generation: str, number: int) -> str:
    """Return a file's name: `part-<generation>-00000.parquet`."""
    return f"part-{_checked(generation)}-{number:05d}{PART_SUFFIX}"


def is_part(name: str) -> bool:
    """Return whether a name has the form of the files that this program writes."""
    return _PART.fullmatch(name) is not None


def new_generation(now: datetime) -> str:
    """Return a unique name for an attempt; names sort by time: `20261122T151500-3fa9c1`."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def _checked(generation: str) -> str:
    if _GENERATION.fullmatch(generation) is None:
        raise ArchiveError(f"{generation!r} cannot name a generation of files", state_left="nothing was written")
    return generation


log = logging.getLogger(__name__)
_SUFFIX = ".json"


class ManifestShelf:
    """A local folder of manifest copies. It is a cache; only one process at a time writes to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, sha256: str) -> Manifest | None:
        """Return the manifest whose bytes have this SHA-256; None where there is no intact copy."""
        try:
            data = self._at(sha256).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data).hexdigest() != sha256:
            return None
        try:
            return Manifest.from_bytes(data)
        except ArchiveError:
            return None  # written by another version of this program

    def put(self, manifest: Manifest) -> None:
        """Keep a copy. When that fails, the manifest is read from the archive again next time."""
        target = self._at(manifest.sha256)
        aside = target.with_suffix(".part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(manifest.to_bytes())
            aside.replace(target)
        except OSError as error:
            log.warning("a manifest cannot be kept in %s: %s", self._folder, error.strerror)

    def keep_only(self, sha256s: Collection[str]) -> None:
        """Delete the copies of all other manifests."""
        kept = {f"{sha256}{_SUFFIX}" for sha256 in sha256s}
        with suppress(OSError):
            for path in self._folder.iterdir():
                if path.name not in kept:
                    path.unlink(missing_ok=True)

    def _at(self, sha256: str) -> Path:
        return self._folder / f"{sha256}{_SUFFIX}"
