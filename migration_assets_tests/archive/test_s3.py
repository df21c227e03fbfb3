"""The same archive in a bucket, against a server that speaks S3."""

# Arrow's type stubs leave much unknown.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import hashlib
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from migration_assets.archive.cold_views import cold_relation, write_catalogue
from migration_assets.archive.manifest import staging_of_week
from migration_assets.archive.ownership import ArchiveWriter, ForeignArchiveError
from migration_assets.archive.store import ArchiveStore, open_store
from migration_assets.archive.verification import DamagedArchiveError, slice_relation, trusted_manifest, verify_archive
from migration_assets.archive.writer import read_manifest, write_slice
from migration_assets_tests.archive.made_weeks import (
    COLUMNS,
    HOME,
    RELATION,
    SMALL,
    WEEK,
    WRITER,
    DyingStore,
    Killed,
    archive,
    batches,
    bookings,
    manifest,
    portable,
    refusal,
)

STAGING = staging_of_week(RELATION, WEEK)


@pytest.fixture(scope="module")
def endpoint() -> Generator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def store(endpoint: str, request: pytest.FixtureRequest) -> ArchiveStore:
    """A bucket of its own."""
    bucket = "archive-" + hashlib.sha256(request.node.name.encode()).hexdigest()[:20]
    address: dict[str, Any] = {"endpoint_override": endpoint, "scheme": "http", "region": "us-east-1"}
    fs.S3FileSystem(access_key="key", secret_key="se/cret", allow_bucket_creation=True, **address).create_dir(bucket)
    return open_store(
        f"s3://key:se%2Fcret@{bucket}/some/prefix?endpoint_override={endpoint}&scheme=http&region=us-east-1"
    )


def parts(store: ArchiveStore) -> list[str]:
    return [name for name in store.list(HOME) if name.endswith(".parquet")]


def test_an_archive_in_a_bucket_is_written_proven_and_found_again(store: ArchiveStore) -> None:
    rows = bookings(300)
    written = archive(store, rows)
    assert len(written.files) > 1
    assert read_manifest(store, RELATION, WEEK) == (written, written.sha256)
    assert trusted_manifest(store, RELATION, WEEK, written.sha256, written.portable, written.native) == written
    assert verify_archive(store, written) == portable(rows)
    assert parts(store) == [file.name for file in written.files]
    assert store.list(STAGING) == []
    with store.connect_duckdb() as duck:
        found = duck.execute(f"SELECT count(*), min(id), max(id) FROM {slice_relation(store, written)}").fetchone()
    assert found == (300, rows[0][0], rows[-1][0])


def test_a_bucket_is_a_store_like_any_other(store: ArchiveStore) -> None:
    store.publish("a/b/one", b"1")
    store.publish("a/b/one", b"22")
    store.publish("a/two", b"2")
    store.sync("a/two")
    assert store.read("a/b/one") == b"22"
    assert store.list("a") == ["b", "two"]
    assert store.list("nothing") == []
    assert store.exists("a/b")
    assert not store.exists("a/c")
    store.move("a/two", "c/d/three")
    assert (store.exists("a/two"), store.size("c/d/three")) == (False, 1)
    assert store.sha256("c/d/three") == hashlib.sha256(b"2").hexdigest()
    store.delete("c/d/three")
    store.delete("c/d/three")
    store.delete_folder("a")
    store.delete_folder("a")
    assert store.list("a") == []
    assert "cannot be read" in refusal(store.read, "gone").what


def test_where_something_is_tells_no_credentials(store: ArchiveStore, endpoint: str) -> None:
    url = store.url_of(HOME)
    assert url.startswith("s3://archive-")
    assert url.endswith(f"/some/prefix/{HOME}?endpoint_override={endpoint}&scheme=http&region=us-east-1")
    error = refusal(store.read, "gone")
    for text in (url, store.label, repr(store), str(error)):
        assert "key" not in text.replace("key=", "")
        assert "cret" not in text


@pytest.mark.long
def test_a_new_archive_takes_the_place_of_the_old_one(store: ArchiveStore) -> None:
    archive(store, bookings(300))
    later = archive(store, bookings(100, seed=2), generation="g2")
    assert parts(store) == [file.name for file in later.files]
    assert verify_archive(store, later) == later.portable


def test_a_copy_of_the_ledger_replaces_no_object(store: ArchiveStore) -> None:
    rows = bookings(100)
    written = archive(store, rows)
    copy = ArchiveWriter(replace(WRITER.identity, database_oid=16999), manifests=frozenset({written.sha256}))
    described = manifest(rows, generation="g2", ledger=str(copy.identity))
    with pytest.raises(ForeignArchiveError, match="is a copy of"):
        write_slice(store, described, batches(rows), SMALL, writer=copy)
    assert verify_archive(store, written) == portable(rows)


@pytest.mark.long
def test_a_flipped_byte_a_missing_and_a_surplus_object_are_found(store: ArchiveStore) -> None:
    written = archive(store, bookings(300))
    path = f"{HOME}/{written.files[0].name}"
    clean = store.read(path)
    store.publish(path, clean[:500] + bytes([clean[500] ^ 1]) + clean[501:])
    assert "has changed" in refusal(verify_archive, store, written).what
    store.publish(path, clean)
    store.publish(f"{HOME}/part-x-00000.parquet", clean)
    assert "does not know" in refusal(verify_archive, store, written).what
    store.delete(f"{HOME}/part-x-00000.parquet")
    verify_archive(store, written)
    store.delete(path)
    assert "missing" in refusal(verify_archive, store, written).what


@pytest.mark.long
def test_killed_while_a_bucket_is_written_one_whole_archive_is_in_force(store: ArchiveStore) -> None:
    old, new = bookings(40), bookings(60, seed=2)
    archive(store, old, generation="old-0")
    moment, outcomes = 1, set[str]()
    while True:
        dying = DyingStore(store, dies_at=moment)
        try:
            archive(cast("ArchiveStore", dying), new, generation=f"new-{moment}")
        except Killed:
            pass
        else:
            break
        found, _ = read_manifest(store, RELATION, WEEK)
        outcomes.add(found.generation[:3])
        for file in found.files:
            assert store.sha256(f"{HOME}/{file.name}") == file.sha256
        archive(store, old, generation=f"old-{moment}")
        assert store.list(STAGING) == []
        moment += 1
    assert outcomes == {"old", "new"}
    assert len(parts(store)) == 1


@pytest.mark.long
def test_a_catalogue_of_a_bucket_is_read_over_the_stores_own_connection(store: ArchiveStore, tmp_path: Path) -> None:
    weeks = [archive(store, bookings(40, week), week) for week in (WEEK, WEEK.next)]
    write_catalogue(tmp_path / "archive.duckdb", {"bookings": cold_relation(store, weeks, COLUMNS)}, store)
    with store.connect_duckdb(str(tmp_path / "archive.duckdb"), read_only=True) as duck:
        asked = "SELECT count(*) FROM bookings WHERE fiscal_week = ?"
        assert duck.execute(asked, [WEEK.name]).fetchone() == (40,)
        assert duck.execute("SELECT count(*) FROM bookings").fetchone() == (80,)
    content = (tmp_path / "archive.duckdb").read_bytes()
    assert b"cret" not in content


def test_a_bucket_that_is_not_there_is_no_place_for_archives(endpoint: str) -> None:
    elsewhere = open_store(
        f"s3://key:geheim@no-such-bucket/x?endpoint_override={endpoint}&scheme=http&region=us-east-1"
    )
    error = refusal(archive, elsewhere, bookings(10))
    assert "the previous archive" in error.state_left
    assert "geheim" not in str(error)


@pytest.mark.long
def test_a_server_that_does_not_answer_is_not_called_damage(store: ArchiveStore, endpoint: str) -> None:
    written = archive(store, bookings(10))
    silent = open_store(
        store.label.replace("s3://", "s3://k:s@").replace(endpoint, "127.0.0.1:1")
    )  # nobody listens there
    error = refusal(verify_archive, silent, written)
    assert not isinstance(error, DamagedArchiveError)
    assert "cannot be read" in error.what
