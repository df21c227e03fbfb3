"""A validation says exactly what is so, and the slice's state follows from it."""

import threading
from collections.abc import Generator
from typing import LiteralString

import psycopg
import pytest

from migration_assets.domain.errors import (
    PartitionError,
    SliceBusyError,
    SliceMismatchError,
    SliceStateError,
    StreamError,
)
from migration_assets.domain.fingerprint import Kind
from migration_assets.domain.states import SliceState
from migration_assets.ledger.slices import slice_lock
from migration_assets_tests.clones import Clones
from migration_assets_tests.ground import QUARTER, Ground, at_once, attempt_of, validation_of, week


@pytest.fixture
def streamed(clones: Clones) -> Generator[Ground]:
    with clones.streamed(364) as databases:
        yield Ground(databases)


def _sign(ground: Ground) -> None:
    ground.run("base", "UPDATE migration.slices SET state = 'signed_off' WHERE week = 'W01'")


def _damage(ground: Ground) -> None:
    ground.run("base", "UPDATE bookings SET guests = -1 WHERE id = 1")


def _heal(ground: Ground) -> None:
    ground.run("base", "UPDATE bookings SET guests = 1 WHERE id = 1")


def test_a_slice_that_is_equal_is_validated_and_the_ledger_has_the_proof(streamed: Ground) -> None:
    assert streamed.record().state is SliceState.STREAMING
    done = streamed.validate()
    record = streamed.record()
    assert record.state is SliceState.VALIDATED
    assert (done.legacy, done.base, done.legacy.rows) == (record.legacy, record.base, 28)
    assert (validation_of(record).equal, validation_of(record).marker, validation_of(record).lsn) == (
        True,
        done.cut.marker,
        done.cut.lsn,
    )
    assert record.changed_at is not None
    assert record.validated is not None
    assert validation_of(record).at > record.changed_at
    rows = streamed.ask(
        "base",
        "SELECT purpose, marker, equal, missing, extra, changed, legacy_rows, base_rows, legacy_sum_a ="
        " base_sum_a, run_id"
        " FROM migration.validations WHERE week = 'W01' ORDER BY id",
    )
    # The one before is of the true-up, whose rows were all missing.
    assert rows == [
        ("join", None, True, 28, 0, 0, 28, 28, True, "test"),
        ("validate", done.cut.marker, True, 0, 0, 0, 28, 28, True, "test"),
    ]
    assert streamed.attempts() == [("join", "succeeded"), ("validate", "succeeded")]
    assert streamed.record(2).state is SliceState.STREAMING


def test_a_mismatch_puts_the_slice_back_and_is_told_with_its_rows(streamed: Ground) -> None:
    streamed.validate()
    _damage(streamed)
    streamed.run(
        "base", "DELETE FROM bookings WHERE id = 2", "INSERT INTO bookings (id, booked_at) VALUES (9001, '2024-04-03Z')"
    )
    contents = streamed.contents("base")
    with pytest.raises(SliceMismatchError, match="1 missing, 1 extra, 1 changed") as caught:
        streamed.validate()
    assert caught.value.differences is not None
    of = {difference.kind: (difference.key["id"], difference.columns) for difference in caught.value.differences.sample}
    assert of == {Kind.MISSING: ("2", ()), Kind.EXTRA: ("9001", ()), Kind.CHANGED: ("1", ("guests",))}
    record = streamed.record()
    assert (record.state, validation_of(record).equal) == (SliceState.STREAMING, False)
    assert (record.legacy, record.base) == (caught.value.legacy, caught.value.base)
    last = "SELECT equal, missing, extra, changed FROM migration.validations ORDER BY id DESC LIMIT 1"
    assert streamed.ask("base", last) == [(False, 1, 1, 1)]
    assert streamed.attempts()[-1] == ("validate", "mismatch")
    assert attempt_of(record).error == "1 missing, 1 extra, 1 changed"
    # Nothing but the ledger was touched, and the stream went on.
    assert streamed.contents("base") == contents
    streamed.run("base", "DELETE FROM bookings WHERE id = 9001", "INSERT INTO bookings SELECT * FROM bookings LIMIT 0")
    assert streamed.stream_record().status == "live"


def test_a_sign_off_stands_while_the_slice_is_equal_and_is_void_when_it_is_not(streamed: Ground) -> None:
    streamed.validate()
    _sign(streamed)
    streamed.run("legacy", "UPDATE bookings SET guests = 5 WHERE id = 92")
    streamed.validate()
    assert streamed.record().state is SliceState.SIGNED_OFF
    _damage(streamed)
    with pytest.raises(SliceMismatchError):
        streamed.validate()
    assert streamed.record().state is SliceState.STREAMING
    _heal(streamed)
    streamed.validate()
    assert streamed.record().state is SliceState.VALIDATED


@pytest.mark.long
def test_a_sign_off_is_void_after_a_repair_a_re_copy_and_a_rebuild_that_changed_rows(streamed: Ground) -> None:
    def signed_off_after(what: str) -> bool:
        return streamed.record().state is SliceState.SIGNED_OFF and bool(what)

    streamed.validate()
    _sign(streamed)
    streamed.repair()
    streamed.stream(rebuild=True)
    assert signed_off_after("a repair and a rebuild that found nothing to change")
    _damage(streamed)
    streamed.repair()
    assert not signed_off_after("a repair")
    _sign(streamed)
    streamed.copy()
    assert not signed_off_after("a live re-copy")
    _sign(streamed)
    _damage(streamed)
    streamed.stream(rebuild=True)
    assert not signed_off_after("a rebuild")


def test_a_dry_run_that_finds_damage_voids_a_sign_off_too(streamed: Ground) -> None:
    _sign(streamed)
    _damage(streamed)
    assert streamed.repair(dry_run=True).differences.changed == 1
    assert streamed.record().state is SliceState.STREAMING


@pytest.mark.long
def test_a_slice_that_somebody_works_on_is_refused_at_once_and_the_holder_is_named(
    streamed: Ground,
) -> None:
    with streamed.databases.session("base", "the-other-run") as base, slice_lock(base, streamed.record()):
        results = at_once(
            [streamed.validate, streamed.repair, streamed.reconcile, lambda: streamed.repair(dry_run=True)]
        )
    assert [type(result) for result in results] == [SliceBusyError] * 4, results
    assert all("the-other-run" in str(result) for result in results)
    assert streamed.attempts() == [("join", "succeeded")]


def test_two_validations_of_one_slice_take_turns(streamed: Ground) -> None:
    results = at_once([streamed.validate, streamed.validate])
    assert not [result for result in results if isinstance(result, Exception)], results
    assert streamed.attempts()[1:] == [("validate", "succeeded")] * 2


def test_a_week_that_is_not_under_cdc_is_refused(ground: Ground) -> None:
    ground.fill(91)
    with pytest.raises(psycopg.errors.UndefinedTable):
        ground.validate()
    ground.open()
    for step in (ground.validate, ground.repair, lambda: ground.repair(dry_run=True)):
        with pytest.raises(SliceStateError, match="the slice is absent, not under CDC"):
            step()
    ground.copy()
    with pytest.raises(SliceStateError, match="the slice is copied, not under CDC") as caught:
        ground.validate()
    assert caught.value.next_step == "materialize change_stream for FY25-Q2 first"
    assert ground.attempts() == [("copy", "succeeded")]
    ground.run("base", "UPDATE migration.slices SET state = 'streaming' WHERE week = 'W01'")
    with pytest.raises(StreamError, match="no change stream"):
        ground.validate()


_ALTERED: dict[LiteralString, tuple[str, LiteralString]] = {
    "added to the legacy": ("legacy", "ALTER TABLE bookings ADD COLUMN late integer"),
    "dropped in the legacy": ("legacy", "ALTER TABLE bookings DROP COLUMN note"),
    "another type": ("legacy", "ALTER TABLE bookings ALTER COLUMN guests TYPE bigint"),
    "renamed": ("legacy", "ALTER TABLE bookings RENAME price TO cost"),
    "added to the base": ("base", "ALTER TABLE bookings ADD COLUMN extra integer"),
}


@pytest.mark.long(but=1)
@pytest.mark.parametrize("what", _ALTERED)
def test_a_table_that_was_altered_on_one_side_is_told_and_nothing_is_compared(
    streamed: Ground, what: LiteralString
) -> None:
    side, statement = _ALTERED[what]
    streamed.run("legacy" if side == "legacy" else "base", statement)
    for step in (streamed.validate, streamed.repair, streamed.reconcile, lambda: streamed.stream(rebuild=True)):
        with pytest.raises(PartitionError, match="columns differ") as caught:
            step()
        assert "alter the base's table" in caught.value.next_step
    assert streamed.stream_record().status == "live"
    assert streamed.record().state is SliceState.STREAMING


def test_rows_of_other_weeks_have_no_part_in_it(streamed: Ground) -> None:
    streamed.run("base", "UPDATE bookings SET guests = -1 WHERE booked_at >= '2024-04-08Z'")
    streamed.validate(1)
    for number in (2, 13):
        with pytest.raises(SliceMismatchError):
            streamed.validate(number)


@pytest.mark.long
def test_a_validation_takes_no_sides_between_writers_of_both_weeks_of_a_move(streamed: Ground) -> None:
    stop = threading.Event()

    def move() -> None:
        with psycopg.connect(streamed.databases.legacy_url, autocommit=True) as legacy:
            while not stop.is_set():
                legacy.execute("UPDATE bookings SET booked_at = '2024-04-12Z' WHERE id < 20")
                legacy.execute("UPDATE bookings SET booked_at = '2024-04-05Z' WHERE id < 20")

    mover = threading.Thread(target=move)
    mover.start()
    try:
        seen = {streamed.validate(number).base.rows for number in (1, 2, 1, 2)}
    finally:
        stop.set()
        mover.join()
    assert seen
    assert week(1).quarter == QUARTER
    streamed.assert_same()
