"""Many rows of a week are never deleted without a person's word, in whatever step and for whatever cause."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from migration_assets.copying.copying import copy_slice
from migration_assets.copying.throttle import SliceCopy
from migration_assets.domain.confirmation import DeletionLimit
from migration_assets.domain.errors import DeletionError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.proof.repair import repair_slice
from migration_assets.stream.joining import join_stream
from migration_assets_tests.ground import QUARTER, Ground, week

Confirmed = dict[FiscalWeek, int]


def _repair(ground: Ground, number: int, confirmed: Confirmed) -> None:
    repair_slice(replace(ground.plan, confirmed_deletes=confirmed), week(number), dry_run=False)


def _copy(ground: Ground, number: int, confirmed: Confirmed) -> None:
    copy = SliceCopy(ground.spec, ground.calendar, week(number), ground.limits, ground.stream_limits)
    copy_slice(ground.databases, replace(copy, confirmed_deletes=confirmed))


def _rebuild(ground: Ground, _: int, confirmed: Confirmed) -> None:
    join_stream(replace(ground.plan, confirmed_deletes=confirmed), QUARTER, rebuild=True)


STEPS: dict[str, Callable[[Ground, int, Confirmed], None]] = {
    "repair": _repair, "live re-copy": _copy, "rebuild": _rebuild,
}  # fmt: skip


def test_a_step_that_would_delete_many_rows_of_a_week_stops_until_their_number_is_confirmed(ground: Ground) -> None:
    ground = replace(
        ground.fill(), stream_limits=replace(ground.stream_limits, deletions=DeletionLimit(percent=20.0, rows=10))
    ).streamed()
    for number, (name, step) in enumerate(STEPS.items(), start=5):
        _add_to_the_base(ground, number, rows=30)
        before = ground.contents("base", number)
        assert len(before) == 100
        with pytest.raises(DeletionError, match=r"30 of the week's 100 rows .* the legacy shows 70") as caught:
            step(ground, number, {week(number): 29, week(1): 30})
        assert f"--confirm-deletes '{week(number).key}=30'" in caught.value.next_step, name
        assert ground.contents("base", number) == before, name
        step(ground, number, {week(number): 30})
        assert ground.contents("base", number) == ground.contents("legacy", number), name
    # What stays below the limit asks nobody.
    _add_to_the_base(ground, 5, rows=10)
    ground.repair(5)
    # Not one row, where the legacy shows none at all.
    ground.run("legacy", "DELETE FROM bookings WHERE booked_at >= '2024-04-01' AND booked_at < '2024-04-08'")
    ground.drain()
    _add_to_the_base(ground, 1, rows=1)
    for step in STEPS.values():
        with pytest.raises(DeletionError, match=r"1 of the week's 1 rows .* the legacy shows 0"):
            step(ground, 1, {})
    # A rebuild that stopped is finished by whoever confirms.
    _rebuild(ground, 1, {week(1): 1})
    ground.assert_same()


def _add_to_the_base(ground: Ground, number: int, rows: int) -> None:
    ground.ask(
        "base",
        "INSERT INTO bookings (id, booked_at) SELECT 100000 + 1000 * %s + n, '2024-04-01 12:00+00'::timestamptz"
        " + (%s - 1) * interval '7 days' FROM generate_series(1, %s) n RETURNING 1",
        number,
        number,
        rows,
    )
