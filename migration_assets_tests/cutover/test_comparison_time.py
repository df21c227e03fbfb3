"""How long a comparison will take, from what was measured before."""

from migration_assets.cutover.estimate import ASSUMED_ROWS_PER_SECOND, Rehearsed, Week, estimate


def test_nothing_takes_no_time() -> None:
    assert estimate([], parallel=4).seconds == 0


def test_without_any_measurement_a_slow_machine_is_assumed() -> None:
    found = estimate([Week("a", int(ASSUMED_ROWS_PER_SECOND) * 100)], parallel=4)
    assert 100 <= found.seconds < 101
    assert "assumed" in found.basis


def test_each_week_takes_what_it_took_and_several_go_at_a_time() -> None:
    weeks = [Week(str(n), 1_000_000, 1_000_000, 10.0) for n in range(8)]
    assert estimate(weeks, parallel=2).seconds == 40
    assert estimate(weeks, parallel=8).seconds == 10
    assert estimate([*weeks, Week("big", 9_000_000, 9_000_000, 90.0)], parallel=100).seconds == 90


def test_a_week_that_grew_and_one_that_is_not_known_go_at_the_others_rate() -> None:
    known = Week("known", 1_000_000, 1_000_000, 10.0)
    assert estimate([known, Week("grown", 3_000_000, 1_000_000, 10.0)], parallel=1).seconds == 40
    assert 20 <= estimate([known, Week("new", 1_000_000)], parallel=1).seconds < 20.1


def test_what_a_few_rows_took_says_nothing_of_many() -> None:
    """0.2 s for 70 rows is the cost of a cut: at that rate a million rows would take an hour."""
    found = estimate([Week("small", 70, 70, 0.2), Week("big", 1_000_000)], parallel=1)
    assert found.seconds < 10


def test_a_rehearsal_of_most_of_it_is_believed_and_one_of_little_is_not() -> None:
    weeks = [Week(str(n), 1_000_000, 1_000_000, 10.0) for n in range(10)]
    assert estimate(weeks, parallel=2, rehearsed=Rehearsed(10, 5_000_000, 30.0)).seconds == 60
    assert estimate(weeks, parallel=2, rehearsed=Rehearsed(10, 4_000_000, 30.0)).seconds == 50
    assert estimate(weeks, parallel=2, rehearsed=Rehearsed(4, 10_000_000, 30.0)).seconds == 50
