"""A cutover, a rehearsal and a rollback on a quiet table: who accepts writes, what travels, what keys are given."""

import psycopg
import pytest
from psycopg import errors

from migration_assets.cutover.observing import look_at_reverse
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.domain.states import BaseInChargeError, CutoverError, CutoverState, SideName
from migration_assets.ledger.stream import StreamStatus
from migration_assets.stream.holding import continue_stream
from migration_assets_tests.cutover.ground import SIDES, Before, CutoverGround, noted
from migration_assets_tests.cutover.ordeal import settle_down
from migration_assets_tests.freezes import patience
from migration_assets_tests.ground import wait_for


def refused(ground: CutoverGround, side: SideName) -> bool:
    try:
        with psycopg.connect(ground.databases.url(side)) as connection:
            connection.execute("UPDATE bookings SET guests = guests WHERE id = 1")
    except errors.ReadOnlySqlTransaction as error:
        return "release-writes" in str(error.diag.message_hint)
    return False


def arrived(ground: CutoverGround, side: SideName, key: int) -> bool:
    return bool(ground.one(side, "SELECT count(*) FROM bookings WHERE id = %s", key))


def test_after_a_cutover_the_base_accepts_writes_the_legacy_refuses_them_and_follows(ground: CutoverGround) -> None:
    told: list[SideName] = []
    record = ground.cut(switch=noted(told))
    assert (record.state, record.outcome, told, ground.charge()) == ("done", "succeeded", ["base"], "base")
    assert record.downtime_ms is not None
    assert 0 < record.downtime_ms < patience(20_000)
    assert record.compared_rows == 910
    assert set(record.timeline) == {
        "begun", "waiting", "held", "drained", "compared", "sequences", "reversed", "open", "switched", "done"
    }  # fmt: skip
    assert refused(ground, "legacy")
    assert not refused(ground, "base")
    assert ground.watch() is None
    key = ground.insert("base")
    assert key > 910
    ground.run("base", "UPDATE bookings SET booked_at = booked_at + interval '14 days' WHERE id = 7")
    ground.run("base", "UPDATE bookings SET id = 100007 WHERE id = 8")
    ground.run("base", "DELETE FROM bookings WHERE id = 9")
    last = ground.insert("base")
    wait_for(lambda: arrived(ground, "legacy", last), "the reverse stream brings it")
    ground.equal()


def test_what_cannot_travel_as_bytes_goes_back_as_text(ground: CutoverGround) -> None:
    """Where a value is refused in its binary form, a reverse stream that is binary stands at it for ever."""
    for side in SIDES:
        ground.run(side, "ALTER TABLE bookings ADD COLUMN sought tsquery")
    ground.cut()
    ground.run("base", "UPDATE bookings SET sought = '' WHERE id = 7")
    settle_down(ground)
    assert ground.one("legacy", "SELECT sought::text FROM bookings WHERE id = 7") == ""
    ground.equal()


def test_after_a_rollback_the_legacy_has_everything_and_the_base_follows_again(ground: CutoverGround) -> None:
    ground.cut()
    keys = [ground.insert("base") for _ in range(5)]
    told: list[SideName] = []
    record = ground.back(switch=noted(told))
    assert (record.state, record.outcome, record.error, told) == ("done", "succeeded", None, ["legacy"])
    assert ground.charge() == "legacy"
    assert all(arrived(ground, "legacy", key) for key in keys)
    key = ground.insert("legacy")
    assert key > max(keys)
    assert refused(ground, "base")
    ground.assert_same()
    assert ground.stream_record().status is StreamStatus.LIVE
    ground.validate(3)
    assert ground.one("base", "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == 0
    again = ground.cut()
    assert again.outcome == "succeeded"
    assert ground.insert("base") > key


def test_a_rehearsal_ends_where_it_began(ground: CutoverGround) -> None:
    told: list[SideName] = []
    before = ground.contents("legacy")
    record = ground.cut(rehearse=True, switch=noted(told))
    assert (record.state, record.outcome, told, ground.charge()) == ("undone", "rehearsed", [], "legacy")
    assert record.opened_at is None
    assert record.downtime_ms
    assert "open" not in record.timeline
    assert not refused(ground, "legacy")
    assert not refused(ground, "base")
    assert ground.contents("legacy") == before
    ground.insert("legacy")
    ground.assert_same()
    assert ground.stream_record().status is StreamStatus.LIVE
    assert ground.one("base", "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == 0
    assert ground.cut().outcome == "succeeded"


def test_values_stored_out_of_line_survive_changes_on_the_base(ground: CutoverGround) -> None:
    big = "UPDATE bookings SET note = (SELECT string_agg(md5(n::text || {0}::text), '') FROM generate_series(1, 400) n)"
    ground.run(
        "legacy", "ALTER TABLE bookings ALTER note SET STORAGE EXTERNAL", big.replace("{0}", "id") + " WHERE id < 20"
    )
    ground.cut()
    ground.run("base", "UPDATE bookings SET guests = 99 WHERE id IN (1, 2)")
    ground.run("base", "UPDATE bookings SET booked_at = booked_at + interval '21 days' WHERE id IN (3, 4)")
    ground.run("base", "UPDATE bookings SET booked_at = booked_at + interval '1 minute' WHERE id IN (5, 6)")
    last = ground.insert("base")
    wait_for(lambda: arrived(ground, "legacy", last), "the reverse stream brings it")
    assert ground.one("legacy", "SELECT min(length(note)) FROM bookings WHERE id < 20") == 12800
    ground.equal()


def test_while_the_base_is_in_charge_nobody_lets_the_old_stream_go_on(ground: CutoverGround) -> None:
    ground.cut()
    for step in (lambda: continue_stream(ground.plan), lambda: ground.stream(rebuild=True), lambda: ground.validate(2)):
        with pytest.raises(BaseInChargeError, match=r"the base is in charge since .* nothing flows from the legacy"):
            step()
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        ground.run("base", "UPDATE migration.streams SET status = 'live'")
    with pytest.raises(CutoverError, match="in charge already"):
        ground.cut()
    assert ground.stream_record().status is StreamStatus.HELD
    ground.back()
    ground.assert_same()


def test_a_rollback_without_a_cutover_is_refused(ground: CutoverGround) -> None:
    with pytest.raises(CutoverError, match="legacy is in charge"):
        ground.back()
    assert not refused(ground, "legacy")


@pytest.mark.long
def test_a_quarter_that_opens_after_the_cutover_travels_back_too(ground: CutoverGround) -> None:
    ground.cut()
    ground.open(FiscalQuarter(2025, 3))
    key = ground.insert("base", "2024-07-15 12:00+00")
    wait_for(lambda: arrived(ground, "legacy", key), "the reverse stream brings it")
    assert ground.back().outcome == "succeeded"
    ground.equal()


def test_keys_that_applications_chose_beyond_the_sequence_are_not_given_again(ground: CutoverGround) -> None:
    ground.run("legacy", "INSERT INTO bookings (id, booked_at) VALUES (5000, '2024-05-05')")
    ground.cut()
    assert ground.insert("base") > 5000 + 99
    ground.run("base", "INSERT INTO bookings (id, booked_at) VALUES (9000, '2024-05-05')")
    ground.back()
    assert ground.insert("legacy") > 9000 + 99


def test_a_base_that_never_accepted_writes_before_a_rollback_refuses_stale_clients_after_it(
    ground: CutoverGround,
) -> None:
    ground.cut()
    ground.back()
    assert refused(ground, "base")
    ground.as_we("base", "UPDATE bookings_fy25_q2_w03 SET guests = 77 WHERE id = 2 OR id = 15")
    ground.repair(3)
    ground.assert_same()


def test_only_changed_weeks_are_compared_where_the_settings_say_so(ground: CutoverGround, before: Before) -> None:
    ground.reconcile()
    change = "UPDATE bookings SET guests = 9 WHERE booked_at >= '2024-04-08' AND booked_at < '2024-04-15'"
    # What changed earlier may be validated once more before that.
    before(CutoverState.WAITING, lambda: ground.run("legacy", change))
    assert ground.cut(compare_all=False).compared_weeks == 1


def test_a_changed_week_that_differs_is_found_without_comparing_all(ground: CutoverGround) -> None:
    ground.reconcile()
    ground.run("base", "UPDATE bookings_fy25_q2_w04 SET guests = 55")
    with pytest.raises(CutoverError, match="W04"):
        ground.cut(compare_all=False)


@pytest.mark.long
def test_a_reverse_stream_that_cannot_apply_is_seen_and_stops_a_rollback_before_anything_is_lost(
    ground: CutoverGround,
) -> None:
    assert look_at_reverse(ground.cutover_plan()) is None
    ground.cut()
    health = look_at_reverse(ground.cutover_plan())
    assert health is not None
    assert health.healthy
    # The base's key has the control column in it, the legacy's has not.
    ground.run("base", "INSERT INTO bookings (id, booked_at) VALUES (1, '2024-06-20')")
    health = look_at_reverse(ground.cutover_plan(lag_seconds=1.0))
    assert health is not None
    assert (health.healthy, health.arrives) == (False, False)
    with pytest.raises(CutoverError, match=r"stopped at waiting: .*the lag stayed"):
        ground.back(patience_seconds=1.0, lag_seconds=1.0)
    assert ground.watch() is None
    ground.insert("base")


def test_every_kind_of_write_is_refused_and_reads_go_on(ground: CutoverGround) -> None:
    ground.cut()
    writes = (
        "INSERT INTO bookings (booked_at) VALUES ('2024-05-05')",
        "DELETE FROM bookings WHERE id = 1",
        "TRUNCATE bookings",
        "MERGE INTO bookings b USING (VALUES (1)) v (id) ON b.id = v.id WHEN MATCHED THEN DELETE",
        "WITH gone AS (DELETE FROM bookings RETURNING id) SELECT count(*) FROM gone",
    )
    with psycopg.connect(ground.databases.legacy_url, autocommit=True) as connection:
        for write in writes:
            # The guard against TRUNCATE, which is older, says it in its own words.
            with pytest.raises((errors.ReadOnlySqlTransaction, errors.RaiseException)):
                connection.execute(write)
        copying = connection.cursor().copy("COPY bookings (booked_at) FROM STDIN")
        with pytest.raises(errors.ReadOnlySqlTransaction), copying as copy:
            copy.write("2024-05-05\n")
    assert ground.one("legacy", "SELECT count(*) FROM bookings") == 910
