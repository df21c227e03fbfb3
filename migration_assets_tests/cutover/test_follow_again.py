"""After a rollback the base follows from where both sides stood still; where it cannot, every week is trued up."""

from collections.abc import Callable

import psycopg
import pytest

from migration_assets.cutover import forward, machine
from migration_assets.cutover.work import Work
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.domain.states import CutoverError, CutoverState
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.cutover.test_time_under_hold import at
from migration_assets_tests.ground import wait_for


def true_ups(ground: CutoverGround) -> int:
    return int(ground.one("base", "SELECT count(*) FROM migration.attempts WHERE action = 'join'"))


def legacy_slots(ground: CutoverGround) -> int:
    return int(ground.one("legacy", "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"))


def states(ground: CutoverGround) -> dict[str, int]:
    return dict(ground.ask("base", "SELECT state, count(*) FROM migration.slices GROUP BY state"))


def follows(ground: CutoverGround) -> None:
    """Everything that was written on either side is on both, and what comes next arrives by itself."""
    key = ground.insert("legacy")
    wait_for(lambda: ground.one("base", "SELECT count(*) FROM bookings WHERE id = %s", key) == 1, "the base follows")
    ground.equal()


def busy(ground: CutoverGround) -> None:
    ground.run("base", "UPDATE bookings SET guests = guests + 1 WHERE id % 3 = 0", "DELETE FROM bookings WHERE id = 50")
    ground.insert("base")


def test_nothing_is_trued_up_and_what_was_signed_stays_signed(ground: CutoverGround) -> None:
    ground.run("base", "UPDATE migration.slices SET state = 'signed_off'")
    ground.cut()
    busy(ground)
    before = true_ups(ground)
    ground.back()
    assert true_ups(ground) == before
    assert states(ground) == {"signed_off": 13}
    assert legacy_slots(ground) == 1
    follows(ground)
    for number in (1, 5, 13):
        ground.validate(number)


@pytest.mark.long
def test_what_the_base_wrote_while_the_slot_was_there_already_is_not_sent_back(
    ground: CutoverGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.cut()
    before = true_ups(ground)
    at(monkeypatch, CutoverState.WAITING, lambda _: busy(ground))
    at(monkeypatch, CutoverState.HELD, lambda _: busy(ground))
    ground.back()
    assert true_ups(ground) == before
    follows(ground)
    # The view shows the subscriptions of every database of the server, and other tests' are there as well.
    errors = (
        "SELECT sum(t.apply_error_count) FROM pg_stat_subscription_stats t JOIN pg_subscription p ON p.oid = t.subid"
        " WHERE p.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    assert ground.one("base", errors) == 0


@pytest.mark.long
def test_a_quarter_that_was_born_in_the_base_is_followed_too_and_without_a_true_up(ground: CutoverGround) -> None:
    ground.cut()
    ground.open(FiscalQuarter(2025, 3))
    for _ in range(3):
        ground.insert("base", "2024-07-15 12:00+00")
    before = true_ups(ground)
    ground.back()
    assert true_ups(ground) == before
    assert sum(states(ground).values()) == 26
    assert "absent" not in states(ground)
    key = ground.insert("legacy", "2024-08-15 12:00+00")
    wait_for(lambda: ground.one("base", "SELECT count(*) FROM bookings WHERE id = %s", key) == 1, "it is followed")
    follows(ground)


@pytest.mark.long
def test_a_transaction_that_keeps_the_slot_from_beginning_does_not_keep_the_rollback(
    ground: CutoverGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "SLOT_SECONDS", 0.5)
    ground.cut()
    busy(ground)
    ground.run("legacy", "CREATE TABLE other (id int)")
    before = true_ups(ground)
    with psycopg.connect(ground.databases.legacy_url) as stranger:
        stranger.execute("INSERT INTO other VALUES (1)")

        def end(_: Work) -> None:
            stranger.rollback()

        # Else the rebuild would wait for it as well.
        at(monkeypatch, CutoverState.COMPARED, end)
        ground.back()
    assert true_ups(ground) == before + 13
    follows(ground)


def _lost_proofs(work: Work) -> None:
    work.unfollowed.clear()


def _lost_slot(work: Work) -> None:
    work.legacy.execute("SELECT pg_drop_replication_slot(%s)", [work.forward.slot])


@pytest.mark.long
@pytest.mark.parametrize("lost", [_lost_proofs, _lost_slot])
def test_what_a_dead_process_knew_is_found_anew_by_a_rebuild(
    ground: CutoverGround, monkeypatch: pytest.MonkeyPatch, lost: Callable[[Work], None]
) -> None:
    ground.cut()
    ground.open(FiscalQuarter(2025, 3))
    ground.insert("base", "2024-07-15 12:00+00")
    before = true_ups(ground)
    follow_again = machine.follow_again

    def after_a_loss(work: Work) -> bool:
        lost(work)
        return follow_again(work)

    monkeypatch.setattr(machine, "follow_again", after_a_loss)
    ground.back()
    assert true_ups(ground) == before + 26
    follows(ground)


@pytest.mark.long
def test_a_rollback_that_is_undone_leaves_no_slot_behind(
    ground: CutoverGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: Work) -> None:
        raise CutoverError("enough", next_step="nothing")

    ground.cut()
    busy(ground)
    with monkeypatch.context() as patched:
        at(patched, CutoverState.SEQUENCES, stop)
        with pytest.raises(CutoverError, match="enough"):
            ground.back()
    assert ground.charge() == "base"
    assert legacy_slots(ground) == 0
    ground.insert("base")
    ground.back()
    follows(ground)
