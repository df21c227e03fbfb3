"""What was acknowledged before the hold: every row is in a week that was compared, or stops the cutover by name."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import LiteralString

import pytest

from migration_assets.cutover.accounting import look_again, weeks_of
from migration_assets.cutover.left_weeks import AsFound
from migration_assets.cutover.legacy_writing import repair_outside
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.samples import ProblemCode, StreamSample
from migration_assets.domain.states import CutoverError, CutoverState
from migration_assets.domain.stream_view import View
from migration_assets.domain.stream_watch import evaluate
from migration_assets.ledger.archives import ArchiveRecord
from migration_assets.watch.look import Ahead, LookLimits, observe_stream
from migration_assets_tests.cutover.ground import Before, CutoverGround, past_the_hold
from migration_assets_tests.cutover.ordeal import settle_down
from migration_assets_tests.ground import CALENDAR, FiscalQuarter
from migration_assets_tests.retirement.signed_off_quarter import Departure, sign

_INSERT = "INSERT INTO bookings (id, booked_at) VALUES (9001, '{}')"
# What is acknowledged, what the cutover says of it, and what takes it back.
OUTSIDE: dict[str, tuple[LiteralString, str, LiteralString]] = {
    "beyond": (_INSERT.replace("{}", "2031-05-01"), r"1 row beyond the last week \(2025-01-01", "id = 9001"),
    "before": (_INSERT.replace("{}", "1999-05-01"), r"1 row before the first week \(2024-04-01", "id = 9001"),
    "gap": (_INSERT.replace("{}", "2024-08-01"), r"1 row between two weeks \(2024-07-01.* to 2024-10-01", "id = 9001"),
    "infinite": (_INSERT.replace("{}", "infinity"), r"1 row with an infinite time", "id = 9001"),
    "moved out": (
        "UPDATE bookings SET booked_at = '2031-05-01' WHERE id IN (31, 32)",
        r"2 rows beyond the last week .*open their quarters",
        "id IN (31, 32)",
    ),
}


def refused(ground: CutoverGround, said: str, *, at: str = "compared", **plan: bool) -> CutoverError:
    with pytest.raises(CutoverError, match=rf"(?s)stopped at {at}: .*{said}") as caught:
        ground.cut(**plan)
    assert "writes go on on the legacy" in str(caught.value)
    assert ground.charge() == "legacy"
    assert ground.watch() is None
    return caught.value


@pytest.mark.long
@pytest.mark.parametrize("kinds", [("gap",), ("beyond", "before", "infinite", "moved out")])
def test_a_row_that_no_week_has_stops_the_cutover_however_late_it_came(
    ground: CutoverGround, before: Before, kinds: tuple[str, ...]
) -> None:
    ground.open(FiscalQuarter(2025, 4))  # ahead, with a gap before it
    for number, kind in enumerate(kinds):
        write, said, where = OUTSIDE[kind]
        before(CutoverState.HELD, lambda write=write: ground.run("legacy", write))
        refused(ground, said, compare_all=bool(number % 2))
        ground.run("legacy", "DELETE FROM bookings WHERE " + where)
        before(CutoverState.HELD, lambda: None)
    # Seen before anybody is held, where it was there by then.
    write, said, where = OUTSIDE["beyond"]
    before(CutoverState.WAITING, lambda: ground.run("legacy", write))
    refused(ground, said, at="waiting")
    before(CutoverState.WAITING, lambda: None)
    refused(ground, said, at="begun")
    assert ground.records()[-1].held_at is None
    ground.run("legacy", "DELETE FROM bookings WHERE id = 9001")
    # A table that somebody hung into the base's root belongs to no week either.
    ground.run(
        "base",
        "CREATE TABLE by_hand PARTITION OF bookings FOR VALUES FROM ('2031-01-01') TO ('2032-01-01')",
        "INSERT INTO bookings (id, booked_at) VALUES (9002, '2031-05-01')",
    )
    refused(ground, r"1 row beyond the last week .* on the base \(public.by_hand\)", at="begun")
    ground.run("base", "ALTER TABLE bookings DETACH PARTITION by_hand")
    assert ground.cut(compare_all=False).outcome == "succeeded"
    ground.insert("base")
    settle_down(ground)
    ground.equal()


@pytest.mark.long
def test_a_week_that_left_is_compared_with_its_archive_however_late_it_changed(
    ground: CutoverGround, before: Before
) -> None:
    ground.reconcile()
    sign(ground.databases)
    departure = Departure(ground)
    departure.archive(5)
    departure.retire(5)
    judged_by_the_archive_in_force(ground)
    changes: list[tuple[LiteralString, str, LiteralString]] = [
        (
            "UPDATE bookings SET guests = guests + 70 WHERE id = 31",
            r"W05: the legacy has as many rows \(70\) but other values than the archive",
            "UPDATE bookings SET guests = guests - 70 WHERE id = 31",
        ),
        (
            "UPDATE bookings SET booked_at = booked_at + interval '1 day' WHERE id = 27",
            "W05: the legacy has 1 row more than the archive",
            "UPDATE bookings SET booked_at = booked_at - interval '1 day' WHERE id = 27",
        ),
    ]
    for number, (change, said, back) in enumerate(changes):
        before(CutoverState.HELD, lambda change=change: ground.run("legacy", change))
        error = refused(ground, said, compare_all=bool(number % 2))
        assert "return the week into the root, materialize change_stream for FY25-Q2" in error.next_step
        ground.run("legacy", back)
        # A new version of a row with the old values is no change.
        before(CutoverState.HELD, lambda: ground.run("legacy", "UPDATE bookings SET guests = guests WHERE id = 30"))
        assert ground.cut(rehearse=True, compare_all=bool(number % 2)).outcome == "rehearsed"
    before(CutoverState.HELD, lambda: None)
    # And the watch tells of it from the gate on, without a cutover.
    assert outside(ground) == ()
    ground.run("legacy", changes[0][0])
    assert outside(ground) == ("FY25-Q2|W05: the legacy has as many rows (70) but other values than the archive",)
    ground.run("legacy", changes[0][2], _INSERT.replace("{}", "2031-05-01"))
    found = outside(ground)
    assert found is not None
    assert [text.partition(" (")[0] for text in found] == ["1 row beyond the last week"]
    ground.run("base", "DELETE FROM migration.accounted")
    assert outside(ground) is None, "before the gate most of the table may be nowhere yet"
    ground.run("legacy", "DELETE FROM bookings WHERE id = 9001")
    assert ground.cut().outcome == "succeeded"


def judged_by_the_archive_in_force(ground: CutoverGround) -> None:
    """What was read of a week stays; what its archive says is asked anew."""
    plan = ground.cutover_plan()
    with ground.databases.session("base", "test") as base, ground.databases.session("legacy", "test") as legacy:
        weeks = weeks_of(base, plan)
        [left] = weeks.left
        assert left.archive is not None

        def wrong(archive: ArchiveRecord | None, before: Mapping[int, AsFound]) -> str | None:
            now = replace(weeks, left=(replace(left, archive=archive),))
            found, _ = look_again(legacy, plan, now, before, before_each=lambda: None)
            [one] = found.values()
            return one.wrong

        before, _ = look_again(legacy, plan, weeks, {}, before_each=lambda: None)
        assert wrong(left.archive, before) is None
        anew = replace(left.archive, id=left.archive.id + 1, native=Fingerprint(70, 1, 1))
        assert "other values than the archive" in (wrong(anew, before) or "")
        assert "without an archive, and the legacy has 70 rows of it" in (wrong(None, before) or "")
        assert "fingerprinted by method 0" in (wrong(replace(left.archive, method="0"), {}) or "")


def outside(ground: CutoverGround) -> tuple[str, ...] | None:
    """What a look of the watch says of rows that no open week can take."""
    ahead = Ahead(CALENDAR, datetime(2024, 5, 1, tzinfo=UTC))
    sample = observe_stream(ground.databases, ground.spec, LookLimits(), ahead)
    problems = {one.code: one for one in evaluate(View(sample)).problems}
    assert (ProblemCode.ROWS_OUTSIDE in problems) == bool(sample.outside)
    assert StreamSample.from_json(sample.to_json()) == sample
    return sample.outside


@pytest.mark.long
def test_a_rollback_leaves_no_row_behind_either(ground: CutoverGround, before: Before) -> None:
    ground.reconcile()
    sign(ground.databases)
    departure = Departure(ground)
    departure.archive(5)
    departure.retire(5)
    ground.cut()

    def stays(said: str, *, at: str = "compared", **plan: object) -> CutoverError:
        with pytest.raises(CutoverError, match=rf"(?s)stopped at {at}: .*{said}") as caught:
            ground.back(**plan)
        assert "writes go on on the base" in str(caught.value)
        assert ground.charge() == "base"
        return caught.value

    # Somebody who passes the hold changes a week that left.
    before(CutoverState.HELD, lambda: past_the_hold(ground, "UPDATE bookings SET guests = 77 WHERE id = 31"))
    stays(r"W05: the legacy has as many rows \(70\) but other values", compare_all=False)
    before(CutoverState.HELD, lambda: None)
    past_the_hold(ground, "UPDATE bookings SET guests = 3 WHERE id = 31")
    # A partition made by hand: its rows travel to the legacy, and no week is theirs on either side.
    ground.run("base", "CREATE TABLE by_hand PARTITION OF bookings FOR VALUES FROM ('2031-01-01') TO ('2032-01-01')")
    key = ground.insert("base", "2031-05-01")
    error = stays(r"1 row beyond the last week .* on the base \(public.by_hand\)", at="begun")
    assert "keep its rows aside (CREATE TABLE … AS TABLE public.by_hand)" in error.next_step
    # Nor are they taken off the legacy while the base has them.
    with pytest.raises(CutoverError, match=r"1 row beyond the last week .* on the base \(public.by_hand\)"):
        repair_outside(ground.cutover_plan(), dry_run=False)
    ground.run("base", "CREATE TABLE aside AS TABLE by_hand", "DELETE FROM by_hand", "DROP TABLE by_hand")
    ground.open(CALENDAR.quarter_of(datetime(2031, 5, 1, tzinfo=UTC)))
    ground.run("base", "INSERT INTO bookings SELECT * FROM aside")
    assert ground.back().outcome == "succeeded"
    assert ground.one("legacy", "SELECT count(*) FROM bookings WHERE id = %s", key) == 1
