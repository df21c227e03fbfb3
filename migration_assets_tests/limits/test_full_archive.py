"""The disk that archives go to is full: whatever room is left, the archive of before stays in force, whole."""

from pathlib import Path

from migration_assets.archive.store import open_store
from migration_assets.archive.verification import verify_archive
from migration_assets.archive.writer import read_manifest
from migration_assets.domain.errors import ArchiveError
from migration_assets_tests.archive.made_weeks import HOME, RELATION, WEEK, archive, bookings, portable
from migration_assets_tests.limits.small_disks import small_disk


def test_an_archive_that_finds_no_room_leaves_the_one_of_before_and_the_next_one_completes(tmp_path: Path) -> None:
    old, new = bookings(100), bookings(600, seed=2)
    refusals: list[ArchiveError] = []
    with small_disk(tmp_path, megabytes=1) as disk:
        store = open_store(str(disk.place / "archive"))
        before = archive(store, old, generation="before")
        while True:
            disk.free()
            disk.fill(but_kb=4 * len(refusals))
            try:
                made = archive(store, new, generation=f"try-{len(refusals)}")
            except ArchiveError as error:
                refusals.append(error)
                found, _ = read_manifest(store, RELATION, WEEK)
                assert found == before
                assert verify_archive(store, before) == portable(old)
                continue
            break
        assert verify_archive(store, made) == portable(new)
        assert set(store.list(HOME)) == {"manifest.json", *(file.name for file in made.files)}
    assert len(refusals) > 3
    assert {error.what for error in refusals} == {"no space is left where archives go"}
    assert all("then archive again" in error.next_step for error in refusals)
