"""The catalogue over the archive is written anew after every week, and does not read them all again for that."""

import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from pydantic import SecretStr

from migration_assets.archive.archiving import archive_week
from migration_assets.archive.querying import refresh_catalogue
from migration_assets.archive.store import LocalStore
from migration_assets.domain.errors import ArchiveError
from migration_assets.ledger.archives import read_archives
from migration_assets.runtime import Migration
from migration_assets_tests.archive.conftest import WEEKS, with_settings

pytestmark = pytest.mark.long


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is opened in the store from now on."""
    paths: list[str] = []
    original = LocalStore.open_input

    def counted(store: LocalStore, path: str) -> pa.NativeFile:
        paths.append(path)
        return original(store, path)

    monkeypatch.setattr(LocalStore, "open_input", counted)
    return paths


@pytest.fixture
def five(signed: Migration) -> Migration:
    """W01 to W05 are archived, also where this test runs alone."""
    with signed.databases.session("base", "test") as base:
        there = {archive.week for archive in read_archives(base, signed.spec.relation)}
    for week in WEEKS[:5]:
        if week not in there:
            archive_week(signed, week)
    return signed


def opened_for(migration: Migration, opened: list[str]) -> list[str]:
    """The weeks that writing the catalogue opened something of."""
    opened.clear()
    refresh_catalogue(migration)
    return [path.split("fiscal_week=")[1] for path in opened]


def weeks_in(migration: Migration) -> list[str]:
    with duckdb.connect(str(refresh_catalogue(migration)), read_only=True) as duck:
        return [week for (week,) in duck.sql("SELECT DISTINCT fiscal_week FROM amenity_bookings ORDER BY 1").fetchall()]


@pytest.mark.long
def test_each_archived_week_costs_one_manifest_whatever_was_archived_before(
    signed: Migration, opened: list[str]
) -> None:
    for week in WEEKS[:5]:
        archive_week(signed, week)
        assert opened_for(signed, opened) == [f"{week.name}/manifest.json"]
    assert opened_for(signed, opened) == []
    assert weeks_in(signed) == ["W01", "W02", "W03", "W04", "W05"]

    shelf = signed.settings.var / "archive-manifests"
    assert len(list(shelf.iterdir())) == 5
    archive_week(signed, WEEKS[1])
    assert opened_for(signed, opened) == ["W02/manifest.json"], "it was archived again: another manifest"
    assert len(list(shelf.iterdir())) == 5, "the old one is put away"


def test_a_copy_that_was_changed_is_not_believed(five: Migration, opened: list[str]) -> None:
    refresh_catalogue(five)
    [copy] = [
        path
        for path in (five.settings.var / "archive-manifests").iterdir()
        if json.loads(path.read_text())["week"].endswith("W03")
    ]
    whole = copy.read_bytes()
    for damage in (whole.replace(b"part-", b"past-"), b"", b"{}"):
        copy.write_bytes(damage)
        assert opened_for(five, opened) == ["W03/manifest.json"]
        assert copy.read_bytes() == whole
    assert opened_for(five, opened) == []


def test_a_copy_that_cannot_be_kept_costs_reads_and_nothing_else(
    five: Migration, opened: list[str], tmp_path: Path
) -> None:
    elsewhere = with_settings(five, var=tmp_path)
    (tmp_path / "archive-manifests").write_text("no folder")
    for _ in range(2):
        assert len(opened_for(elsewhere, opened)) == 5
    assert weeks_in(elsewhere) == ["W01", "W02", "W03", "W04", "W05"]


def test_an_archive_that_lies_elsewhere_is_refused_though_its_manifest_is_known(
    five: Migration, tmp_path: Path
) -> None:
    refresh_catalogue(five)
    with pytest.raises(ArchiveError, match="and the settings say"):
        refresh_catalogue(with_settings(five, archive_url=SecretStr(str(tmp_path))))
