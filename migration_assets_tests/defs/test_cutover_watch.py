"""What Dagster shows while the base is in charge: checks that say so, figures that plot, red where a rollback rests."""

import dagster as dg
import pytest
from psycopg import sql

from migration_assets.cutover.machine import cut_over
from migration_assets.defs.partitions import register_quarters
from migration_assets.defs.resources import MIGRATION_SOURCE, MigrationSource
from migration_assets.defs.sensors import change_stream_monitor
from migration_assets.preflight.run import examine
from migration_assets.quarters.opening import open_quarter
from migration_assets.readiness.step import cutover_plan
from migration_assets.stream.holding import start_stream
from migration_assets_tests.defs.conftest import (
    QUARTER,
    WEEKS,
    Project,
    copy_weeks,
    failure_text,
    keep_only_the_quarter,
)

CHECKS = ("stream_is_healthy", "lag_within_threshold")


def under_cdc(project: Project) -> Project:
    examine(project.migration)
    open_quarter(project.migration, QUARTER)
    copy_weeks(project.migration, WEEKS)
    start_stream(project.migration, QUARTER)
    register_quarters(project.instance, [QUARTER])
    return project


def tick(project: Project) -> tuple[dg.AssetObservation, str]:
    """The observation, and what the tick says."""
    source = {MIGRATION_SOURCE: MigrationSource(project.migration)}
    with dg.build_sensor_context(instance=project.instance, resources=source) as context:
        found = change_stream_monitor(context)
    assert isinstance(found, dg.SensorResult)
    [event] = found.asset_events
    assert isinstance(event, dg.AssetObservation)
    return event, str(found.skip_reason and found.skip_reason.skip_message)


def checks(project: Project) -> dict[str, tuple[bool, str]]:
    done = {name: project.run_check("change_stream", name) for name in CHECKS}
    return {name: (one.passed, one.description or "") for name, one in done.items()}


@pytest.mark.long
def test_checks_and_monitor_speak_of_the_reverse_stream_while_the_base_is_in_charge(project: Project) -> None:
    under_cdc(project)
    keep_only_the_quarter(project.migration)
    cut_over(cutover_plan(project.migration), approved_by="Ada", rehearse=False)
    for passed, said in checks(project).values():
        assert passed, said
        assert said.startswith("The base is in charge since ")
        assert "(cutover 1); the reverse stream runs" in said
    event, said = tick(project)
    for name in ("reverse_lag_seconds", "reverse_retained_wal_bytes", "reverse_apply_errors"):
        assert isinstance(event.metadata[name].value, int | float), name
    assert "the base is in charge since" in said
    assert "nothing is wrong" in said

    # A step on the old stream fails in words, and before anything is touched.
    before = project.on_base("SELECT count(*) FROM migration.attempts")
    for asset, key in (("change_stream", QUARTER), ("validated_slice", WEEKS[0]), ("migrated_slice", WEEKS[0])):
        refused = project.run(asset, key)
        assert not refused.success
        assert "the base is in charge since" in failure_text(refused)
    assert project.on_base("SELECT count(*) FROM migration.attempts") == before

    statement = sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(sql.Identifier(f"{project.subscription()}_back"))
    with project.migration.databases.session("legacy", "test") as legacy:
        legacy.execute(statement)
    for passed, said in checks(project).values():
        assert not passed
        assert "ENABLE, on the legacy" in said
    event, said = tick(project)
    assert event.metadata["problems"].value == 1
    assert "is disabled" in said

    project.on_base(
        "INSERT INTO migration.decommissions (relation, cutover, approved_by, scope, state)"
        " SELECT relation, id, 'Ada', 'table', 'done' FROM migration.cutovers"
    )
    for passed, said in checks(project).values():
        assert passed, said
        assert "the legacy was decommissioned at" in said
