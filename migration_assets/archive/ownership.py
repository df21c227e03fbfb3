"""Whose an archive's place is: `ledger.json` beside a table's weeks names the one ledger that writes there.

Reading is everybody's. Before a week's files are replaced, the place and all that lies in the week's folder must be of
the ledger on whose behalf that is done: a copy of the base has the same settings, and must not touch the only copy of a
week that has left production.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress

import pyarrow as pa
from pyarrow import parquet

from migration_assets.archive.footers import MAGIC, read_footer
from migration_assets.archive.layout import MANIFEST, PART_SUFFIX, slice_folder, table_folder
from migration_assets.archive.manifest import HEAD_KEY, Manifest
from migration_assets.archive.reading import read_manifest
from migration_assets.archive.store_base import ArchiveStore
from migration_assets.domain.archive_writer import ArchiveWriter, ForeignArchiveError
from migration_assets.domain.errors import ArchiveError, CalendarError
from migration_assets.domain.fiscal_periods import FiscalWeek

OWNER = "ledger.json"
_QUARTER, _WEEK = "fiscal_quarter=", "fiscal_week="


def require_own(store: ArchiveStore, relation: str, week: FiscalWeek, writer: ArchiveWriter) -> None:
    """The week's archive may be written on the writer's behalf; a place that is nobody's yet becomes the writer's.

    Raises:
        ForeignArchiveError: The place, or something in the week's folder, is of another ledger.
        ArchiveError: The store says no.
    """
    owner = read_owner(store, relation)
    if owner is None:
        for found in _weeks(store, relation):
            _require_own_week(store, relation, found, writer)
        claim(store, relation, writer)
        owner = read_owner(store, relation)  # two may have claimed it at once: the last one has it
    if owner is None or not writer.is_self(owner):
        raise writer.refusal(owner or "", store.url_of(table_folder(relation)))
    _require_own_week(store, relation, week, writer, has_place=True)


def read_owner(store: ArchiveStore, relation: str) -> str | None:
    """The ledger that writes archives of the table there; None where none ever did, or only one of before format 2.

    Raises:
        ArchiveError: The file is there, and does not say it.
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
    """From now on this ledger writes there, and nobody else."""
    content = {"ledger": str(writer.identity), "relation": relation}
    try:
        store.publish(f"{table_folder(relation)}/{OWNER}", (json.dumps(content, indent=2) + "\n").encode())
    except ArchiveError:
        # A server may have taken what it could not answer for.
        if read_owner(store, relation) != str(writer.identity):
            raise


def signers(store: ArchiveStore, relation: str) -> frozenset[str]:
    """Every ledger that a manifest of the table there names; those that cannot be read name none."""
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
                with suppress(CalendarError):  # another folder of somebody's
                    yield FiscalWeek.parse(f"{quarter.removeprefix(_QUARTER)}|{week.removeprefix(_WEEK)}")


def _require_own_week(
    store: ArchiveStore, relation: str, week: FiscalWeek, writer: ArchiveWriter, *, has_place: bool = False
) -> None:
    home = slice_folder(relation, week)
    names = store.list(home)
    if MANIFEST in names:
        data = store.read(f"{home}/{MANIFEST}")  # one that cannot be had now is not one that says nothing
        ledger = _signed_by(data)
        says = ledger is not None or _is_whole(data)  # a damaged one says nothing: its files do
        if says and not writer.wrote(ledger, hashlib.sha256(data).hexdigest()):
            raise writer.refusal(ledger, store.url_of(home), has_place=has_place)
    for name in names:
        if name.endswith(PART_SUFFIX):
            ledger = _signer(store, f"{home}/{name}")
            if ledger is not None and not writer.is_self(ledger):
                raise writer.refusal(ledger, store.url_of(f"{home}/{name}"), has_place=has_place)


def _signer(store: ArchiveStore, path: str) -> str | None:
    """Who wrote a Parquet file, as it says itself; None where it does not, or is none any more.

    Raises:
        ArchiveError: It cannot be had now, which says nothing of whose it is.
    """
    with store.failures(path, "read"), store.open_input(path) as opened:
        try:
            footer = read_footer(opened, opened.size())
        except ValueError:
            return None
    try:
        # Out of memory: what fails here is what the bytes say.
        metadata = parquet.read_metadata(pa.BufferReader(MAGIC + footer)).metadata  # pyright: ignore[reportUnknownMemberType]
    except (pa.ArrowException, OSError):
        return None
    stored = (metadata or {}).get(HEAD_KEY)
    return _signed_by(stored) if stored else None


def _signed_by(head: bytes) -> str | None:
    """The ledger that a manifest names, or a file's head; also one of a format that only a newer program knows."""
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
