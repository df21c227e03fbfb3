"""Files that a ledger did not write are never replaced nor deleted on its behalf."""

import errno
import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from migration_assets.archive.manifest import MANIFEST, slice_folder, staging_folder
from migration_assets.archive.ownership import (
    OWNER,
    ArchiveWriter,
    ForeignArchiveError,
    LedgerIdentity,
    claim,
    read_owner,
    require_own,
)
from migration_assets.archive.store import LocalStore, open_store
from migration_assets.archive.verification import verify_archive
from migration_assets.archive.writer import write_slice
from migration_assets.domain.errors import ArchiveError
from migration_assets_tests.archive.made_weeks import (
    RELATION,
    SMALL,
    WEEK,
    WRITER,
    archive,
    batches,
    bookings,
    manifest,
    refusal,
)

HERE = WRITER.identity
COPIES = {
    "another database of the server": replace(HERE, database_oid=16999),
    "another server": replace(HERE, system_identifier="7300000000000000002"),
    "recovered from a backup": replace(HERE, timeline=2),
    "another ledger": replace(HERE, ledger="00000000-0000-4000-8000-000000000000"),
}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    opened = open_store(str(tmp_path / "archive"))
    assert isinstance(opened, LocalStore)
    return opened


def contents(store: LocalStore) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in store.root.rglob("*") if path.is_file()}


def rewrite(store: LocalStore, writer: ArchiveWriter, rows: int = 50, generation: str = "g2") -> object:
    described = manifest(bookings(rows), generation=generation, ledger=str(writer.identity))
    return write_slice(store, described, batches(bookings(rows)), SMALL, writer=writer)


@pytest.mark.parametrize("copy", COPIES.values(), ids=list(COPIES))
@pytest.mark.parametrize("lost", [False, True], ids=["its owner is told there", "who owns the place was lost"])
def test_no_copy_of_a_ledger_replaces_what_it_did_not_write(
    store: LocalStore, copy: LedgerIdentity, lost: bool
) -> None:
    written = archive(store, bookings(100))
    if lost:
        next(store.root.rglob(OWNER)).unlink()
    before = contents(store)
    fork = ArchiveWriter(copy, manifests=frozenset({written.sha256}))
    for week in (WEEK, WEEK.next):  # one that is not there yet is none of the copy's business either
        with pytest.raises(ForeignArchiveError, match="was written by") as caught:
            require_own(store, RELATION, week, fork)
        assert "MIGRATION_ARCHIVE_URL" in caught.value.next_step
    assert isinstance(refusal(rewrite, store, fork), ForeignArchiveError)
    assert contents(store) == before
    elsewhere = LocalStore(store.root.parent / "its own")
    rewrite(elsewhere, fork)
    assert read_owner(elsewhere, RELATION) == str(copy)


def test_a_moved_ledger_replaces_what_it_knows_and_nothing_that_was_written_after_it_was_copied(
    store: LocalStore,
) -> None:
    known, unknown = archive(store, bookings(100)), archive(store, bookings(60, WEEK.next), WEEK.next)
    moved = ArchiveWriter(
        replace(HERE, database_oid=16999), before=frozenset({str(HERE)}), manifests=frozenset({known.sha256})
    )
    claim(store, RELATION, moved)
    require_own(store, RELATION, WEEK, moved)
    after = refusal(require_own, store, RELATION, WEEK.next, moved)
    assert "after it was copied" in after.what
    # It has been adopted: only what lies there is in the way, and the advice says how to get it out.
    assert ("move the week's folder" in after.next_step, "adopt" in after.next_step) == (True, False)
    assert verify_archive(store, unknown) == unknown.portable
    rewrite(store, moved)
    (store.root / slice_folder(RELATION, WEEK.next)).rename(store.root.parent / "aside")
    require_own(store, RELATION, WEEK.next, moved)
    # The one that wrote there before is told that it is the copy now.
    assert "is a copy of" in refusal(require_own, store, RELATION, WEEK, WRITER).what


def test_what_somebody_put_beside_an_archive_is_not_cleared_away_with_it(store: LocalStore) -> None:
    archive(store, bookings(100))
    beside = f"{slice_folder(RELATION, WEEK)}/for the auditors.parquet"
    store.publish(beside, b"not ours")
    rewrite(store, WRITER)
    assert store.read(beside) == b"not ours"


def test_what_a_dead_try_of_its_own_left_is_replaced_though_the_ledger_never_heard_of_it(store: LocalStore) -> None:
    archive(store, bookings(100))
    rewrite(store, WRITER)
    rewrite(store, WRITER, generation="g3")


def test_archives_of_before_they_said_who_wrote_them_are_its_own_where_ledger_and_server_say_so(
    store: LocalStore,
) -> None:
    unsigned = archive(store, bookings(100), ledger=str(HERE))
    home = slice_folder(RELATION, WEEK)
    old = replace(
        unsigned, ledger=None, format=1,
        files=tuple(replace(file, footer_sha256=None) for file in unsigned.files),
    )  # fmt: skip
    store.publish(f"{home}/manifest.json", old.to_bytes())
    assert b"footer" not in old.to_bytes()
    assert b'"ledger"' not in old.to_bytes()
    knows = replace(WRITER, manifests=frozenset({old.sha256}))
    for stranger in (WRITER, replace(knows, owns_unsigned=False)):
        assert "does not say" in refusal(require_own, store, RELATION, WEEK, stranger).what
    require_own(store, RELATION, WEEK, knows)


class Hiccups(LocalStore):
    """A store that does not give its manifests out."""

    def read(self, path: str) -> bytes:
        if path.endswith(MANIFEST):
            raise ArchiveError("it cannot be read: SlowDown")
        return super().read(path)


def test_an_archive_that_cannot_be_read_now_or_only_by_a_newer_program_is_not_nobody_s(store: LocalStore) -> None:
    written = archive(store, bookings(50))
    newer = json.loads(written.to_bytes()) | {"format": 99, "more": "than this program knows"}
    store.publish(f"{slice_folder(RELATION, WEEK)}/{MANIFEST}", json.dumps(newer).encode())
    next(store.root.rglob(OWNER)).unlink()
    for part in store.root.rglob("*.parquet"):
        part.write_bytes(b"of a format that is newer, too")
    fork = ArchiveWriter(replace(HERE, timeline=2))
    before = contents(store)
    assert "was written by" in refusal(require_own, store, RELATION, WEEK, fork).what
    assert "SlowDown" in refusal(require_own, Hiccups(store.root), RELATION, WEEK, fork).what
    assert contents(store) == before
    require_own(store, RELATION, WEEK, WRITER)


class FailingDisk(io.BytesIO):
    """Opens, and gives nothing out."""

    def read(self, size: int | None = -1, /) -> bytes:
        raise OSError(errno.EIO, f"{os.strerror(errno.EIO)}, {size} bytes")


class Failing(LocalStore):
    """A store whose Parquet files cannot be read to their end."""

    def open_input(self, path: str) -> pa.NativeFile:
        whole = super().open_input(path)
        if not path.endswith(".parquet"):
            return whole
        with whole:
            return pa.PythonFile(FailingDisk(whole.read()), mode="r")


def test_a_file_that_cannot_be_read_now_is_not_nobody_s_and_one_that_is_damaged_says_nothing(store: LocalStore) -> None:
    archive(store, bookings(50))
    next(store.root.rglob(MANIFEST)).unlink()
    part = next(store.root.rglob("*.parquet"))
    whole = part.read_bytes()
    assert "it cannot be read" in refusal(require_own, Failing(store.root), RELATION, WEEK, WRITER).what
    for damaged in (b"", whole[:-3], whole[:-40] + bytes(32) + whole[-8:]):
        part.write_bytes(damaged)
        require_own(store, RELATION, WEEK, WRITER)


def test_a_place_that_was_given_to_another_base_meanwhile_is_left_to_it(store: LocalStore) -> None:
    archive(store, bookings(100))
    other = replace(HERE, database_oid=16999)
    theirs = f"{staging_folder(RELATION, WEEK, 'theirs')}/part-theirs-00000.parquet"

    def rows() -> Iterator[Any]:
        yield from batches(bookings(50))
        claim(store, RELATION, ArchiveWriter(other))
        store.publish(theirs, b"being written")

    described = manifest(bookings(50), generation="g2")
    with pytest.raises(ForeignArchiveError):
        write_slice(store, described, rows(), SMALL, writer=WRITER)
    assert store.read(theirs) == b"being written"
    assert not [name for name in contents(store) if "g2" in name]


def test_an_owner_that_cannot_be_read_lets_nobody_write(store: LocalStore) -> None:
    archive(store, bookings(20))
    for content in (b"", b"{}", b"[]"):
        next(store.root.rglob(OWNER)).write_bytes(content)
        with pytest.raises(ArchiveError, match="does not say which ledger"):
            require_own(store, RELATION, WEEK, WRITER)
