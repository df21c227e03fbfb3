"""Weeks leave the change stream at a cut: exactly, with the intent first, and always able to come back."""

from collections.abc import Callable, Generator
from typing import Any

import psycopg
import pytest

from migration_assets.domain.errors import CutError, RetirementError
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.domain.states import SliceState
from migration_assets.ledger.retirements import Step
from migration_assets.retirement import leaving
from migration_assets.retirement import leaving as retirement
from migration_assets.retirement.checks import late_bookings
from migration_assets.stream import releasing
from migration_assets_tests.clones import Clones
from migration_assets_tests.ground import QUARTER, release_of, week
from migration_assets_tests.retirement.signed_off_quarter import Departure

OTHER = FiscalQuarter(2025, 1)


@pytest.fixture
def departure(clones: Clones) -> Generator[Departure]:
    with Departure.copied(clones, 5, 6) as departure:
        yield departure


def _before(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, deed: Callable[[], object]) -> None:
    """From now on `deed` comes before every call of the function, which the product itself makes."""
    original = getattr(module, name)

    def call(*args: Any, **more: Any) -> Any:
        deed()
        return original(*args, **more)

    monkeypatch.setattr(module, name, call)


def _die() -> None:
    raise KeyboardInterrupt


def _killed_in_the_ledgers_transaction(departure: Departure, monkeypatch: pytest.MonkeyPatch) -> None:
    """The legacy has committed the narrower filter, and the ledger does not know it."""
    with monkeypatch.context() as patch:
        _before(patch, releasing, "_note", _die)
        with pytest.raises(KeyboardInterrupt):
            departure.retire()


@pytest.mark.long
def test_a_released_week_gets_nothing_more_and_all_others_get_everything(departure: Departure) -> None:
    departure.retire()
    departure.give_back()
    assert not departure.covered()
    assert all(departure.covered(number) for number in (1, 4, 6, 13))
    assert departure.drifts() == []
    record = departure.ground.record(5)
    assert release_of(record).at
    assert not record.under_cdc


def test_a_release_that_died_behind_the_legacys_commit_is_no_alarm_and_is_finished_by_the_same_call(
    departure: Departure, monkeypatch: pytest.MonkeyPatch
) -> None:
    _killed_in_the_ledgers_transaction(departure, monkeypatch)
    record = departure.ground.record(5)
    assert (record.state, record.under_cdc, release_of(record).marker) == (SliceState.ARCHIVED, False, None)
    assert departure.drifts() == []
    assert departure.covered(6)
    departure.archive(6)
    done = departure.retire()
    assert done.cut
    assert release_of(departure.ground.record(5)).marker == done.cut.marker
    assert departure.drifts() == []
    assert departure.ground.stream_record().row_filter


def test_a_booking_behind_a_release_that_died_is_noticed_and_comes_home_by_the_stream(
    departure: Departure, monkeypatch: pytest.MonkeyPatch
) -> None:
    _killed_in_the_ledgers_transaction(departure, monkeypatch)
    departure.book(9001)
    departure.ground.drain()
    assert [late.rows for late in late_bookings(departure.ground.plan)] == [1]
    assert "materialize change_stream for FY25-Q2, then parquet_archive again" in departure.refusal()
    departure.take_in()
    assert departure.ground.record(5).under_cdc
    departure.ground.assert_same()
    assert departure.retire().step is Step.QUARANTINED
    assert len(departure.in_quarantine()) == 71


@pytest.mark.long
def test_another_quarter_that_joins_behind_a_dead_release_takes_nobody_for_covered_who_is_not(
    departure: Departure, monkeypatch: pytest.MonkeyPatch
) -> None:
    _killed_in_the_ledgers_transaction(departure, monkeypatch)
    departure.ground.run("legacy", "INSERT INTO bookings SELECT 5000 + n, '2024-01-01 06:00+00'::timestamptz"
                         " + n * interval '1 day' FROM generate_series(0, 90) n")  # fmt: skip
    departure.ground.streamed(OTHER)
    assert departure.drifts() == []
    assert not departure.covered()
    assert departure.covered(6)
    departure.ground.stream(rebuild=True)
    assert departure.ground.record(5).under_cdc
    departure.ground.assert_same(OTHER, QUARTER)


def test_without_a_moment_for_a_cut_the_week_stays_covered(departure: Departure) -> None:
    before = departure.ground.stream_record(), departure.ground.record(5).state
    with psycopg.connect(departure.ground.databases.legacy_url) as writer:
        writer.execute("UPDATE bookings SET note = 'open' WHERE id = 1")
        with pytest.raises(CutError, match="no moment"):
            departure.impatient(0.5).retire()
        writer.rollback()
    record = departure.ground.record(5)
    assert (departure.ground.stream_record(), record.state) == before
    assert record.under_cdc
    assert departure.covered()


def test_a_booking_between_the_last_look_and_the_cut_lets_nothing_leave(
    departure: Departure, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        _before(patch, retirement, "release_weeks", lambda: departure.book(9001))
        with pytest.raises(RetirementError, match="the archive differed from the legacy or the base") as caught:
            departure.retire()
    assert "materialize change_stream for FY25-Q2" in str(caught.value)
    assert departure.state() is SliceState.ARCHIVED
    assert departure.drifts() == []
    assert len(departure.ground.contents("base", 5)) == 71
    assert departure.retirement() is None
    departure.ground.stream()
    assert departure.covered()
    departure.ground.assert_same()


def test_a_base_that_was_changed_by_hand_is_found_at_the_cut(
    departure: Departure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many rows, and another value, in the base alone: the archive and the legacy agree, the leaf does not."""

    def change() -> None:
        departure.ground.run("base", "UPDATE bookings SET note = 'by hand' WHERE booked_at = '2024-04-29 00:00:00.028'")

    with monkeypatch.context() as patch:
        _before(patch, retirement, "release_weeks", change)
        with pytest.raises(RetirementError, match="the archive differed from"):
            departure.retire()


def test_a_week_that_leaves_and_joins_and_leaves_again_is_released_at_a_new_cut(departure: Departure) -> None:
    first = departure.retire().cut
    departure.give_back()
    departure.ground.stream()
    assert departure.ground.record(5).under_cdc
    second = departure.retire().cut
    assert first
    assert second
    assert second.marker > first.marker
    assert release_of(departure.ground.record(5)).marker == second.marker


def test_a_row_that_moves_into_a_released_week_is_late_there_and_gone_where_it_was(departure: Departure) -> None:
    departure.retire()
    row = int(departure.ground.one("legacy", "SELECT min(id) FROM bookings WHERE booked_at < '2024-04-08'"))
    departure.ground.ask("legacy", "UPDATE bookings SET booked_at = '2024-05-01' WHERE id = %s RETURNING 1", row)
    departure.ground.drain()
    assert departure.ground.contents("base", 1) == departure.ground.contents("legacy", 1)
    assert [(late.week, late.rows) for late in late_bookings(departure.ground.plan)] == [(week(5), 1)]
    departure.give_back()
    departure.ground.stream()
    departure.ground.assert_same()


def test_whoever_wants_to_join_waits_until_the_week_is_retired_and_not_for_its_detach(
    departure: Departure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of kind START: a filter that is computed meanwhile would be one too old."""
    free: list[bool] = []

    def ask() -> None:
        free.append(departure.ground.queue("start public.bookings") == 0)

    _before(monkeypatch, releasing, "_intend", ask)
    _before(monkeypatch, retirement, "begin_retirement", ask)
    _before(monkeypatch, leaving, "detach_leaf", ask)
    departure.retire()
    assert free == [False, False, True]
