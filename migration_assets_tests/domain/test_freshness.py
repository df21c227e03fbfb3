"""What the last validation still says of a slice, and how that reads."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migration_assets.domain.states import Freshness, LastValidation, changes_since, instant_text, span_text

NOON = datetime(2024, 6, 24, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
TICK = timedelta(microseconds=1)
DAY = timedelta(days=1)


def test_what_was_done_to_a_table_counts_unless_something_worse_is_known() -> None:
    altered = "the leaf was rewritten"
    validation = LastValidation(NOON, True, NOON - HOUR, 5, altered)
    assert validation.freshness(now=NOON + 9 * DAY, max_age=DAY) is Freshness.ALTERED
    assert validation.describe(now=NOON, max_age=DAY).endswith("; stale: the leaf was rewritten since then")
    assert LastValidation(NOON, False, None, 5, altered).freshness(now=NOON, max_age=DAY) is Freshness.FAILED
    assert LastValidation(NOON, True, NOON + HOUR, 5, altered).freshness(now=NOON, max_age=DAY) is Freshness.CHANGED
    assert LastValidation(None, None, None, None, altered).freshness(now=NOON, max_age=DAY) is Freshness.NEVER


def _freshness(
    at: datetime | None, equal: bool | None, changed_at: datetime | None, now: datetime = NOON + HOUR
) -> Freshness:
    return LastValidation(at, equal, changed_at).freshness(now=now, max_age=DAY)


@pytest.mark.parametrize(("equal", "changed_at"), list(product([None, True, False], [None, NOON])))
def test_what_was_never_validated_is_never_fresh(equal: bool | None, changed_at: datetime | None) -> None:
    assert _freshness(None, equal, changed_at) is Freshness.NEVER


@pytest.mark.parametrize(
    ("equal", "changed", "expected"),
    [
        (True, None, Freshness.FRESH),
        (True, -TICK, Freshness.FRESH),
        (True, 0 * TICK, Freshness.FRESH),
        (True, TICK, Freshness.CHANGED),
        (False, -TICK, Freshness.FAILED),
        (None, -TICK, Freshness.FAILED),
        (False, TICK, Freshness.CHANGED),
    ],
)
def test_our_own_changes_after_a_validation_make_it_stale(
    equal: bool | None, changed: timedelta | None, expected: Freshness
) -> None:
    assert _freshness(NOON, equal, None if changed is None else NOON + changed) is expected


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (0 * DAY, Freshness.FRESH),
        (DAY, Freshness.FRESH),
        (DAY + TICK, Freshness.OLD),
        (-DAY, Freshness.FRESH),
        (-DAY - TICK, Freshness.OLD),
    ],
)
def test_a_validation_is_old_when_it_is_further_away_than_the_limit_even_by_a_clock_set_back(
    age: timedelta, expected: Freshness
) -> None:
    assert _freshness(NOON, True, NOON - 9 * DAY, now=NOON + age) is expected


_moments = st.none() | st.datetimes(datetime(2024, 1, 1), datetime(2024, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


@given(_moments, st.sampled_from([None, True, False]), _moments, st.none() | st.integers(0, 10**12))
def test_only_equal_unchanged_and_recent_is_fresh_and_every_case_has_one_line(
    at: datetime | None, equal: bool | None, changed_at: datetime | None, changes: int | None
) -> None:
    validation = LastValidation(at, equal, changed_at, changes)
    fresh = validation.freshness(now=NOON, max_age=DAY) is Freshness.FRESH
    proven = at is not None and equal is True and (changed_at is None or changed_at <= at) and abs(NOON - at) <= DAY
    assert fresh is proven
    text = validation.describe(now=NOON, max_age=DAY)
    assert text
    assert "\n" not in text
    assert text.startswith("validated at") or not fresh


@given(st.none() | st.integers(0, 10**12))
def test_the_streams_own_changes_never_make_a_validation_stale(changes: int | None) -> None:
    validation = LastValidation(NOON, True, NOON - HOUR, changes)
    assert validation.freshness(now=NOON + HOUR, max_age=DAY) is Freshness.FRESH


@pytest.mark.parametrize(
    ("validation", "now", "text"),
    [
        (
            LastValidation(NOON, True, NOON - HOUR, 1204),
            NOON + 3 * HOUR,
            "validated at 2024-06-24 12:00 UTC, 3 h ago; since then 1,204 changes by the stream",
        ),
        (
            LastValidation(NOON, True, None, 1),
            NOON + 40 * timedelta(seconds=1),
            "validated at 2024-06-24 12:00 UTC, 40 s ago; since then 1 change by the stream",
        ),
        (
            LastValidation(NOON, True, None, 0),
            NOON + 12 * timedelta(minutes=1),
            "validated at 2024-06-24 12:00 UTC, 12 min ago; since then no changes by the stream",
        ),
        (LastValidation(NOON, True, None), NOON, "validated at 2024-06-24 12:00 UTC, 0 s ago"),
        (
            LastValidation(NOON, True, None, 5),
            NOON + 26 * HOUR,
            "validated at 2024-06-24 12:00 UTC, 26 h ago: older than 24 h; since then 5 changes by the stream",
        ),
        (
            LastValidation(NOON, True, NOON + HOUR, 5),
            NOON + 3 * HOUR,
            (
                "validated at 2024-06-24 12:00 UTC, 3 h ago; changed by us since then, at 2024-06-24 13:00 UTC:"
                " not validated anew"
            ),
        ),
        (
            LastValidation(NOON, False, NOON - HOUR, 7),
            NOON + 5 * DAY,
            "validation FAILED at 2024-06-24 12:00 UTC, 5 d ago; since then 7 changes by the stream",
        ),
        (
            LastValidation(NOON + 2 * DAY, True, None),
            NOON,
            "validated at 2024-06-26 12:00 UTC, 2 d ahead of the clock: further than 24 h",
        ),
        (LastValidation(None, None, NOON), NOON, "never validated"),
    ],
)
def test_the_line_says_when_and_what_happened_since(validation: LastValidation, now: datetime, text: str) -> None:
    assert validation.describe(now=now, max_age=DAY) == text


@pytest.mark.parametrize(
    ("then", "now", "grown"), [(5, 9, 4), (5, 5, 0), (5, 4, None), (None, 4, None), (5, None, None), (None, None, None)]
)
def test_a_counter_that_was_reset_or_never_read_says_nothing(
    then: int | None, now: int | None, grown: int | None
) -> None:
    assert changes_since(then, now) == grown


def test_times_are_shown_in_utc_and_spans_rounded_down() -> None:
    assert instant_text(NOON.astimezone(timezone(timedelta(hours=-7)))) == "2024-06-24 12:00 UTC"
    spans = {59: "59 s", 60: "1 min", 3599: "59 min", 3600: "1 h", 172_799: "47 h", 172_800: "2 d"}
    assert {seconds: span_text(timedelta(seconds=seconds)) for seconds in spans} == spans
