"""Whatever is wrong with an archive is found and named: files, bytes, rows, and manifests that lie."""

# Arrow's type stubs leave much unknown.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from migration_assets.archive.columns import ColumnStatistics
from migration_assets.archive.manifest import HEAD_KEY, Manifest, slice_folder
from migration_assets.archive.store import LocalStore, open_store
from migration_assets.archive.verification import DamagedArchiveError, trusted_manifest, verify_archive
from migration_assets.domain.errors import ArchiveError
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets_tests.archive.made_weeks import (
    COLUMNS,
    HOME,
    RELATION,
    WEEK,
    archive,
    bookings,
    portable,
    refusal,
)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    opened = open_store(str(tmp_path / "archive"))
    assert isinstance(opened, LocalStore)
    return opened


@pytest.fixture
def written(store: LocalStore) -> Manifest:
    return archive(store, bookings(400))


def place(store: LocalStore, manifest: Manifest, number: int = 0) -> Path:
    return store.root / HOME / manifest.files[number].name


def finding(store: LocalStore, manifest: Manifest) -> str:
    error = refusal(verify_archive, store, manifest)
    assert isinstance(error, DamagedArchiveError)
    assert "must not leave the base" in error.state_left
    return error.what


def test_a_clean_archive_is_clean(store: LocalStore, written: Manifest) -> None:
    assert verify_archive(store, written) == portable(bookings(400))


def test_a_missing_file_is_named(store: LocalStore, written: Manifest) -> None:
    place(store, written, 1).unlink()
    assert finding(store, written) == f"missing: {written.files[1].name}"


def test_a_missing_folder_is_a_missing_archive(store: LocalStore, written: Manifest) -> None:
    shutil.rmtree(store.root / HOME)
    assert "missing: part-g1-00000.parquet" in finding(store, written)
    assert "there is no manifest" in refusal(trusted, store, written).what


def test_a_parquet_file_too_many_is_named_since_whoever_reads_the_folder_counts_it(
    store: LocalStore, written: Manifest
) -> None:
    shutil.copy(place(store, written), store.root / HOME / "part-old-00000.parquet")
    assert finding(store, written) == "files that the manifest does not know: part-old-00000.parquet"


def test_other_files_beside_are_nobodys_business(store: LocalStore, written: Manifest) -> None:
    (store.root / HOME / ".DS_Store").write_text("")
    verify_archive(store, written)


def test_a_file_cut_short_is_named(store: LocalStore, written: Manifest) -> None:
    file = place(store, written)
    file.write_bytes(file.read_bytes()[:-1])
    assert f"{file.name} is cut short" in finding(store, written)


def test_one_flipped_bit_anywhere_is_found(store: LocalStore, written: Manifest) -> None:
    file = place(store, written)
    clean = file.read_bytes()
    # Magic, first page, pages, page index, footer with the metadata, the footer's length, magic.
    for position in [0, 5, *range(100, len(clean) - 8, len(clean) // 12), len(clean) - 8, len(clean) - 1]:
        file.write_bytes(clean[:position] + bytes([clean[position] ^ 1]) + clean[position + 1 :])
        assert f"{file.name} has changed" in finding(store, written), position
    file.write_bytes(clean)
    verify_archive(store, written)


def test_a_file_of_another_week_or_generation_under_this_name_says_whose_it_is(
    store: LocalStore, written: Manifest
) -> None:
    other = archive(store, bookings(400, WEEK.next), WEEK.next)
    home = store.root / slice_folder(RELATION, WEEK.next)
    shutil.copy(home / other.files[0].name, place(store, written))
    assert "cut short" in finding(store, written) or "has changed" in finding(store, written)
    believed = replace(other.files[0], rows=written.files[0].rows)
    lying = replace(written, files=(believed, *written.files[1:]))
    what = finding(store, lying)
    assert f"belongs to {RELATION} FY24-Q3|W06" in what
    assert "week" in what


def rewritten(store: LocalStore, manifest: Manifest, table: pa.Table, head: bytes | None) -> Manifest:
    """The first file with another content, and a manifest that has its size and SHA-256 right."""
    file = place(store, manifest)
    metadata = {} if head is None else {HEAD_KEY: head}
    parquet.write_table(table.replace_schema_metadata(metadata), file)
    data = file.read_bytes()
    entry = replace(manifest.files[0], bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    return replace(manifest, files=(entry, *manifest.files[1:]))


def content(store: LocalStore, manifest: Manifest) -> pa.Table:
    return parquet.read_table(place(store, manifest), partitioning=None)


def test_a_file_that_is_no_parquet_is_found_though_its_bytes_are_as_listed(
    store: LocalStore, written: Manifest
) -> None:
    data = b"not this" * 100
    place(store, written).write_bytes(data)
    entry = replace(written.files[0], bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    assert "not a readable Parquet" in finding(store, replace(written, files=(entry, *written.files[1:])))


CHANGES: Mapping[str, tuple[Callable[[Any], Any], str]] = {
    "one row less": (lambda table: table.slice(1), "rows, not"),
    "a column less": (lambda table: table.drop_columns(["guest"]), "other columns or types"),
    "another type": (lambda table: table.set_column(0, "id", table["id"].cast(pa.int32())), "other columns or types"),
    "without the first": (lambda table: table.take([1, *range(1, len(table))]), "has rows from"),
    "nobody": (lambda table: table.set_column(2, "guest", pa.nulls(len(table), pa.string())), "column guest has"),
    "all open": (lambda table: table.set_column(4, "status", pa.array(["open"] * len(table))), "DuckDB reads"),
    "two ids swapped": (
        lambda table: table.set_column(0, "id", table["id"].take([1, 0, *range(2, len(table))])),
        "DuckDB reads",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_rows_that_are_not_those_of_the_fingerprint_are_found(store: LocalStore, written: Manifest, name: str) -> None:
    change, what = CHANGES[name]
    same = rewritten(store, written, content(store, written), written.head_bytes())
    verify_archive(store, same)
    changed = change(content(store, written))
    assert what in finding(store, rewritten(store, written, changed, written.head_bytes()))


def test_a_file_that_says_nothing_of_its_archive_is_not_ours(store: LocalStore, written: Manifest) -> None:
    assert "does not say" in finding(store, rewritten(store, written, content(store, written), None))


def test_an_unknown_method_is_not_called_damage(store: LocalStore, written: Manifest) -> None:
    error = refusal(verify_archive, store, replace(written, portable_method="portable-v9"))
    assert not isinstance(error, DamagedArchiveError)
    assert "portable-v9" in error.what


def with_one_row_less(manifest: Manifest) -> Manifest:
    less = manifest.rows - 1
    first = replace(manifest.files[0], rows=manifest.files[0].rows - 1)
    native, portable_ = (replace(one, rows=less) for one in (manifest.native, manifest.portable))
    return replace(manifest, rows=less, native=native, portable=portable_, files=(first, *manifest.files[1:]))


LIES: Mapping[str, Callable[[Manifest], Manifest]] = {
    "relation": lambda m: replace(m, relation="public.other"),
    "week": lambda m: replace(m, week=m.week.next),
    "control_column": lambda m: replace(m, control_column="id"),
    "key_columns": lambda m: replace(m, key_columns=("id",)),
    "lower_bound": lambda m: replace(m, lower_bound="2023-07-28 00:00:00+00"),
    "upper_bound": lambda m: replace(m, upper_bound="2023-08-06 00:00:00+00"),
    "generation": lambda m: replace(m, generation="g2"),
    "rows": with_one_row_less,
    "native": lambda m: replace(m, native=Fingerprint(m.rows, 1, 2)),
    "native_method": lambda m: replace(m, native_method="image-v0"),
    "portable": lambda m: replace(m, portable=Fingerprint(m.rows, 1, 2)),
    "portable_method": lambda m: replace(m, portable_method="portable-v0"),
    "columns": lambda m: replace(m, columns=(replace(COLUMNS[0], not_null=False), *COLUMNS[1:])),
    "statistics": lambda m: replace(m, statistics={**m.statistics, "id": ColumnStatistics(1)}),
    "lsn": lambda m: replace(m, lsn="0/1"),
    "snapshot_at": lambda m: replace(m, snapshot_at=m.snapshot_at + timedelta(seconds=1)),
    "archived_at": lambda m: replace(m, archived_at=m.archived_at + timedelta(seconds=1)),
    "versions": lambda m: replace(m, versions={}),
}
FILE_LIES: Mapping[str, Callable[[Manifest], Any]] = {
    "name": lambda m: replace(m.files[0], name="part-x-00000.parquet"),
    "bytes": lambda m: replace(m.files[0], bytes=m.files[0].bytes + 1),
    "sha256": lambda m: replace(m.files[0], sha256="0" * 64),
    "lower": lambda m: replace(m.files[0], lower="2023-07-29 00:00:00+00"),
    "upper": lambda m: replace(m.files[0], upper=None),
}


def trusted(store: LocalStore, known: Manifest, week: FiscalWeek = WEEK) -> Manifest:
    """What the ledger knows is what was written."""
    return trusted_manifest(store, RELATION, week, known.sha256, known.portable, known.native)


def test_the_manifest_that_the_ledger_knows_is_trusted(store: LocalStore, written: Manifest) -> None:
    assert trusted(store, written) == written


@pytest.mark.parametrize("field", LIES)
def test_a_manifest_that_lies_contradicts_the_ledger_and_its_own_files(
    store: LocalStore, written: Manifest, field: str
) -> None:
    lying = LIES[field](written)
    (store.root / HOME / "manifest.json").write_bytes(lying.to_bytes())
    error = refusal(trusted, store, written)
    if field in {"relation", "week"}:
        assert f"is that of {lying.relation} {lying.week}" in error.what
    else:
        assert "not the manifest that the ledger knows" in error.what
        assert f"contradicts {written.files[0].name} in:" in error.what
        assert field in error.what
    # Also who believes the manifest finds that the files say otherwise.
    assert refusal(verify_archive, store, lying, folder=HOME).what


@pytest.mark.parametrize("field", FILE_LIES)
def test_a_manifest_that_lies_about_a_file_is_found_from_both_sides(
    store: LocalStore, written: Manifest, field: str
) -> None:
    lying = replace(written, files=(FILE_LIES[field](written), *written.files[1:]))
    (store.root / HOME / "manifest.json").write_bytes(lying.to_bytes())
    assert "not the manifest that the ledger knows" in refusal(trusted, store, written).what
    assert finding(store, lying)


def test_a_manifest_as_the_ledger_knows_it_with_other_fingerprints_than_the_ledger_is_found(
    store: LocalStore, written: Manifest
) -> None:
    other = Fingerprint(written.rows, 1, 2)
    of_ledger = (RELATION, WEEK, written.sha256)
    assert "portable" in refusal(trusted_manifest, store, *of_ledger, other, written.native).what
    assert "native" in refusal(trusted_manifest, store, *of_ledger, written.portable, other).what


def test_one_changed_byte_of_white_space_in_a_manifest_is_found(store: LocalStore, written: Manifest) -> None:
    file = store.root / HOME / "manifest.json"
    file.write_bytes(file.read_bytes() + b"\n")
    assert "another SHA-256" in refusal(trusted, store, written).what


def test_a_manifest_of_another_week_is_found(store: LocalStore, written: Manifest) -> None:
    archive(store, bookings(10, WEEK.next), WEEK.next)
    shutil.copy(store.root / slice_folder(RELATION, WEEK.next) / "manifest.json", store.root / HOME / "manifest.json")
    assert "is that of" in refusal(trusted, store, written).what


def test_a_damaged_manifest_is_found(store: LocalStore, written: Manifest) -> None:
    file = store.root / HOME / "manifest.json"
    file.write_bytes(file.read_bytes()[:-20])
    error = refusal(trusted, store, written)
    assert isinstance(error, ArchiveError)
    assert "cannot be read" in error.what
