"""A quarter comes under CDC; the stream's checks run alone and turn red when it is not well."""

import pytest
from pydantic import SecretStr

from migration_assets.runtime import open_migration
from migration_assets.stream.holding import pause_stream
from migration_assets_tests.defs.conftest import (
    QUARTER,
    WEEK,
    WEEKS,
    Project,
    check_results,
    copy_weeks,
    failure_text,
    table_rows,
)

LATE = """
UPDATE amenity_bookings SET guests = guests + 1 WHERE id = (SELECT min(id) FROM amenity_bookings
    WHERE booked_at >= '2024-04-29' AND booked_at < '2024-05-06');
DELETE FROM amenity_bookings WHERE id = (SELECT max(id) FROM amenity_bookings
    WHERE booked_at >= '2024-04-29' AND booked_at < '2024-05-06')
"""


@pytest.mark.long
def test_the_whole_chain_from_preflight_to_sign_off(project: Project) -> None:
    project.prepared()
    settings = project.migration.settings.model_copy(update={"join_rows": 0})
    refused = Project(open_migration(settings), project.instance).run("change_stream", QUARTER)
    assert "FY25-Q2: not copied yet: W01 (about " in failure_text(refused)

    assert project.run("migrated_slice", WEEK).success
    copy_weeks(project.migration, [week for week in WEEKS if week != WEEK])
    project.on_legacy(LATE)  # after the copy, before the stream
    stream = project.run("change_stream", QUARTER)
    assert stream.success, failure_text(stream)
    assert check_results(stream) == {"stream_is_healthy": True, "lag_within_threshold": True}
    [event] = stream.asset_materializations_for_node("change_stream")
    assert event.metadata["how"].value == "activated"
    assert str(event.metadata["exact_since"].value).startswith("LSN ")
    assert [event.metadata[name].value for name in ("missing", "extra", "changed", "weeks_trued_up")] == [0, 1, 1, 13]
    assert event.metadata["paused_ms"].value == 0.0
    records = {record["week"]: record for record in table_rows(event.metadata["weeks"])}
    assert records["FY25-Q2|W05"]["extra"] == records["FY25-Q2|W05"]["changed"] == 1
    assert sum(int(record["changed"]) for record in records.values()) == 1
    observed = [e.asset_observation_data.asset_observation for e in stream.all_events if e.is_asset_observation]
    assert sorted(int(str(one.metadata["weeks_so_far"].value)) for one in observed) == list(range(1, 14))
    assert {one.partition for one in observed} == {"FY25-Q2"}

    for week in (WEEKS[0], WEEK, WEEKS[-1]):
        result = project.run("validated_slice", week)
        assert result.success, failure_text(result)
        assert check_results(result) == {"row_count_matches": True, "checksum_matches": True}
    reconciled = project.run("reconciled_quarter", QUARTER)
    assert reconciled.success, failure_text(reconciled)
    assert check_results(reconciled) == {"every_week_matches": True, "no_key_is_twice": True}
    signed = project.run("sign_off", QUARTER, {"approved_by": "Ada Lovelace", "note": "Phase 1"})
    assert signed.success, failure_text(signed)
    assert check_results(signed) == {"still_stands": True}

    again = project.run("change_stream", QUARTER)
    [event] = again.asset_materializations_for_node("change_stream")
    assert event.metadata["how"].value == "already under CDC"
    rebuilt = project.run("change_stream", QUARTER, {"rebuild": True})
    [event] = rebuilt.asset_materializations_for_node("change_stream")
    assert (event.metadata["how"].value, event.metadata["weeks_trued_up"].value) == ("rebuilt", 13)
    assert project.run_check("sign_off", "still_stands").passed, "a rebuild that changed nothing voids nothing"


@pytest.mark.long
def test_the_checks_of_the_stream_run_alone(streamed: Project) -> None:
    healthy = streamed.run_check("change_stream", "stream_is_healthy")
    assert healthy.passed, healthy.description
    assert healthy.partition == "FY25-Q2"
    lag = streamed.run_check("change_stream", "lag_within_threshold")
    assert lag.passed, lag.description
    for name in ("lag_seconds", "retained_wal_bytes", "unconfirmed_bytes", "paused_seconds"):
        assert isinstance(lag.metadata[name].value, int | float), name


def test_a_subscription_that_somebody_disabled_turns_both_checks_red_and_says_what_to_do(streamed: Project) -> None:
    streamed.on_base(f"ALTER SUBSCRIPTION {streamed.subscription()} DISABLE")
    healthy = streamed.run_check("change_stream", "stream_is_healthy")
    assert not healthy.passed
    assert "stream resume" in (healthy.description or "")
    assert "subscription_disabled" in {row["problem"] for row in table_rows(healthy.metadata["problems"])}
    lag = streamed.run_check("change_stream", "lag_within_threshold")
    assert not lag.passed or lag.metadata["lag_seconds"].value is not None


def test_a_lag_that_cannot_be_measured_is_not_within_a_threshold(streamed: Project) -> None:
    settings = streamed.migration.settings
    nowhere = SecretStr("postgresql://migrator@127.0.0.1:1/legacy")
    blind = Project(open_migration(settings.model_copy(update={"legacy_url": nowhere})), streamed.instance)
    lag = blind.run_check("change_stream", "lag_within_threshold")
    assert not lag.passed
    assert "The lag cannot be measured: the legacy cannot be asked" in (lag.description or "")


def test_a_stream_that_a_person_holds_is_not_joined(streamed: Project) -> None:
    pause_stream(streamed.migration, "a test")
    assert "a person holds the stream (a test)" in failure_text(streamed.run("change_stream", QUARTER))


@pytest.mark.parametrize("check", ["stream_is_healthy", "lag_within_threshold"])
def test_without_a_stream_its_checks_are_red_and_not_an_error(empty_project: Project, check: str) -> None:
    empty_project.instance.add_dynamic_partitions("fiscal_quarter", [QUARTER.key])
    evaluation = empty_project.run_check("change_stream", check)
    assert not evaluation.passed
    assert "no change stream was begun yet" in (evaluation.description or "")
