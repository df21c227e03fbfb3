"""A week goes to Parquet, leaves, is asked, and comes back; what comes late or breaks is noticed at every step."""

import os
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from migration_assets.archive.archiving import archive_week, reread_archive
from migration_assets.archive.querying import ask
from migration_assets.copying.weeks import validate_week
from migration_assets.demo.cdc import compare_everything, drain
from migration_assets.domain.errors import ArchiveError, RestoreError, RetirementError, SliceStateError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.archives import read_archive
from migration_assets.retirement.restoring import drill_week, restore_week
from migration_assets.retirement.retiring import bring_back, late_in, retire_week
from migration_assets.runtime import Migration
from migration_assets_tests.archive.conftest import WEEKS, with_settings
from migration_assets_tests.confirmed_deeds import let_leave


def on(url: str, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []


def state_of(migration: Migration, week: FiscalWeek) -> str:
    query = "SELECT state FROM migration.slices WHERE quarter = %s AND week = %s"
    return str(on(migration.databases.base_url, query, week.quarter.key, week.name)[0][0])


def change_one(migration: Migration, week: FiscalWeek) -> None:
    """On the legacy, in a week that nobody expected to change."""
    bounds = migration.calendar.bounds(week)
    on(
        migration.databases.legacy_url,
        "UPDATE public.amenity_bookings SET guests = guests + 1 WHERE id ="
        " (SELECT min(id) FROM public.amenity_bookings WHERE booked_at >= %s AND booked_at < %s)",
        bounds.lower,
        bounds.upper,
    )


def files_of(migration: Migration, week: FiscalWeek) -> list[Path]:
    with migration.databases.session("base", "test") as base:
        archive = read_archive(base, migration.spec.relation, week)
    assert archive is not None
    folder = Path(archive.location.removeprefix("file://"))
    return sorted(folder.iterdir())


@pytest.mark.long
def test_a_week_is_archived_leaves_for_quarantine_and_comes_back_exactly(signed: Migration) -> None:
    week = WEEKS[0]
    done = archive_week(signed, week)
    assert done.manifest.rows == done.record.native.rows > 0
    assert state_of(signed, week) == "archived"
    validate_week(signed, week)
    assert state_of(signed, week) == "archived", "a validation that finds nothing leaves an archive in force"
    assert reread_archive(signed, week).record.verified_equal
    look = retire_week(signed, week)
    assert look.obstacles == ()
    assert state_of(signed, week) == "archived", "a dry run changes nothing"

    left = let_leave(signed, week)
    assert left.drop_after is not None
    assert state_of(signed, week) == "retired"
    leaf = "SELECT to_regclass('public.amenity_bookings_fy25_q2_w01'), (SELECT count(*) FROM migration_quarantine.{})"
    assert on(signed.databases.base_url, leaf.format("amenity_bookings_fy25_q2_w01")) == [(None, done.manifest.rows)]
    with pytest.raises(SliceStateError, match="has left the base"):
        archive_week(signed, week)

    with pytest.raises(RestoreError, match="still in the base"):
        restore_week(signed, week)
    back = bring_back(signed, week)
    assert back.source == "quarantine"
    assert back.fingerprint == done.manifest.native
    assert compare_everything(signed, week).differing == 0
    assert state_of(signed, week) == "archived"


@pytest.mark.long
def test_a_dropped_week_is_answered_from_parquet_and_restored_from_it(signed: Migration) -> None:
    week, soon = WEEKS[3], with_settings(signed, quarantine_days=0)
    archived = archive_week(soon, week).manifest
    texts = {column.name: column.storage.value for column in archived.columns}
    assert (texts["price"], texts["tags"]) == ("text", "text"), "NaN and two dimensions fit no exact type"
    let_leave(soon, week)
    gone = on(soon.databases.base_url, "SELECT to_regclass('migration_quarantine.amenity_bookings_fy25_q2_w04')")
    assert gone == [(None,)]
    question = "SELECT fiscal_week, count(*), sum(id) FROM amenity_bookings GROUP BY ALL ORDER BY ALL"
    asked = ask(soon, question)
    assert asked.cold_weeks == 1
    truth = on(
        soon.databases.legacy_url,
        "SELECT count(*), sum(id)::bigint FROM public.amenity_bookings"
        " WHERE booked_at >= '2024-04-22' AND booked_at < '2024-04-29'",
    )
    assert [row[1:] for row in asked.answer.rows if row[0] == "W04"] == truth
    assert len(asked.answer.rows) == 13
    back = bring_back(soon, week)
    assert back.source == "Parquet"
    assert back.fingerprint == archived.native
    whole = compare_everything(soon, week)
    assert (whole.rows, whole.differing) == (archived.rows, 0), whole.first
    assert ask(soon, question).answer.rows == asked.answer.rows
    assert ask(soon, question).cold_weeks == 0


@pytest.mark.long
def test_a_late_booking_makes_the_archive_stale_and_stays(signed: Migration) -> None:
    week = WEEKS[4]
    first = archive_week(signed, week).record
    change_one(signed, week)
    drain(signed)
    with pytest.raises(RetirementError, match="stale"):
        let_leave(signed, week)
    assert state_of(signed, week) == "archived"
    assert compare_everything(signed, week).differing == 0
    second = archive_week(signed, week).record
    assert second.native != first.native
    assert len([path for path in files_of(signed, week) if path.suffix == ".parquet"]) == 1
    let_leave(signed, week)
    assert state_of(signed, week) == "retired"
    assert late_in(signed, week) is None

    change_one(signed, week)
    late = late_in(signed, week)
    assert late is not None
    assert late.rows == 0, "as many rows, other values"
    at_once = with_settings(signed, as_of=signed.now().replace(year=2025))
    with pytest.raises(RetirementError, match="since the change stream let go of it"):
        let_leave(at_once, week)
    kept = on(signed.databases.base_url, "SELECT count(*) FROM migration_quarantine.amenity_bookings_fy25_q2_w05")
    assert kept == [(second.native.rows,)], "what the archive has not got is never dropped"


@pytest.mark.long
def test_a_byte_that_changed_is_named_and_nothing_leaves(signed: Migration) -> None:
    week = WEEKS[5]
    archive_week(signed, week)
    [path] = [path for path in files_of(signed, week) if path.suffix == ".parquet"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=path.name):
        reread_archive(signed, week)
    with pytest.raises(RetirementError, match="cannot be trusted"):
        let_leave(signed, week)
    with pytest.raises(ArchiveError, match=path.name):
        drill_week(signed, week)
    assert state_of(signed, week) == "archived"
    archive_week(signed, week)
    assert reread_archive(signed, week).record.verified_equal
    assert retire_week(signed, week).obstacles == ()


def test_a_drill_leaves_the_base_as_it_was_and_a_note(signed: Migration) -> None:
    week = WEEKS[6]
    done = archive_week(signed, week)
    before = on(
        signed.databases.base_url, "SELECT count(*), max(oid::bigint) FROM pg_class WHERE relkind IN ('r', 'p')"
    )
    drilled = drill_week(signed, week)
    assert drilled.fingerprint == done.manifest.native
    after = on(signed.databases.base_url, "SELECT count(*), max(oid::bigint) FROM pg_class WHERE relkind IN ('r', 'p')")
    assert after == before
    notes = on(signed.databases.base_url, "SELECT kind, equal, rows FROM migration.restores WHERE week = 'W07'")
    assert notes == [("drill", True, done.manifest.rows)]
    with pytest.raises(SliceStateError, match="it is in the base"):
        bring_back(signed, week)


def test_a_week_that_is_not_old_enough_or_not_archived_stays(signed: Migration) -> None:
    young = with_settings(signed, retention_quarters=8)
    archive_week(young, WEEKS[7])
    with pytest.raises(RetirementError, match="MIGRATION_RETENTION_QUARTERS"):
        let_leave(young, WEEKS[7])
    look = retire_week(young, WEEKS[8])
    assert len(look.obstacles) >= 3, "all of it at once"
    assert any("there is no archive" in one for one in look.obstacles)


@pytest.mark.long
def test_a_table_that_changed_since_is_restored_where_that_is_possible(signed: Migration) -> None:
    week, soon = WEEKS[9], with_settings(signed, quarantine_days=0)
    archive_week(soon, week)
    let_leave(soon, week)
    base = soon.databases.base_url
    on(base, "ALTER TABLE public.amenity_bookings RENAME COLUMN channel TO medium")
    try:
        with pytest.raises(RestoreError, match="column channel is gone"):
            bring_back(soon, week)
    finally:
        on(base, "ALTER TABLE public.amenity_bookings RENAME COLUMN medium TO channel")
    on(base, "ALTER TABLE public.amenity_bookings ADD COLUMN since_then integer DEFAULT 7")
    try:
        bring_back(soon, week)
        found = on(base, "SELECT DISTINCT since_then FROM public.amenity_bookings_fy25_q2_w10")
        assert found == [(7,)]
    finally:
        on(base, "ALTER TABLE public.amenity_bookings DROP COLUMN since_then")
    assert compare_everything(soon, week).differing == 0


def test_another_place_than_the_ledgers_is_refused(signed: Migration, tmp_path: Path) -> None:
    archive_week(signed, WEEKS[10])
    elsewhere = with_settings(signed, archive_url=SecretStr(str(tmp_path / "other")))
    with pytest.raises(ArchiveError, match="the archive lies in"):
        reread_archive(elsewhere, WEEKS[10])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_says_so(signed: Migration, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ArchiveError):
        archive_week(with_settings(signed, archive_url=SecretStr(str(tmp_path / "a"))), WEEKS[11])
    assert state_of(signed, WEEKS[11]) == "signed_off"
