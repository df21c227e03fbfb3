"""A week leaves the base: everything that stands in the way, the way itself, and the drop at its end."""

from collections.abc import Generator
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from migration_assets.domain.errors import ArchiveError, RetirementError, StreamError
from migration_assets.domain.states import SliceState
from migration_assets.ledger.archives import record_reread
from migration_assets.ledger.own_objects import read_quarantine
from migration_assets.ledger.retirements import Step
from migration_assets.postgres.sessions import Databases
from migration_assets.retirement import leaving
from migration_assets.retirement import leaving as retirement
from migration_assets.retirement.checks import late_bookings
from migration_assets.stream.holding import hold_stream
from migration_assets_tests.clones import Clones
from migration_assets_tests.ground import release_of, validation_of, week
from migration_assets_tests.retirement.signed_off_quarter import GRACE, NOW, Departure, leaf, trust

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def departure(clones: Clones) -> Generator[Departure]:
    with Departure.copied(clones, 5, 6) as departure:
        yield departure


def _nothing(*_: object, **__: object) -> list[str]:
    return []


def _damaged(_: object) -> None:
    raise ArchiveError("part-1.parquet has other bytes", next_step="restore it")


def test_a_week_goes_out_of_the_stream_and_the_root_into_quarantine_and_is_dropped_after_the_grace_period(
    departure: Departure,
) -> None:
    rows = departure.ground.contents("base", 5)
    assert len(rows) == 70
    done = departure.retire()
    assert (done.step, done.drop_after, done.obstacles) == (Step.QUARANTINED, NOW + GRACE, ())
    assert str(done.leaf) == f"migration_quarantine.{leaf(5)}"
    assert done.bytes > 0
    assert departure.state() is SliceState.RETIRED
    assert departure.in_quarantine() == rows
    assert departure.ground.contents("base", 5) == []
    record = departure.ground.record(5)
    assert done.cut
    assert (release_of(record).marker, release_of(record).lsn) == (done.cut.marker, done.cut.lsn)
    assert validation_of(record).marker == done.cut.marker
    with departure.ground.databases.session("base", "test") as base:
        assert read_quarantine(base).strangers == ()

    assert departure.retire(now=NOW + GRACE / 2).step is Step.QUARANTINED
    last = departure.retire(now=NOW + GRACE)
    assert (last.step, last.leaf) == (Step.DROPPED, None)
    assert last.bytes == done.bytes
    assert departure.ground.one("base", "SELECT count(*) FROM pg_class WHERE relname = %s", leaf(5)) == 0
    assert departure.retire(now=NOW + 2 * GRACE).step is Step.DROPPED
    assert departure.ground.attempts(5)[-2:] == [("retire", "succeeded")] * 2
    assert departure.state() is SliceState.RETIRED
    departure.ground.validate(6)
    departure.ground.validate(4)


def test_without_a_grace_period_all_of_it_happens_at_once(departure: Departure) -> None:
    reads: list[object] = []
    done = departure.retire(quarantine=timedelta(), reread=reads.append)
    assert (done.step, done.leaf) == (Step.DROPPED, None)
    assert done.bytes > 0
    assert len(reads) == 2


def test_everything_that_stands_in_the_way_is_said_at_once_and_nothing_changes(departure: Departure) -> None:
    departure.archive(7)
    departure.ground.run("base", "UPDATE migration.sign_offs SET note = 'edited'")
    departure.book(9001, 7)
    departure.ground.drain()
    with departure.ground.databases.session("base", "test") as base:
        record_reread(base, departure.archived(7).id, "a byte was flipped")
    said = departure.refusal(7, outside_retention="it is younger than 8 quarters", reread=_damaged)
    for part in (
        "the sign-off of FY25-Q2 is void",
        "it is younger than 8 quarters",
        "a byte was flipped",
        "1 row more than it; materialize parquet_archive again",
        "part-1.parquet has other bytes",
    ):
        assert part in said, said
    assert departure.ground.attempts(7)[-1] == ("retire", "failed")
    before, tries = departure.ground.base_state(), departure.ground.attempts(7)
    looked = departure.retire(7, dry_run=True, outside_retention=False, reread=_damaged)
    assert len(looked.obstacles) == 5
    assert looked.step is None
    assert (departure.ground.base_state(), departure.ground.attempts(7)) == (before, tries)


def test_a_dry_run_of_a_week_that_may_leave_changes_nothing(departure: Departure) -> None:
    before = departure.ground.base_state(), departure.ground.attempts(5), departure.ground.stream_record()
    looked = departure.retire(dry_run=True)
    assert looked.obstacles == ()
    assert looked.archive == departure.archived()
    assert (departure.ground.base_state(), departure.ground.attempts(5), departure.ground.stream_record()) == before
    assert departure.covered()


def test_a_week_that_was_never_archived_does_not_leave(departure: Departure) -> None:
    said = departure.refusal(8)
    assert "it is signed_off, not archived" in said
    assert "there is no archive of it" in said


def test_a_stream_that_a_person_holds_is_named_among_the_obstacles(departure: Departure) -> None:
    hold_stream(departure.ground.plan, "a test")
    assert "the change stream is held" in departure.refusal()


def test_a_late_booking_before_the_release_makes_the_archive_stale_and_archiving_anew_lets_the_week_go(
    departure: Departure,
) -> None:
    departure.book(9001)
    departure.ground.drain()
    assert "1 row more than it" in departure.refusal()
    departure.archive()
    assert departure.retire().step is Step.QUARANTINED
    assert len(departure.in_quarantine()) == 71


def test_a_changed_value_is_told_from_another_number_of_rows(departure: Departure) -> None:
    departure.ground.run("legacy", "UPDATE bookings SET note = 'x' WHERE id = (SELECT min(id) FROM bookings WHERE"
                         " booked_at >= '2024-04-29' AND booked_at < '2024-05-06')")  # fmt: skip
    departure.ground.drain()
    assert "as many rows (70) but other values than it" in departure.refusal()


def test_a_booking_on_the_legacy_after_the_release_stops_the_drop_and_comes_home(departure: Departure) -> None:
    departure.retire()
    assert late_bookings(departure.ground.plan) == []
    departure.book(9001)
    departure.book(9002, 4)  # a week that the stream covers is late in nothing
    departure.ground.drain()
    assert departure.ground.contents("base", 5) == []
    (late,) = late_bookings(departure.ground.plan, week(5).quarter)
    assert (late.week, late.rows) == (week(5), 1)
    assert str(late) == "FY25-Q2|W05: the legacy has 1 row more than the archive"
    said = departure.refusal(now=NOW + GRACE)
    assert "the legacy has 1 row more than the archive" in said
    assert "return the week into the root, materialize change_stream for FY25-Q2, then parquet_archive" in said
    assert departure.retire(now=NOW + GRACE, dry_run=True).obstacles
    assert departure.give_back().equal


def test_rows_that_were_changed_in_quarantine_are_not_dropped(
    departure: Departure, monkeypatch: pytest.MonkeyPatch
) -> None:
    departure.retire()
    departure.ground.run("base", "DELETE FROM migration_quarantine.bookings_fy25_q2_w05 WHERE guests = 1")
    assert "rows fewer than the archive" in departure.refusal(now=NOW + GRACE)
    (looked,) = departure.retire(now=NOW + GRACE, dry_run=True).obstacles
    assert "rows fewer than the archive: return the week" in looked
    # The last look, under the lock, sees what came after the first.
    monkeypatch.setattr(retirement, "obstacles_to_drop", _nothing)
    assert "rows fewer than the archive" in departure.refusal(now=NOW + GRACE)


@pytest.mark.parametrize("now", [NOW, NOW + GRACE])
def test_files_that_cannot_be_trusted_stop_the_way_out_wherever_it_is(departure: Departure, now: object) -> None:
    if now != NOW:
        departure.retire()
    said = departure.refusal(now=now, reread=_damaged)
    assert "its archive cannot be trusted: part-1.parquet has other bytes" in said


def test_a_write_into_the_root_until_the_detach_brings_the_week_back_with_every_row(
    departure: Departure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a base that is the system of record already: applications write through the root."""
    detach: Callable[..., None] = leaving.detach_leaf

    def written_before(*args: object, **more: object) -> None:
        departure.ground.run("base", "INSERT INTO bookings (id, booked_at) VALUES (9001, '2024-05-01')")
        detach(*args, **more)

    monkeypatch.setattr(leaving, "detach_leaf", written_before)
    with pytest.raises(RetirementError, match="1 row more than the archive") as caught:
        departure.retire()
    assert "in the root again, with every row" in str(caught.value)
    assert departure.state() is SliceState.ARCHIVED
    assert len(departure.ground.contents("base", 5)) == 71
    retirement = departure.retirement()
    assert retirement
    assert retirement.step is Step.RETURNED
    assert departure.ground.attempts(5)[-1] == ("retire", "failed")


def test_after_the_migration_was_abandoned_no_week_leaves_and_none_is_dropped(departure: Departure) -> None:
    departure.retire(6)
    departure.ground.run("base", "DELETE FROM migration.streams")
    for number, now in ((5, NOW), (6, NOW + GRACE)):
        said = departure.refusal(number, now=now)
        assert "the migration was abandoned: the legacy is in charge and no stream follows it" in said
    assert len(departure.in_quarantine(6)) == 70


def test_after_the_decommission_nothing_is_released_and_nobody_asks_the_legacy(departure: Departure) -> None:
    departure.ground.run(
        "base",
        "DELETE FROM migration.streams",
        "INSERT INTO migration.cutovers (relation, kind, rehearse, approved_by, opened_at, outcome, state)"
        " VALUES ('public.bookings', 'cutover', false, 'Ada', now(), 'succeeded', 'done')",
        "INSERT INTO migration.decommissions (relation, cutover, approved_by, scope, state)"
        " SELECT relation, id, 'Ada', 'table', 'done' FROM migration.cutovers",
    )
    nowhere = Databases("postgresql://127.0.0.1:1/nowhere", departure.ground.databases.base_url)
    departure = Departure(replace(departure.ground, databases=nowhere))
    done = departure.retire()
    assert (done.step, done.cut) == (Step.QUARANTINED, None)
    # A stream that begins now does not take it for covered.
    departure.give_back()
    assert not departure.ground.record(5).under_cdc


def test_a_stream_that_does_not_run_keeps_the_week_covered(departure: Departure) -> None:
    before = departure.ground.stream_record()
    departure.ground.run("base", "DO $$ BEGIN EXECUTE format('ALTER SUBSCRIPTION %I DISABLE',"
                         " (SELECT subscription FROM migration.streams)); END $$")  # fmt: skip
    with pytest.raises(StreamError, match="disabled by hand"):
        departure.retire(reread=trust)
    assert departure.ground.record(5).under_cdc
    assert departure.ground.stream_record() == before
