"""Weeks leave and come back while the base is in charge: nothing of that travels, and a rollback still finds all."""

from dataclasses import replace
from datetime import timedelta

import pytest

from migration_assets.cutover.observing import look_at_reverse
from migration_assets.domain.errors import SliceStateError
from migration_assets.domain.states import SliceState
from migration_assets.ledger.retirements import Step
from migration_assets.retirement.checks import late_bookings
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.ground import wait_for
from migration_assets_tests.retirement.signed_off_quarter import GRACE, NOW, Departure, sign

_REVERSE = (
    "DO $$ BEGIN EXECUTE format('ALTER SUBSCRIPTION %I {}', (SELECT subname FROM pg_subscription"
    " WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()))); END $$"
)


@pytest.fixture
def departure(ground: CutoverGround) -> Departure:
    """Signed off, two weeks archived, and cut over."""
    ground.reconcile()
    sign(ground.databases)
    departure = Departure(ground)
    departure.archive(5)
    departure.archive(6)
    ground.cut()
    return departure


def cutover_ground(departure: Departure) -> CutoverGround:
    assert isinstance(departure.ground, CutoverGround)
    return departure.ground


def followed(departure: Departure) -> None:
    """What is written to the base arrives on the legacy."""
    ground = cutover_ground(departure)
    key = ground.insert("base", "2024-04-10 12:00+00")
    wait_for(lambda: ground.one("legacy", "SELECT count(*) FROM bookings WHERE id = %s", key), "it arrives")
    health = look_at_reverse(ground.cutover_plan())
    assert health is not None
    assert health.healthy


@pytest.mark.long
def test_a_week_that_leaves_stays_on_the_legacy_and_a_rollback_is_exact(departure: Departure) -> None:
    ground = cutover_ground(departure)
    rows = ground.contents("legacy", 5)
    assert departure.retire(dry_run=True).obstacles == ()
    done = departure.retire(quarantine=timedelta())
    assert (done.step, done.cut) == (Step.DROPPED, None)
    departure.retire(6)
    followed(departure)
    assert ground.contents("base", 5) == []
    assert ground.contents("legacy", 5) == rows
    assert late_bookings(ground.plan) == []
    assert ground.back().outcome == "succeeded"
    assert ground.contents("legacy", 5) == rows
    assert late_bookings(ground.plan) == []
    # The rebuilt stream does not bring back what has left.
    departure.book(9001)
    departure.book(9002, 4)
    ground.drain()
    assert ground.contents("base", 5) == []
    assert len(ground.contents("base", 4)) == 71
    assert [str(late) for late in late_bookings(ground.plan)] == [
        "FY25-Q2|W05: the legacy has 1 row more than the archive"
    ]
    # What lies in quarantine comes home, and joins, and leaves once more: now with a cut.
    assert departure.give_back(6).equal
    assert not ground.record(6).under_cdc
    ground.stream()
    assert departure.retire(6).cut is not None


@pytest.mark.long
def test_a_week_that_changed_on_the_base_is_archived_anew_and_leaves(departure: Departure) -> None:
    ground = cutover_ground(departure)
    ground.run("base", "UPDATE bookings_fy25_q2_w05 SET guests = 55", "DELETE FROM bookings_fy25_q2_w05 WHERE id = 31")
    said = departure.refusal()
    assert "its archive is stale" in said
    assert "since the change stream let go" not in said
    departure.archive()
    assert departure.retire(quarantine=timedelta()).step is Step.DROPPED
    assert ground.one("legacy", "SELECT count(*) FROM bookings WHERE guests = 55") == 69
    assert ground.back().outcome == "succeeded"
    assert late_bookings(ground.plan) == []


@pytest.mark.long
def test_a_week_leaves_only_when_the_legacy_has_what_left_before_it(departure: Departure) -> None:
    ground = cutover_ground(departure)
    ground.run("legacy", _REVERSE.replace("{}", "DISABLE"))
    ground.run("base", "UPDATE bookings_fy25_q2_w05 SET guests = 55")
    departure.archive()
    said = departure.impatient(0.5).refusal()
    assert "the reverse stream carried nothing to the legacy for 0.5 s: its rows stay in the base" in said
    ground.run("legacy", _REVERSE.replace("{}", "ENABLE"))
    assert departure.retire(quarantine=timedelta()).step is Step.DROPPED
    assert ground.one("legacy", "SELECT count(*) FROM bookings WHERE guests = 55") == 70


@pytest.mark.long
def test_a_legacy_that_was_changed_by_hand_keeps_the_week_in_the_base_until_it_is_decommissioned(
    departure: Departure,
) -> None:
    ground = cutover_ground(departure)
    departure.retire(6)
    by_hand = "INSERT INTO bookings (id, booked_at) VALUES ({})"
    ground.as_we("legacy", by_hand.replace("{}", "9001, '2024-05-01'"), by_hand.replace("{}", "9002, '2024-05-08'"))
    for number, now in ((5, NOW), (6, NOW + GRACE)):
        said = departure.refusal(number, now=now)
        assert "the legacy, which a rollback would go back to, has 1 row more than the archive" in said
    nowhere = replace(ground, databases=replace(ground.databases, legacy_url="postgresql://127.0.0.1:1/nowhere"))
    alone = Departure(nowhere)
    assert "the legacy cannot be asked what it holds" in alone.refusal(5)
    ground.run(
        "base",
        "INSERT INTO migration.decommissions (relation, cutover, approved_by, scope, state)"
        " SELECT relation, id, 'Ada', 'table', 'done' FROM migration.cutovers",
    )
    assert alone.retire(5).step is Step.QUARANTINED
    assert alone.retire(6, now=NOW + GRACE).step is Step.DROPPED


def test_a_sign_off_is_not_asked_for_but_one_that_was_edited_is_no_matter_of_course(departure: Departure) -> None:
    ground = cutover_ground(departure)
    ground.run("base", "UPDATE migration.slices SET state = 'validated' WHERE week = 'W09'")
    assert departure.retire(dry_run=True).obstacles == ()
    ground.run("base", "UPDATE migration.sign_offs SET note = 'edited'")
    assert "the sign-off of FY25-Q2 is void" in departure.refusal()
    ground.run("base", "DELETE FROM migration.sign_offs")
    assert departure.retire().step is Step.QUARANTINED


@pytest.mark.long
def test_what_comes_back_is_not_sent_and_what_is_written_to_it_is(departure: Departure) -> None:
    ground = cutover_ground(departure)
    departure.retire()
    assert departure.give_back().equal
    followed(departure)
    assert len(ground.contents("legacy", 5)) == 70
    ground.run("base", "UPDATE bookings_fy25_q2_w05 SET guests = 77")
    followed(departure)
    assert ground.one("legacy", "SELECT count(*) FROM bookings WHERE guests = 77") == 70
    assert ground.back().outcome == "succeeded"
    assert ground.record(5).under_cdc
    assert ground.record(5).state is SliceState.ARCHIVED
    ground.assert_same()


@pytest.mark.long
def test_a_leaf_that_comes_back_and_differs_from_the_legacy_stops_the_rollback(departure: Departure) -> None:
    ground = cutover_ground(departure)
    departure.retire()
    departure.give_back()
    ground.as_we("legacy", "DELETE FROM bookings WHERE id = 31")
    with pytest.raises(Exception, match=r"FY25-Q2\|W05 \(archived, not under CDC\): 0 missing, 1 extra"):
        ground.back()
    assert ground.charge() == "base"


def test_only_while_the_base_is_in_charge_a_week_is_archived_unsigned(ground: CutoverGround) -> None:
    with pytest.raises(SliceStateError):
        Departure(ground).archive(5)
    assert ground.record(5).state is SliceState.STREAMING
