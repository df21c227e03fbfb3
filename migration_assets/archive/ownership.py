"""Which ledger may write to an archive's place, and which files are its own to replace.

`ledger.json` beside a table's weeks names the one ledger that writes there; everybody may read. A copy of the base has
a copy of the ledger, with the same number in it and the same settings, and must not touch the only archive of a week
that has left production. What tells a copy from its original is where it lies: another database, another server, or
another timeline of the same server. So before files are replaced, the place and everything in the week's folder must
belong to the ledger on whose behalf that is done.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

import pyarrow as pa
from pyarrow import parquet

from migration_assets.archive.manifest import HEAD_KEY, MANIFEST, PART_SUFFIX, Manifest, slice_folder, table_folder
from migration_assets.archive.parts import MAGIC, read_footer
from migration_assets.archive.store_base import ArchiveStore
from migration_assets.archive.verification import read_manifest
from migration_assets.domain.errors import ArchiveError, CalendarError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.stream.servers import known_servers, read_identity

_ADOPT = (
    "give this base a place of its own: MIGRATION_ARCHIVE_URL. Only where this base has taken the place of the other,"
    " which must never write there again: `migration-assets adopt-archive --by NAME`"
)
_MOVE_ASIDE = (
    "it may be the only copy of these rows: find out what it is; then move the week's folder to where no archive is"
    " looked for, by hand, keep it, and archive the week again"
)


class ForeignArchiveError(ArchiveError):
    """The archive there was written by another ledger: it is never replaced, and none of its files is deleted."""


@dataclass(frozen=True)
class LedgerIdentity:
    """A ledger's identifier and its database; as text `identifier/system identifier/database oid/timeline`."""

    ledger: str
    system_identifier: str
    database_oid: int
    timeline: int

    def __str__(self) -> str:
        return f"{self.ledger}/{self.system_identifier}/{self.database_oid}/{self.timeline}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form; raises ValueError when it is not one."""
        ledger, system, oid, timeline = text.split("/")
        return cls(ledger, system, int(oid), int(timeline))

    @property
    def place(self) -> str:
        """The database that the ledger lies in, in words."""
        return f"database {self.database_oid}, timeline {self.timeline}, of server {self.system_identifier}"


@dataclass(frozen=True)
class ArchiveWriter:
    """The ledger on whose behalf files are written.

    Attributes:
        identity: The ledger's identity now.
        before: Identities that it had before its base was moved; a person confirmed each move by name.
        manifests: SHA-256 of every manifest that this ledger recorded.
        owns_unsigned: Whether manifests that do not say who wrote them (format 1) may be its own: true while its base
            is the one that the ledger has known since the stream began.
    """

    identity: LedgerIdentity
    before: frozenset[str] = frozenset()
    manifests: frozenset[str] = field(default_factory=frozenset[str], repr=False)
    owns_unsigned: bool = True

    def is_self(self, ledger: str) -> bool:
        """Whether the identity is this ledger's, now or before a move."""
        return ledger == str(self.identity) or ledger in self.before

    def wrote(self, ledger: str | None, sha256: str) -> bool:
        """Whether an archive in force was written by this ledger.

        What it wrote before a move counts only if the ledger recorded it: the original base may have written more after
        it was copied. What it wrote under its present identity may be from an attempt that died before it was recorded.
        """
        if ledger == str(self.identity):
            return True
        mine = self.owns_unsigned if ledger is None else ledger in self.before
        return mine and sha256 in self.manifests

    def refusal(self, ledger: str | None, where: str, *, has_place: bool = False) -> ForeignArchiveError:
        """Return the error that says why nothing is written beside the other ledger's files.

        Args:
            ledger: The ledger that wrote them; None where they do not say.
            where: The file or folder.
            has_place: Whether the writer owns the place already, so that adopting it again would change nothing.
        """
        if ledger is None:
            found = "the archive there does not say which ledger wrote it, and this ledger did not record it"
        else:
            found = f"the archive there was written by {self._describe(ledger)}"
        return ForeignArchiveError(
            found,
            where=where,
            state_left="nothing was written, replaced or deleted there",
            next_step=_MOVE_ASIDE if has_place else _ADOPT,
        )

    def _describe(self, ledger: str) -> str:
        try:
            other = LedgerIdentity.parse(ledger)
        except ValueError:
            return "an unknown ledger"
        if other.ledger != self.identity.ledger:
            return f"another ledger ({other.place})"
        if self.is_self(ledger):
            return f"the base that this one was copied from ({other.place}), after it was copied"
        return (
            f"the ledger that this one is a copy of: there the base is {other.place}, and here it is"
            f" {self.identity.place}"
        )


OWNER = "ledger.json"
_QUARTER, _WEEK = "fiscal_quarter=", "fiscal_week="


def require_own(store: ArchiveStore, relation: str, week: FiscalWeek, writer: ArchiveWriter) -> None:
    """Require that the writer may write the week's archive; claims a place that no ledger owns yet.

    Raises:
        ForeignArchiveError: The place, or something in the week's folder, belongs to another ledger.
        ArchiveError: The store refuses.
    """
    owner = read_owner(store, relation)
    if owner is None:
        for found in _weeks(store, relation):
            _require_own_week(store, relation, found, writer)
        claim(store, relation, writer)
        owner = read_owner(store, relation)  # two ledgers may have claimed it at once: the last claim counts
    if owner is None or not writer.is_self(owner):
        raise writer.refusal(owner or "", store.url_of(table_folder(relation)))
    _require_own_week(store, relation, week, writer, has_place=True)


def read_owner(store: ArchiveStore, relation: str) -> str | None:
    """Return the ledger that writes the table's archives there; None where no ledger claimed the place yet.

    Raises:
        ArchiveError: The file is there, but cannot be understood.
    """
    path = f"{table_folder(relation)}/{OWNER}"
    if not store.exists(path):
        return None
    try:
        return str(json.loads(store.read(path))["ledger"])
    except (ValueError, KeyError, TypeError):
        raise ArchiveError(
            "the file does not say which ledger writes here",
            where=store.url_of(path),
            state_left="nothing was touched",
            next_step="bring it back from a backup of the archive; or, where this base is the one that writes here,"
            " `migration-assets adopt-archive --by NAME`",
        ) from None


def claim(store: ArchiveStore, relation: str, writer: ArchiveWriter) -> None:
    """Make this ledger the only one that writes the table's archives there."""
    content = {"ledger": str(writer.identity), "relation": relation}
    try:
        store.publish(f"{table_folder(relation)}/{OWNER}", (json.dumps(content, indent=2) + "\n").encode())
    except ArchiveError:
        # The request may have succeeded although no answer came back.
        if read_owner(store, relation) != str(writer.identity):
            raise


def signers(store: ArchiveStore, relation: str) -> frozenset[str]:
    """Return every ledger that a manifest of the table there names; unreadable manifests are skipped."""
    found: set[str] = set()
    for week in _weeks(store, relation):
        with suppress(ArchiveError):
            ledger = read_manifest(store, relation, week)[0].ledger
            found.update([ledger] if ledger is not None else [])
    return frozenset(found)


def _weeks(store: ArchiveStore, relation: str) -> Iterator[FiscalWeek]:
    home = table_folder(relation)
    for quarter in store.list(home):
        if quarter.startswith(_QUARTER):
            for week in store.list(f"{home}/{quarter}"):
                with suppress(CalendarError):  # a folder that is not this program's
                    yield FiscalWeek.parse(f"{quarter.removeprefix(_QUARTER)}|{week.removeprefix(_WEEK)}")


def _require_own_week(
    store: ArchiveStore, relation: str, week: FiscalWeek, writer: ArchiveWriter, *, has_place: bool = False
) -> None:
    home = slice_folder(relation, week)
    names = store.list(home)
    if MANIFEST in names:
        data = store.read(f"{home}/{MANIFEST}")  # an unreachable manifest raises; it must not pass for an unsigned one
        ledger = _signed_by(data)
        says = ledger is not None or _is_whole(data)  # a damaged manifest proves nothing: the files are asked instead
        if says and not writer.wrote(ledger, hashlib.sha256(data).hexdigest()):
            raise writer.refusal(ledger, store.url_of(home), has_place=has_place)
    for name in names:
        if name.endswith(PART_SUFFIX):
            ledger = _signer(store, f"{home}/{name}")
            if ledger is not None and not writer.is_self(ledger):
                raise writer.refusal(ledger, store.url_of(f"{home}/{name}"), has_place=has_place)


def _signer(store: ArchiveStore, path: str) -> str | None:
    """Return the ledger that a Parquet file names; None where it names none, or is no longer a Parquet file.

    Raises:
        ArchiveError: The file cannot be reached now, which says nothing about its owner.
    """
    with store.failures(path, "read"), store.open_input(path) as opened:
        try:
            footer = read_footer(opened, opened.size())
        except ValueError:
            return None
    try:
        # Parsed from memory: an error here comes from the bytes, not from the store.
        metadata = parquet.read_metadata(pa.BufferReader(MAGIC + footer)).metadata  # pyright: ignore[reportUnknownMemberType]
    except (pa.ArrowException, OSError):
        return None
    stored = (metadata or {}).get(HEAD_KEY)
    return _signed_by(stored) if stored else None


def _signed_by(head: bytes) -> str | None:
    """Return the ledger that a manifest or a file's head names, also in a format newer than this program's."""
    try:
        ledger = json.loads(head)["ledger"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return ledger if isinstance(ledger, str) else None


def _is_whole(manifest: bytes) -> bool:
    try:
        Manifest.from_bytes(manifest)
    except ArchiveError:
        return False
    return True


__all__ = ["OWNER", "ForeignArchiveError", "claim", "read_owner", "require_own", "signers"]


def read_archive_writer(base: Connected, relation: str) -> ArchiveWriter:
    """Return the ledger on whose behalf this base's archives are written.

    Args:
        base: A session with the base, whose ledger has this program's version.
        relation: The table whose archives are written.

    Raises:
        ServerChangedError: The server that answers is a standby.
    """
    number = require_row(base.execute("SELECT id::text FROM migration.ledger_identity").fetchone(), "the identity")[0]
    server = read_identity(base, "base")
    identity = LedgerIdentity(number, server.system_identifier, server.database_oid, server.timeline)
    adopted = base.execute(
        "SELECT adopted FROM migration.archive_adoptions WHERE relation = %s AND adopter = %s",
        [relation, str(identity)],
    )
    before = frozenset(str(row[0]) for row in adopted)
    recorded = base.execute("SELECT manifest_sha256 FROM migration.archives WHERE relation = %s", [relation])
    known = known_servers(base, relation).get("base")
    then = known.identity if known else server
    same = (then.system_identifier, then.database_oid, then.timeline) == (
        server.system_identifier, server.database_oid, server.timeline,
    )  # fmt: skip
    return ArchiveWriter(identity, before, frozenset(str(row[0]) for row in recorded), same or bool(before))


def adopt(base: Connected, relation: str, adopter: LedgerIdentity, adopted: Iterable[str], by: str) -> None:
    """Record the identities that this ledger had before, and theirs; joins the caller's transaction if there is one."""
    known = list(adopted)
    earlier = base.execute(
        "SELECT DISTINCT adopted FROM migration.archive_adoptions WHERE relation = %s AND adopter = ANY(%s)",
        [relation, known],
    )
    for one in dict.fromkeys([*known, *(str(row[0]) for row in earlier)]):
        base.execute(
            "INSERT INTO migration.archive_adoptions (relation, adopted, adopter, adopted_by) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT DO NOTHING",
            [relation, one, str(adopter), by],
        )
