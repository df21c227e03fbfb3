"""A quarter is compared whole, at one cut, and no key is there twice."""

from collections.abc import Generator

import pytest

from migration_assets.domain.errors import SliceStateError
from migration_assets.domain.states import SliceState
from migration_assets_tests.clones import Clones
from migration_assets_tests.ground import QUARTER, Ground, week


@pytest.fixture
def streamed(clones: Clones) -> Generator[Ground]:
    with clones.streamed(364) as databases:
        yield Ground(databases)


def test_an_equal_quarter_is_reconciled_at_one_cut_and_all_its_weeks_are_validated(streamed: Ground) -> None:
    done = streamed.reconcile()
    assert done.equal
    assert (done.legacy, done.legacy.rows, done.duplicates) == (done.base, 364, ())
    assert [one for one, _ in done.weeks] == [week(number) for number in range(1, 14)]
    assert {streamed.record(number).state for number in range(1, 14)} == {SliceState.VALIDATED}
    markers = (
        "SELECT array_agg(DISTINCT marker), count(*) FROM migration.validations WHERE purpose = 'reconcile' AND equal"
    )
    assert streamed.ask("base", markers) == [([done.cut.marker], 13)]
    assert streamed.one("base", "SELECT count(*) FROM migration.cuts") == 1
    kept = "SELECT quarter, marker, lsn::text, equal, duplicate_keys, run_id FROM migration.reconciliations"
    assert streamed.ask("base", kept) == [(QUARTER.key, done.cut.marker, done.cut.lsn, True, 0, "test")]


@pytest.mark.long
def test_one_damaged_week_is_found_among_thirteen_and_it_alone_loses_its_proof(streamed: Ground) -> None:
    streamed.reconcile()
    streamed.run("base", "UPDATE bookings SET guests = -1 WHERE id = 30", "DELETE FROM bookings WHERE id = 31")
    done = streamed.reconcile()
    assert not done.equal
    damaged = {one.name: str(proof.differences) for one, proof in done.weeks if not proof.equal}
    assert damaged == {"W05": "1 missing, 0 extra, 1 changed"}
    states = {streamed.record(number).state for number in range(1, 14) if number != 5}
    assert (states, streamed.record(5).state) == ({SliceState.VALIDATED}, SliceState.STREAMING)
    last = "SELECT equal FROM migration.reconciliations ORDER BY id DESC LIMIT 1"
    assert streamed.one("base", last) is False
    streamed.repair(5)
    assert streamed.reconcile().equal


def test_a_key_that_is_in_two_weeks_is_found_with_both_values_of_the_control_column(streamed: Ground) -> None:
    streamed.run(
        "base", "INSERT INTO bookings SELECT id, booked_at + interval '14 days' FROM bookings WHERE id IN (1, 2)"
    )
    done = streamed.reconcile()
    assert not done.equal
    assert [(one.key, one.control_values) for one in done.duplicates] == [
        ("(1)", ("2024-04-02 00:00:00.001+00", "2024-04-16 00:00:00.001+00")),
        ("(2)", ("2024-04-03 00:00:00.002+00", "2024-04-17 00:00:00.002+00")),
    ]
    assert streamed.one("base", "SELECT duplicate_keys FROM migration.reconciliations") == 2
    assert [one.name for one, proof in done.weeks if not proof.equal] == ["W03"]


def test_a_key_that_is_in_two_quarters_is_told_as_the_row_too_many_that_it_is(streamed: Ground) -> None:
    streamed.streamed(QUARTER.next)
    streamed.run("base", "INSERT INTO bookings SELECT id, '2024-07-05Z' FROM bookings WHERE id = 1")
    assert streamed.reconcile().equal
    other = streamed.reconcile(QUARTER.next)
    assert [(one.name, str(proof.differences)) for one, proof in other.weeks if not proof.equal] == [
        ("W01", "0 missing, 1 extra, 0 changed")
    ]


def test_duplicates_are_looked_for_among_weeks_under_cdc_alone(streamed: Ground) -> None:
    """A copied week is as old as its copy: a row that has moved since is no duplicate but lag."""
    streamed.copy_all(QUARTER.next)
    streamed.run("base", "INSERT INTO bookings SELECT id, '2024-07-05Z' FROM bookings WHERE id = 1")
    assert streamed.reconcile().equal


def test_a_week_that_is_not_under_cdc_refuses_the_whole_quarter_and_is_named(streamed: Ground) -> None:
    streamed.run("base", "UPDATE migration.slices SET state = 'copied' WHERE week IN ('W03', 'W07')")
    with pytest.raises(SliceStateError, match="not under CDC: W03 is copied, W07 is copied"):
        streamed.reconcile()
    with pytest.raises(SliceStateError, match="the quarter is not open"):
        streamed.reconcile(QUARTER.next)
    assert streamed.ask("base", "SELECT 1 FROM migration.reconciliations UNION ALL SELECT 1 FROM migration.cuts") == []
