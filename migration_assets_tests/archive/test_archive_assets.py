"""The assets, jobs and checks of the archive as Dagster runs them, and the sensor that launches them."""

from collections.abc import Generator
from pathlib import Path

import dagster as dg
import pytest

from migration_assets.definitions import build_defs
from migration_assets.defs.partitions import partition_key, register_quarters
from migration_assets.defs.resources import MIGRATION_SOURCE, MigrationSource
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.archives import read_archive
from migration_assets.runtime import Migration
from migration_assets_tests.archive.conftest import QUARTER, WEEKS, with_settings
from migration_assets_tests.archive.test_leaving_and_coming_back import change_one, on, state_of
from migration_assets_tests.confirmed_deeds import code_to_retire
from migration_assets_tests.defs.conftest import Project, check_results, failure_text


def leave(project: Project, week: FiscalWeek) -> dg.ExecuteInProcessResult:
    """As a person launches it who has looked."""
    code = code_to_retire(project.migration, week)
    return project.run_job("retire_slices", week, {"retired_slice": {"dry_run": False, "confirm": code}})


@pytest.fixture
def project(signed: Migration) -> Generator[Project]:
    with dg.DagsterInstance.ephemeral() as instance:  # pyright: ignore[reportUnknownMemberType]
        register_quarters(instance, [QUARTER])
        yield Project(signed, instance)


def parts_of(migration: Migration, week: FiscalWeek) -> list[Path]:
    with migration.databases.session("base", "test") as base:
        archive = read_archive(base, migration.spec.relation, week)
    assert archive is not None
    return sorted(Path(archive.location.removeprefix("file://")).glob("*.parquet"))


def run_week_check(project: Project, asset: str, check: str, week: FiscalWeek) -> dg.AssetCheckEvaluation:
    key = dg.AssetCheckKey(dg.AssetKey(asset), check)
    alone = dg.define_asset_job("alone", selection=dg.AssetSelection.checks(key))  # pyright: ignore[reportUnknownMemberType]
    definitions = dg.Definitions.merge(build_defs(project.migration), dg.Definitions(jobs=[alone]))
    tags = {
        "dagster/partition": str(partition_key(week)),
        "dagster/partition/quarter": week.quarter.key,
        "dagster/partition/week": week.name,
    }
    result = definitions.resolve_job_def("alone").execute_in_process(instance=project.instance, tags=tags)
    [evaluation] = result.get_asset_check_evaluations()
    return evaluation


@pytest.mark.long
def test_a_week_is_archived_with_its_figures_and_a_passed_check(project: Project) -> None:
    done = project.run_job("archive_slices", WEEKS[0])
    assert done.success, failure_text(done)
    assert check_results(done) == {"archive_matches": True, "drilled_lately": True}
    [event] = done.asset_materializations_for_node("parquet_archive")
    rows = event.metadata["dagster/row_count"].value
    assert isinstance(rows, int)
    assert rows > 0
    assert event.metadata["portable_checksum"].value != event.metadata["native_checksum"].value
    assert run_week_check(project, "parquet_archive", "drilled_lately", WEEKS[0]).passed


@pytest.mark.long
def test_a_flipped_byte_fails_the_check_and_the_partition_and_archiving_again_mends_it(project: Project) -> None:
    week = WEEKS[1]
    assert project.run_job("archive_slices", week).success
    [part] = parts_of(project.migration, week)
    whole = part.read_bytes()
    part.write_bytes(whole[:-100] + bytes([whole[-100] ^ 255]) + whole[-99:])
    found = project.run_job("verify_archives", week)
    assert not found.success
    assert check_results(found) == {"archive_matches": False}
    assert part.name in failure_text(found)
    assert project.partitions("parquet_archive") == {"W02": "FAILED"}
    assert not run_week_check(project, "parquet_archive", "drilled_lately", WEEKS[8]).passed, "it has no archive"
    assert project.run_job("archive_slices", week).success
    assert project.run_job("verify_archives", week).success
    assert project.partitions("parquet_archive") == {"W02": "MATERIALIZED"}


def test_a_dry_run_leaves_an_observation_and_no_green_square(project: Project) -> None:
    week = WEEKS[2]
    looked = project.run_job("retire_slices", week)
    assert looked.success, failure_text(looked)
    assert not looked.asset_materializations_for_node("retired_slice")
    [seen] = looked.asset_observations_for_node("retired_slice")
    assert "there is no archive" in str(seen.metadata["obstacles"].value)
    assert project.partitions("retired_slice") == {}
    refused = leave(project, week)
    assert not refused.success
    assert "there is no archive" in failure_text(refused)
    assert state_of(project.migration, week) == "signed_off"


@pytest.mark.long
def test_a_week_leaves_is_drilled_gets_a_late_booking_and_comes_back(project: Project) -> None:
    week = WEEKS[3]
    assert project.run_job("archive_slices", week).success
    left = leave(project, week)
    assert left.success, failure_text(left)
    assert state_of(project.migration, week) == "retired"
    assert run_week_check(project, "retired_slice", "nothing_came_late", week).passed
    drilled = project.run_job("restore_drill", week)
    assert drilled.success, failure_text(drilled)
    assert not drilled.asset_materializations_for_node("restored_slice")
    change_one(project.migration, week)
    late = run_week_check(project, "retired_slice", "nothing_came_late", week)
    assert not late.passed
    assert "Next: restored_slice" in (late.description or "")
    back = project.run_job("restore_slices", week)
    assert back.success, failure_text(back)
    [event] = back.asset_materializations_for_node("restored_slice")
    assert event.metadata["from"].value == "quarantine"
    joined = project.run("change_stream", QUARTER)
    assert joined.success, failure_text(joined)
    assert state_of(project.migration, week) == "archived", "the stream caught up with it; its sign-off stands"
    stale = leave(project, week)
    assert "stale" in failure_text(stale)
    assert project.run_job("archive_slices", week).success
    again = leave(project, week)
    assert again.success, failure_text(again)


def tick(project: Project, migration: Migration) -> dg.SensorResult | dg.SkipReason:
    sensor = build_defs(migration).resolve_sensor_def("retention")
    resources = {MIGRATION_SOURCE: MigrationSource(migration)}
    with dg.build_sensor_context(instance=project.instance, resources=resources) as context:
        result = sensor(context)
    assert isinstance(result, (dg.SensorResult, dg.SkipReason))
    return result


def asked_for(result: dg.SensorResult | dg.SkipReason) -> dict[str, set[str]]:
    assert isinstance(result, dg.SensorResult), str(result)
    found: dict[str, set[str]] = {}
    for request in result.run_requests or []:
        for key in request.asset_selection or []:
            found.setdefault(key.to_user_string(), set()).add(str(request.partition_key))
    return found


def test_retention_archives_what_is_due_and_retires_nothing_by_itself(project: Project) -> None:
    for week in WEEKS[9:11]:
        assert project.run_job("archive_slices", week).success
    asked = asked_for(tick(project, project.migration))
    assert set(asked) == {"parquet_archive"}
    assert str(partition_key(WEEKS[12])) in asked["parquet_archive"]
    assert not asked["parquet_archive"] & {str(partition_key(week)) for week in WEEKS[9:11]}

    # The hint comes from the server's counters, and they are seconds late.
    on(project.migration.databases.base_url, "UPDATE migration.archives SET leaf_changes = -1 WHERE week = 'W10'")
    again = asked_for(tick(project, project.migration))
    assert str(partition_key(WEEKS[9])) in again["parquet_archive"], "something came after its archive"
    on(project.migration.databases.base_url, "UPDATE migration.archives SET leaf_changes = 1000000 WHERE week = 'W10'")

    asked = asked_for(tick(project, with_settings(project.migration, auto_retire=True)))
    assert {str(partition_key(week)) for week in WEEKS[9:11]} <= asked["retired_slice"]

    kept = tick(project, with_settings(project.migration, retention_quarters=8))
    assert isinstance(kept, dg.SkipReason)
    assert "FY24-Q1 and later stay" in (kept.skip_message or "")


def test_a_week_that_is_being_worked_on_is_not_asked_for_again(project: Project) -> None:
    first = tick(project, project.migration)
    assert isinstance(first, dg.SensorResult)
    keys = {request.run_key for request in first.run_requests or []}
    second = tick(project, project.migration)
    assert isinstance(second, dg.SensorResult)
    assert {request.run_key for request in second.run_requests or []} == keys, "the same tick twice is one run"
