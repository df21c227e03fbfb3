"""`readiness` as a person types it, and the asset: all together, on a quarter that is ready."""

import dagster as dg
import pytest

from migration_assets.defs.cutover import cutover_readiness
from migration_assets_tests.terminal.live_quarter import LiveQuarter


def test_a_signed_quarter_is_ready_and_every_thing_is_told(quarter: LiveQuarter) -> None:
    result = quarter.run("readiness", "--all")
    assert result.exit_code == 0, result.output
    assert "0 blocking" in result.output
    assert "Nothing stands in the way" in result.output
    for code in ("quarter_signed_off", "rows_outside", "sequences", "stream", "late_bookings", "activity", "grants"):
        assert f": {code}" in result.output, code


def test_what_blocks_is_told_with_exit_code_1_and_mended_it_is_over(quarter: LiveQuarter) -> None:
    quarter.ground.run("legacy", "INSERT INTO bookings (id, booked_at) VALUES (9000000, '2031-01-01')")
    result = quarter.run("readiness")
    assert result.exit_code == 1, result.output
    assert "beyond the last week" in result.output
    assert "Remedy: open their quarters" in result.output
    quarter.ground.run("legacy", "DELETE FROM bookings WHERE booked_at > '2030-01-01'")
    assert quarter.run("readiness").exit_code == 0


def test_a_side_that_is_away_is_a_finding(quarter: LiveQuarter) -> None:
    for side in ("LEGACY", "BASE"):
        away = {f"MIGRATION_{side}_URL": "postgresql://nobody:open-sesame@127.0.0.1:1/nowhere"}
        result = quarter.run("readiness", **away)
        assert result.exit_code == 1, result.output
        assert "reachable" in result.output
        assert "open-sesame" not in result.output


def test_the_asset_is_green_when_ready_and_fails_with_its_check_when_not(quarter: LiveQuarter) -> None:
    resources = {"migration": quarter.migration}

    def materialize() -> dg.ExecuteInProcessResult:
        with dg.DagsterInstance.ephemeral() as instance:  # pyright: ignore[reportUnknownMemberType]
            return dg.materialize([cutover_readiness], resources=resources, instance=instance, raise_on_error=False)

    done = materialize()
    assert done.success
    assert [check.passed for check in done.get_asset_check_evaluations()] == [True]
    quarter.ground.run("legacy", "INSERT INTO bookings (id, booked_at) VALUES (9000000, '1999-01-01')")
    done = materialize()
    assert not done.success
    assert [check.passed for check in done.get_asset_check_evaluations()] == [False]
    quarter.ground.run("legacy", "DELETE FROM bookings WHERE booked_at < '2000-01-01'")


@pytest.mark.long
def test_a_comparison_that_would_not_end_in_time_is_told_before_the_day(quarter: LiveQuarter) -> None:
    short = {"MIGRATION_CUTOVER_TIMEOUT_SECONDS": "20"}
    well = quarter.run("readiness", "--all", **short)
    assert "INFO  data: comparison_time" in well.output
    assert "comparing 13 weeks with" in well.output
    quarter.ground.run("base", "UPDATE migration.cuts SET taken_at = taken_at - interval '60 s'")
    try:
        result = quarter.run("readiness", **short)
        assert result.exit_code == 1, result.output
        assert "BLOCKING  data: comparison_time" in result.output
        assert "MIGRATION_CUTOVER_COMPARE_ALL=false" in result.output
        # What changed is validated once more before anybody is held: then it may be little.
        changed = quarter.run("readiness", **short, MIGRATION_CUTOVER_COMPARE_ALL="false")
        assert changed.exit_code == 0, changed.output
    finally:
        quarter.ground.run("base", "UPDATE migration.cuts SET taken_at = taken_at + interval '60 s'")
    assert quarter.run("readiness", **short).exit_code == 0
