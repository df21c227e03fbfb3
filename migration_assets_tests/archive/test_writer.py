"""The archive of a week: written aside, proven, in force at once, and whatever happens the one of before survives."""

# Arrow's type stubs leave much unknown.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest
from pyarrow import parquet

from migration_assets.archive.manifest import HEAD_KEY, Manifest, part_name, staging_of_week
from migration_assets.archive.store import ArchiveStore, open_store
from migration_assets.archive.verification import verify_archive
from migration_assets.archive.writer import WriteLimits, read_manifest, write_slice
from migration_assets.domain.errors import ArchiveError
from migration_assets_tests.archive.made_weeks import (
    HOME,
    RELATION,
    SMALL,
    WEEK,
    WRITER,
    archive,
    batches,
    bookings,
    manifest,
    portable,
    refusal,
)

STAGING = staging_of_week(RELATION, WEEK)


@pytest.fixture
def store(tmp_path: Path) -> ArchiveStore:
    return open_store(str(tmp_path / "archive"))


def contents(store: ArchiveStore) -> dict[str, str]:
    return {name: store.sha256(f"{HOME}/{name}") for name in store.list(HOME)}


def test_what_is_written_is_what_the_manifest_says(store: ArchiveStore) -> None:
    rows = bookings(1000)
    written = archive(store, rows)
    assert read_manifest(store, RELATION, WEEK) == (written, written.sha256)
    assert store.list(HOME) == ["manifest.json", *(part_name("g1", number) for number in range(len(written.files)))]
    assert len(written.files) > 2
    assert sum(file.rows for file in written.files) == 1000
    assert verify_archive(store, written) == portable(rows)
    assert not store.exists(STAGING)
    starts = [file.lower for file in written.files]
    assert starts == sorted(cast("list[str]", starts))
    assert written.files[0].lower == str(rows[0][1]).replace("+00:00", "+00")


def test_files_carry_statistics_a_page_index_their_order_and_the_head_of_the_manifest(store: ArchiveStore) -> None:
    written = archive(store, bookings(300))
    for file in written.files:
        with store.open_input(f"{HOME}/{file.name}") as source:
            metadata: Any = parquet.read_metadata(source)
        assert Manifest.from_head(metadata.metadata[HEAD_KEY]) == manifest(bookings(300))
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            assert group.num_rows <= 70
            assert [(order.column_index, order.descending) for order in group.sorting_columns] == [
                (1, False),
                (0, False),
            ]
            for column in (group.column(place) for place in range(group.num_columns)):
                assert column.compression == "ZSTD"
                assert column.has_column_index
                assert column.has_offset_index
                assert column.statistics.has_min_max or column.statistics.null_count == group.num_rows


def test_a_week_without_rows_is_one_file_with_the_columns(store: ArchiveStore) -> None:
    written = archive(store, [])
    assert [(file.rows, file.lower, file.upper) for file in written.files] == [(0, None, None)]
    assert verify_archive(store, written).rows == 0


def test_files_end_near_their_size_and_row_groups_at_their_bytes(store: ArchiveStore) -> None:
    rows = bookings(3000)
    limits = WriteLimits(file_bytes=40_000, row_group_rows=100_000, row_group_bytes=10_000)
    written = write_slice(store, manifest(rows), batches(rows, size=1000), limits, writer=WRITER)
    sizes = [file.bytes for file in written.files]
    assert max(sizes) < 60_000
    assert len(sizes) > 2
    with store.open_input(f"{HOME}/{written.files[0].name}") as source:
        metadata = parquet.read_metadata(source)
    assert metadata.row_group(0).num_rows < 200


def test_progress_tells_rows_and_bytes_so_far(store: ArchiveStore) -> None:
    told: list[tuple[int, int]] = []
    rows = bookings(500)
    written = write_slice(
        store, manifest(rows), batches(rows), SMALL, lambda rows, size: told.append((rows, size)), writer=WRITER
    )
    assert told == sorted(told)
    assert told[-1][0] == 500
    assert 0 < told[-1][1] <= written.total_bytes


def test_a_new_archive_takes_the_place_of_the_old_one_and_leaves_nothing_of_it(store: ArchiveStore) -> None:
    archive(store, bookings(1000))
    later = archive(store, bookings(120, seed=2), generation="g2")
    assert store.list(HOME) == ["manifest.json", *(file.name for file in later.files)]
    assert verify_archive(store, later) == later.portable


def test_another_weeks_files_are_not_touched(store: ArchiveStore) -> None:
    other = archive(store, bookings(200, WEEK.next), WEEK.next)
    archive(store, bookings(200))
    assert verify_archive(store, other) == other.portable


def with_another_guest(rows: list[Any]) -> list[Any]:
    place = next(number for number, row in enumerate(rows) if row[2] == "")
    return [*rows[:place], (*rows[place][:2], "another", *rows[place][3:]), *rows[place + 1 :]]


@pytest.mark.parametrize(
    ("what", "changes", "rows"),
    [
        ("rows were read", {}, bookings(199)),
        ("rows were read", {}, [*bookings(200), bookings(300, seed=3)[-1]]),
        ("DuckDB reads", {}, with_another_guest(bookings(200))),
        ("do not come in the order", {}, bookings(200)[::-1]),
        ("do not come in the order", {}, [*bookings(200)[1::-1], *bookings(200)[2:]]),
        ("outside of the week's bounds", {"upper_bound": "2023-08-01 00:00:00+00"}, bookings(200)),
        ("NULLs", {"statistics": {}}, bookings(200)),
    ],
)
def test_rows_that_are_not_those_of_the_snapshot_never_become_an_archive(
    store: ArchiveStore, what: str, changes: dict[str, Any], rows: list[Any]
) -> None:
    before = archive(store, bookings(50), generation="before")
    intended = manifest(bookings(200), **changes)
    if what == "NULLs":
        counts = {name: type(one)(one.nulls + (name == "guest")) for name, one in manifest(rows).statistics.items()}
        intended = manifest(rows, statistics=counts)
    error = refusal(write_slice, store, intended, batches(rows), SMALL, writer=WRITER)
    assert what in error.what
    assert "the previous archive" in error.state_left
    assert contents(store) == {
        "manifest.json": before.sha256, **{file.name: file.sha256 for file in before.files}
    }  # fmt: skip
    assert not store.exists(STAGING)


def test_a_source_that_breaks_leaves_everything_as_it_was_and_its_error_is_told(store: ArchiveStore) -> None:
    class BrokenConnectionError(Exception): ...

    def broken() -> Iterator[pa.RecordBatch]:
        yield from list(batches(bookings(500)))[:3]
        raise BrokenConnectionError

    before = archive(store, bookings(50), generation="before")
    with pytest.raises(BrokenConnectionError):
        write_slice(store, manifest(bookings(500)), broken(), SMALL, writer=WRITER)
    assert read_manifest(store, RELATION, WEEK)[0] == before
    assert len(store.list(HOME)) == len(before.files) + 1
    assert not store.exists(STAGING)


def test_what_a_dead_try_left_is_gone_before_the_first_row_is_read(store: ArchiveStore) -> None:
    store.publish(f"{STAGING}/dead/part-dead-00000.parquet", b"it may fill the disk")

    def rows() -> Iterator[pa.RecordBatch]:
        assert store.list(STAGING) in ([], ["g1"])
        yield from batches(bookings(50))

    write_slice(store, manifest(bookings(50)), rows(), SMALL, writer=WRITER)


def test_a_generation_is_never_written_twice(store: ArchiveStore) -> None:
    archive(store, bookings(50))
    before = contents(store)
    assert "generation g1 already" in refusal(archive, store, bookings(60)).what
    assert contents(store) == before


def test_no_manifest_is_an_error_that_says_so(store: ArchiveStore) -> None:
    assert "there is no manifest" in refusal(read_manifest, store, RELATION, WEEK).what


def test_limits_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        WriteLimits(row_group_rows=0)


def test_an_archive_error_is_a_migration_error_with_a_next_step(store: ArchiveStore) -> None:
    error = refusal(write_slice, store, manifest(bookings(5)), batches(bookings(4)), SMALL, writer=WRITER)
    assert isinstance(error, ArchiveError)
    assert error.next_step
