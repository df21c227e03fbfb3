"""Places for archives by URL, and what a local folder promises: whole files, lasting names, errors without secrets."""

import errno
import os
import re
from pathlib import Path

import pytest

from migration_assets.archive import store as store_module
from migration_assets.archive.manifest import new_generation, part_name, slice_folder, staging_folder, table_folder
from migration_assets.archive.store import open_store, same_place
from migration_assets.domain.errors import ArchiveError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets_tests.archive.made_weeks import POSTGRES_EPOCH, WEEK, refusal


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("/srv/archive", "/srv/archive"),
        ("file:///srv/my%20archive", "/srv/my archive"),
        ("file://localhost/srv/archive", "/srv/archive"),
        ("s3://AKIAEXAMPLE:se%2Fcret@bucket/a/b?region=eu-west-1", "s3://bucket/a/b?region=eu-west-1"),
        (
            "s3://bucket/p?endpoint_override=127.0.0.1:9000&scheme=http&region=us-east-1",
            "s3://bucket/p?endpoint_override=127.0.0.1:9000&scheme=http&region=us-east-1",
        ),
        ("s3://bucket?region=us-east-1", "s3://bucket?region=us-east-1"),
        ("gs://anonymous@bucket/prefix/", "gs://bucket/prefix"),
        ("abfs://account:c2VjcmV0a2V5@container/prefix", "abfs://container/prefix"),
        (
            "abfss://container@account.dfs.core.windows.net/p?credential_kind=environment",
            "abfss://container/p?credential_kind=environment",
        ),
        (
            "abfss://container@account.dfs.core.windows.net/p?tenant_id=t&client_id=c&client_secret=geheim",
            "abfss://container/p",
        ),
    ],
)
def test_a_store_is_known_by_a_label_without_credentials(url: str, label: str) -> None:
    store = open_store(url)
    assert store.label == label
    assert label in repr(store)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "archive",
        "./archive",
        "s3:/bucket",
        "s3://",
        "s3:///prefix",
        "http://host/folder",
        "az://bucket",
        "file://elsewhere/folder",
        "s3://[bucket/prefix",
        "s3://bucket:port/prefix",
        "/srv/every*thing",
        "s3://bucket/pre[fix?region=us-east-1",
        "s3://key:geheim-12@bucket/p?regoin=us-east-1",
        "s3://key@bucket/p?region=us-east-1",
        "s3://bucket/p?region=us-east-1&scheme=gopher",
        "gs://geheim-12@bucket/prefix",
        "gs://bucket/prefix?token=geheim-12",
        "abfs://account:geheim-12!@container/prefix?x=1",
        "abfs://account:geheim-12 @container/prefix",
        "abfss://container@account.dfs.core.windows.net/p?client_secret=geheim-12",
    ],
)
def test_what_is_no_store_is_refused_with_the_forms_that_work_and_without_secrets(url: str) -> None:
    error = refusal(open_store, url)
    assert "s3://bucket/prefix" in error.next_step
    assert "geheim-12" not in str(error)
    assert error.__cause__ is None


def test_opening_a_store_creates_nothing(tmp_path: Path) -> None:
    open_store(str(tmp_path / "archive"))
    assert list(tmp_path.iterdir()) == []


def test_a_local_folder_does_what_a_store_does(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "archive"))
    assert store.list("a") == []
    assert not store.exists("a/b")
    output = store.open_output("a/b/one")
    output.write(b"content")
    output.close()
    store.sync("a/b/one")
    store.publish("a/b/two", b"1")
    with store.open_input("a/b/two") as reader:
        store.publish("a/b/two", b"2")
        assert reader.read() == b"1"  # who reads the old content reads all of it
    assert store.list("a/b") == ["one", "two"]
    assert (store.read("a/b/one"), store.read("a/b/two")) == (b"content", b"2")
    assert store.size("a/b/one") == 7
    assert store.sha256("a/b/one") == "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    store.move("a/b/one", "c/d/three")
    assert store.list("c/d") == ["three"]
    assert store.exists("c")
    assert store.url_of("c/d/three") == str(tmp_path / "archive/c/d/three")
    store.delete("c/d/three")
    store.delete("c/d/three")
    store.delete_folder("a")
    store.delete_folder("a")
    assert store.list("") == ["c"]


def test_what_is_not_there_cannot_be_read_and_the_error_says_where(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for call in (store.open_input, store.size, store.sha256, store.read):
        error = refusal(call, "nothing/here")
        assert error.where == str(tmp_path / "nothing/here")
        assert error.next_step


def test_a_file_is_never_written_over(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.publish("one", b"1")
    assert "cannot be written" in refusal(store.open_output, "one").what


def test_bytes_and_names_are_on_the_disk_before_a_call_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()).removeprefix(str(tmp_path)).lstrip("/"))
        real(descriptor)

    monkeypatch.setattr(store_module.os, "fsync", noted)
    store = open_store(str(tmp_path))
    output = store.open_output("a/b/one")
    assert synced == ["", "a"]  # the names of the new folders
    output.write(b"1")
    output.close()
    assert synced[2:] == ["a/b/one", "a/b"]
    synced.clear()
    store.move("a/b/one", "a/one")
    assert synced == ["a", "a/b"]
    synced.clear()
    store.publish("a/two", b"2")
    assert re.fullmatch(r"a/\.two\.\w+", synced[0])
    assert synced[1:] == ["a"]


def test_a_publication_that_fails_leaves_the_old_content_and_nothing_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path))
    store.publish("one", b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_module.os, "fsync", full)
    assert "no space is left" in refusal(store.publish, "one", b"new").what
    assert store.read("one") == b"old"
    assert store.list("") == ["one"]


def test_secrets_of_the_url_are_cut_out_of_a_servers_message() -> None:
    store = open_store("s3://AKIAEXAMPLE:se%2Fcret@bucket/a?region=eu-west-1")
    with pytest.raises(ArchiveError) as caught, store.failures("x", "written"):
        raise OSError("AKIAEXAMPLE may not, nor se/cret or se%2Fcret")
    assert caught.value.what == "it cannot be written: *** may not, nor *** or ***"
    assert caught.value.where == "s3://bucket/a/x?region=eu-west-1"
    assert caught.value.__suppress_context__


def test_duckdb_reads_in_utc_and_downloads_nothing(tmp_path: Path) -> None:
    with open_store(str(tmp_path)).connect_duckdb(memory_mb=300, threads=1) as duck:
        rows = duck.execute("SELECT name, value FROM duckdb_settings()").fetchall()
    settings = dict(rows)
    assert settings["TimeZone"] == "UTC"
    assert settings["autoinstall_known_extensions"] == settings["autoload_known_extensions"] == "false"
    assert settings["memory_limit"] == "286.1 MiB"
    assert settings["threads"] == "1"
    assert not settings["temp_directory"]


def test_a_table_has_a_folder_of_its_own_whatever_its_name() -> None:
    names = ["public.bookings", 'public."Bookings"', 'public."book/ings"', '"..".".."', 'public."*?[x]"', 'a."b.c"',
             'a.b."c"', f'"{"Ж" * 31}"."{"Ж" * 31}"', f'"{"Ж" * 31}"."{"Ж" * 30}Д"', 'public."tab\nle"', '"Zoo".x',
             '"ZOO".x']  # fmt: skip
    folders = [table_folder(name) for name in names]
    assert len({folder.lower() for folder in folders}) == len(names)
    assert folders[0] == "public.bookings"
    for folder in folders:
        assert re.fullmatch(r"[a-z0-9_.%A-F~]{1,200}", folder)
        assert not folder.startswith(".")


def test_the_folders_of_weeks_and_tries() -> None:
    assert slice_folder("public.t", WEEK) == "public.t/fiscal_quarter=FY24-Q3/fiscal_week=W05"
    other = FiscalWeek.parse("FY2125-Q1|W13")
    assert slice_folder("public.t", other) == "public.t/fiscal_quarter=FY2125-Q1/fiscal_week=W13"
    assert staging_folder("public.t", WEEK, "g1") == "public.t/.staging/FY24-Q3-W05/g1"
    assert part_name("g1", 12) == "part-g1-00012.parquet"
    one, two = new_generation(POSTGRES_EPOCH), new_generation(POSTGRES_EPOCH)
    assert one != two
    assert re.fullmatch(r"part-20000101T000000-[0-9a-f]{6}-00000\.parquet", part_name(one, 0))
    for odd in ("", "../x", "a b", ".x"):
        assert "generation" in refusal(part_name, odd, 0).what


S3 = "s3://bucket/p/fiscal_week=W01?endpoint_override=one:9000&scheme=http&region=us-east-1"


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (S3, True),
        ("s3://bucket/p/fiscal_week=W01?region=eu-west-1&endpoint_override=one:9000", True),
        ("s3://bucket/p/fiscal_week=W01?endpoint_override=one:9000&tls_ca_file_path=/etc/ca.pem", True),
        ("s3://bucket/p/fiscal_week=W01?endpoint_override=two:9000&scheme=http&region=us-east-1", False),
        ("s3://bucket/p/fiscal_week=W01?scheme=http&region=us-east-1", False),
        ("s3://bucket/p/fiscal_week=W02?endpoint_override=one:9000", False),
        ("s3://other/p/fiscal_week=W01?endpoint_override=one:9000", False),
        ("gs://bucket/p/fiscal_week=W01?endpoint_override=one:9000", False),
    ],
)
def test_how_a_place_is_reached_does_not_make_it_another(other: str, *, same: bool) -> None:
    assert same_place(S3, other) is same
    assert same_place(other, S3) is same
