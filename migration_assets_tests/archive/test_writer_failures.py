"""Whatever stops an archive from being written, one whole archive is in force, and the next try clears up."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from migration_assets.archive.manifest import staging_of_week
from migration_assets.archive.store import ArchiveStore, LocalStore, open_store
from migration_assets.archive.verification import verify_archive
from migration_assets.archive.writer import read_manifest
from migration_assets.domain.errors import ArchiveError
from migration_assets_tests.archive.made_weeks import (
    HOME,
    RELATION,
    WEEK,
    DyingStore,
    Killed,
    archive,
    bookings,
    portable,
    refusal,
)

STAGING = staging_of_week(RELATION, WEEK)


@pytest.mark.long
def test_killed_at_any_moment_one_whole_archive_is_in_force_and_the_next_try_clears_up(tmp_path: Path) -> None:
    old, new = bookings(150), bookings(240, seed=2)
    moments, outcomes = 1, set[str]()
    while True:
        store = open_store(str(tmp_path / f"killed-{moments}"))
        archive(store, old, generation="old")
        dying = DyingStore(store, dies_at=moments)
        try:
            archive(cast("ArchiveStore", dying), new, generation="new")
        except Killed:
            pass
        else:
            break
        found, _ = read_manifest(store, RELATION, WEEK)
        outcomes.add(found.generation)
        for file in found.files:  # the archive in force is whole; beside it may lie what is in no manifest
            assert store.sha256(f"{HOME}/{file.name}") == file.sha256
        rest = set(store.list(HOME)) - {"manifest.json", *(file.name for file in found.files)}
        if rest:
            assert "does not know" in refusal(verify_archive, store, found).what
        again = archive(store, new, generation="again")
        assert verify_archive(store, again) == portable(new)
        assert set(store.list(HOME)) == {"manifest.json", *(file.name for file in again.files)}
        assert not store.exists(STAGING)
        moments += 1
    assert moments > 15
    assert outcomes == {"old", "new"}


class FullDisk(LocalStore):
    """Says what a full disk says, after so many bytes."""

    room = 0

    def open_output(self, path: str) -> Any:
        output = super().open_output(path)
        write = output.write

        def limited(data: bytes) -> int:
            self.room -= len(data)
            with self.failures(path, "written"):
                if self.room < 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
            return write(data)

        output.write = limited  # type: ignore[method-assign]
        return output


def test_a_full_disk_is_told_as_such_and_the_archive_of_before_stays(tmp_path: Path) -> None:
    store = FullDisk(tmp_path / "archive")
    store.room = 10**9
    before = archive(store, bookings(50), generation="before")
    needed = archive(open_store(str(tmp_path / "elsewhere")), bookings(600)).total_bytes
    for room in (0, 10, needed // 2, needed - 10):
        store.room = room
        error = refusal(archive, store, bookings(600))
        assert "no space" in error.what
        assert "the previous archive" in error.state_left
        assert "MIGRATION_ARCHIVE_URL" in error.next_step
        assert verify_archive(store, before) == before.portable
        assert not store.exists(STAGING)


# Archives in a process of its own, and stops where it is told to, to be killed there.
_CHILD = """
import sys
from pathlib import Path
from migration_assets.archive.store import LocalStore
from migration_assets_tests.archive import made_weeks as support

folder, moment = sys.argv[1:]

def stop(at):
    if at == moment:
        print(at, flush=True)
        sys.stdin.read()

class Stopping(LocalStore):
    def publish(self, path, data):
        stop("before the manifest")
        super().publish(path, data)
        stop("after the manifest")

    def move(self, source, target):
        super().move(source, target)
        stop("while files are moved")

rows = support.bookings(300, seed=2)

def batches():
    for number, batch in enumerate(support.batches(rows)):
        yield batch
        if number == 2:
            stop("while rows are read")

described = support.manifest(rows, generation="new")
support.write_slice(Stopping(Path(folder)), described, batches(), support.SMALL, writer=support.WRITER)
"""


@pytest.mark.long(but=1)
@pytest.mark.parametrize(
    ("moment", "in_force"),
    [
        ("while rows are read", "old"),
        ("while files are moved", "old"),
        ("before the manifest", "old"),
        ("after the manifest", "new"),
    ],
)
def test_kill_9_leaves_one_whole_archive_in_force(tmp_path: Path, moment: str, in_force: str) -> None:
    folder = tmp_path / "archive"
    store = open_store(str(folder))
    archive(store, bookings(200), generation="old")
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(folder), moment], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == moment
        os.kill(child.pid, signal.SIGKILL)
    found, _ = read_manifest(store, RELATION, WEEK)
    assert found.generation == in_force
    for file in found.files:
        assert store.sha256(f"{HOME}/{file.name}") == file.sha256
    again = archive(store, bookings(250, seed=3), generation="again")
    assert verify_archive(store, again) == again.portable
    assert not store.exists(STAGING)


class Unanswering(LocalStore):
    """A server that does, or does not do, what it is asked to publish, and never answers."""

    obeys = True

    def publish(self, path: str, data: bytes) -> None:
        if self.obeys:
            super().publish(path, data)
        raise ArchiveError("no answer")


def test_a_manifest_that_was_published_counts_though_the_answer_was_lost(tmp_path: Path) -> None:
    store = Unanswering(tmp_path)
    written = archive(store, bookings(100))
    assert verify_archive(store, written) == written.portable


def test_a_manifest_that_could_not_be_published_takes_its_files_with_it(tmp_path: Path) -> None:
    before = archive(LocalStore(tmp_path), bookings(100), generation="g")
    store = Unanswering(tmp_path)
    store.obeys = False
    error = refusal(archive, store, bookings(120), generation="g-2")
    assert error.what == "no answer"
    assert "the previous archive" in error.state_left
    assert verify_archive(store, before) == before.portable
    assert len(store.list(HOME)) == len(before.files) + 1


class Undeleting(LocalStore):
    """Lets nobody delete."""

    def delete(self, path: str) -> None:
        with self.failures(path, "deleted"):
            raise PermissionError(errno.EPERM, "not permitted")


def test_old_files_that_cannot_be_deleted_are_told_and_the_new_archive_stands(tmp_path: Path) -> None:
    archive(LocalStore(tmp_path), bookings(100), generation="old")
    error = refusal(archive, Undeleting(tmp_path), bookings(120), generation="new")
    assert "cannot be removed" in error.what
    assert "the new archive is in place" in error.state_left
    assert read_manifest(LocalStore(tmp_path), RELATION, WEEK)[0].generation == "new"
