"""The manifest is the same after writing and reading, reads like a report, and refuses what it is not."""

import json
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from migration_assets.archive.columns import ColumnStatistics, Storage, StoredColumn
from migration_assets.archive.manifest import FORMAT, ArchivedFile, Manifest, differences
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets_tests.archive.made_weeks import COLUMNS, RELATION, WEEK, bookings, manifest, refusal

HUGE = Fingerprint(20, 2**68 + 1, -(2**67) - 1)
LIST = StoredColumn("tags", "text[]", Storage.LIST, element=Storage.TEXT)
FULL = manifest(
    bookings(20),
    native=HUGE,
    portable=HUGE,
    columns=(*COLUMNS, LIST),
    statistics={"id": ColumnStatistics(0, "1", "20"), "price": ColumnStatistics(3, "-1.00", "NaN")},
    files=(
        ArchivedFile("part-g1-00000.parquet", 20, 4321, "ab" * 32, "2023-07-29 00:00:00+00", "2023-08-04 23:59:59+00"),
    ),
)


def test_a_manifest_is_the_same_after_writing_and_reading() -> None:
    assert Manifest.from_bytes(FULL.to_bytes()) == FULL
    assert Manifest.from_bytes(FULL.to_bytes()).to_bytes() == FULL.to_bytes()
    assert Manifest.from_bytes(FULL.to_bytes()).sha256 == FULL.sha256
    assert Manifest.from_head(FULL.head_bytes()) == replace(FULL, files=())


def test_a_manifest_reads_like_a_report_and_keeps_large_sums_exact_for_every_reader() -> None:
    text = FULL.to_bytes().decode()
    content = json.loads(text)
    assert list(content)[:6] == ["format", "relation", "week", "control_column", "key_columns", "lower_bound"]
    assert content["week"] == "FY24-Q3|W05"
    assert content["native"] == {"sum_a": str(2**68 + 1), "sum_b": str(-(2**67) - 1)}
    assert content["snapshot_at"] == "2024-09-08T00:00:00+00:00"
    assert content["files"][0]["bytes"] == 4321
    assert content["columns"][4]["labels"] == ["open", "paid"]
    assert content["statistics"]["price"] == {"nulls": 3, "minimum": "-1.00", "maximum": "NaN"}
    assert text.endswith("}\n")
    assert len(text.splitlines()) > 100


def test_the_same_manifest_is_the_same_bytes_whatever_the_order_of_its_mappings() -> None:
    turned = replace(
        FULL,
        versions=dict(reversed(list(FULL.versions.items()))),
        statistics=dict(reversed(list(FULL.statistics.items()))),
        snapshot_at=FULL.snapshot_at.astimezone(),
    )
    assert turned.to_bytes() == FULL.to_bytes()


def test_every_field_but_the_files_is_in_the_head_that_parquet_files_carry() -> None:
    assert set(FULL.head()) == {field.name for field in fields(Manifest)} - {"files"}


def test_differences_are_named() -> None:
    assert differences(FULL, replace(FULL, files=())) == []
    assert differences(FULL, replace(FULL, lsn="0/0", versions={})) == ["lsn", "versions"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"3",
        b'{"format": 1}',
        b"\xff\xfe",
        b"[" * 100_000,
        FULL.to_bytes()[:-30],
        FULL.to_bytes().replace(b"FY24-Q3|W05", b"FY24-Q3|W14"),
        FULL.to_bytes().replace(b'"rows": 20', b'"rows": "20"'),
        FULL.to_bytes().replace(b'"storage": "integer"', b'"storage": "roman"'),
        FULL.to_bytes().replace(b'"lsn"', b'"lsm"'),
        FULL.to_bytes().replace(b'"format": 2', b'"format": 0'),
        FULL.to_bytes().replace(b'"format": 2', b'"format": true'),
        FULL.to_bytes().replace(b"part-g1-00000", b"../../part-g1"),
        FULL.to_bytes().replace(b"+00:00", b""),
    ],
    ids=range(17),
)
def test_what_is_damaged_or_something_else_is_refused(data: bytes) -> None:
    error = refusal(Manifest.from_bytes, data, where="here")
    assert "the manifest cannot be read" in error.what
    assert error.where == "here"
    assert error.next_step


def test_a_manifest_of_a_newer_program_asks_for_an_update() -> None:
    newer = json.loads(FULL.to_bytes())
    newer.update(format=FORMAT + 1, something="new")
    assert "update it" in refusal(Manifest.from_bytes, json.dumps(newer).encode()).what


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"control_column": "gone"}, "no control column"),
        ({"key_columns": ("gone",)}, "key column"),
        ({"columns": (*COLUMNS, COLUMNS[0])}, "same name"),
        ({"statistics": {"gone": ColumnStatistics(0)}}, "statistics"),
        ({"rows": 19}, "another number of rows"),
        ({"native": Fingerprint(19, 1, 1)}, "another number of rows"),
        ({"snapshot_at": datetime(2024, 1, 1)}, "without a zone"),  # noqa: DTZ001
        ({"files": FULL.files * 2, "rows": 40, "native": Fingerprint(40, 1, 1), "portable": Fingerprint(40, 1, 1)},
         "a file twice"),
        ({"files": (replace(FULL.files[0], rows=19),)}, "files with another"),
    ],
)  # fmt: skip
def test_a_manifest_that_contradicts_itself_cannot_be_made(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        replace(FULL, **changes)


def test_the_test_manifest_is_of_the_week_it_says() -> None:
    assert (FULL.relation, FULL.week, FULL.control.name, FULL.total_bytes) == (RELATION, WEEK, "booked_at", 4321)
    assert FULL.snapshot_at == datetime(2024, 9, 8, tzinfo=UTC)
