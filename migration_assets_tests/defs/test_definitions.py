"""What a person finds in the UI: asset keys, dependencies, checks, jobs. A change here is a change of the product."""

import os
import subprocess
import sys

import dagster as dg
import pydantic
import pytest

from migration_assets.definitions import build_defs
from migration_assets.defs.archives import RetiredSliceConfig
from migration_assets.defs.cutover import DecommissionConfig, LegacyCutoverConfig
from migration_assets.defs.jobs import LegacyRepairConfig
from migration_assets.defs.partitions import fiscal_quarters, fiscal_weeks, register_quarters
from migration_assets.defs.proofs import ValidatedSliceConfig
from migration_assets.domain.fiscal_calendar import FiscalQuarter

ASSETS: dict[str, tuple[set[str], set[str]]] = {
    "preflight": (set(), {"nothing_blocks", "nothing_warns"}),
    "quarter_partitions": ({"preflight"}, set()),
    "legacy_slice": ({"quarter_partitions"}, set()),
    "migrated_slice": ({"legacy_slice"}, {"row_count_matches", "checksum_matches"}),
    "change_stream": ({"migrated_slice", "quarter_partitions"}, set()),
    "validated_slice": ({"change_stream", "migrated_slice"}, {"row_count_matches", "checksum_matches"}),
    "reconciled_quarter": ({"validated_slice"}, {"every_week_matches", "no_key_is_twice"}),
    "sign_off": ({"reconciled_quarter"}, set()),
    "parquet_archive": ({"validated_slice", "sign_off"}, {"archive_matches"}),
    "retired_slice": ({"parquet_archive"}, set()),
    "restored_slice": ({"parquet_archive", "retired_slice"}, set()),
    "cutover_readiness": ({"sign_off"}, {"ready_for_cutover"}),
    "legacy_cutover": ({"cutover_readiness"}, set()),
    "decommissioned_legacy": ({"legacy_cutover"}, set()),
}
# Those that can be run without their asset.
ALONE = {
    ("quarter_partitions", "runway_is_sufficient"),
    ("quarter_partitions", "no_gap_no_overlap"),
    ("change_stream", "stream_is_healthy"),
    ("change_stream", "lag_within_threshold"),
    ("sign_off", "still_stands"),
    ("parquet_archive", "drilled_lately"),
    ("retired_slice", "nothing_came_late"),
    ("legacy_cutover", "writes_are_accepted"),
    ("legacy_cutover", "reverse_stream_is_healthy"),
}
PER_WEEK = {
    "legacy_slice", "migrated_slice", "validated_slice", "parquet_archive", "retired_slice", "restored_slice"
}  # fmt: skip
WHOLE = {"preflight", "cutover_readiness", "legacy_cutover", "decommissioned_legacy"}
OF_THE_WHOLE = {"rollback", "repair_legacy", "accept_finding"}
PER_QUARTER = {"quarter_partitions", "change_stream", "reconciled_quarter", "sign_off"}


def test_the_graph_is_the_one_that_was_designed() -> None:
    definitions = build_defs()
    found: dict[str, tuple[set[str], set[str]]] = {}
    for spec in definitions.resolve_all_asset_specs():
        assets_def = definitions.resolve_assets_def(spec.key)
        checks = {check.name for check in assets_def.check_specs if check.asset_key == spec.key}
        found[spec.key.to_user_string()] = ({dep.asset_key.to_user_string() for dep in spec.deps}, checks)
    assert found == ASSETS


def test_every_asset_is_described_grouped_and_owned() -> None:
    for spec in build_defs().resolve_all_asset_specs():
        assert spec.description, spec.key
        assert spec.owners, spec.key
        assert spec.group_name != "default", spec.key
        assert spec.kinds & {"postgres", "parquet"}, spec.key


def test_the_partitions_are_weeks_and_quarters() -> None:
    definitions = build_defs()
    for assets, partitions_def in ((PER_WEEK, fiscal_weeks), (PER_QUARTER, fiscal_quarters)):
        for asset in assets:
            assert definitions.resolve_assets_def(asset).partitions_def == partitions_def, asset
    assert set(ASSETS) - WHOLE == PER_WEEK | PER_QUARTER


def test_these_checks_can_be_run_alone() -> None:
    found = {(key.asset_key.to_user_string(), key.name) for check in alone() for key in check.check_keys}
    assert found == ALONE


def test_every_check_is_partitioned_like_its_asset_else_the_last_one_speaks_for_all() -> None:
    definitions = build_defs()
    for asset in ASSETS:
        assets_def = definitions.resolve_assets_def(asset)
        for check in assets_def.check_specs:
            assert check.partitions_def == assets_def.partitions_def, check.key
    for check_def in alone():
        for spec in check_def.check_specs:
            assert spec.partitions_def == definitions.resolve_assets_def(spec.asset_key).partitions_def, spec.key


def test_what_reads_the_legacy_takes_a_place_in_its_pool() -> None:
    definitions = build_defs()
    pools = {name: definitions.resolve_assets_def(name).op.pool for name in ASSETS}
    weekly = {"legacy_slice", "migrated_slice", "validated_slice"}
    assert {name for name in ASSETS if pools[name] == "legacy_read"} == weekly
    # Each of them works on several weeks at once: one at a time.
    assert {name for name in ASSETS if pools[name] == "many_weeks"} == {"change_stream", "reconciled_quarter"}


def test_the_jobs_run_one_week_a_run() -> None:
    names = {job.name for job in build_defs().resolve_all_job_defs()} - {"__ASSET_JOB"} - OF_THE_WHOLE
    assert names == {
        "migrate_quarter", "verify_slices", "validate_slices", "repair_slices",
        "archive_slices", "verify_archives", "retire_slices", "restore_slices", "restore_drill",
    }  # fmt: skip
    for name in names:
        job = build_defs().resolve_job_def(name)
        assert isinstance(job.partitions_def, dg.MultiPartitionsDefinition)
        assert job.executor_def is dg.in_process_executor


def test_a_cutover_is_a_rehearsal_unless_somebody_says_otherwise_and_nobody_does_it_by_default() -> None:
    assert LegacyCutoverConfig(approved_by="Ada").rehearse
    with pytest.raises(pydantic.ValidationError):
        LegacyCutoverConfig()  # pyright: ignore[reportCallIssue]
    job = build_defs().resolve_job_def("rollback")
    assert job.partitions_def is None
    assert job.executor_def is dg.in_process_executor
    assert job.tags["dagster/max_retries"] == "0"


def test_a_repair_is_a_dry_run_unless_somebody_says_otherwise() -> None:
    assert LegacyRepairConfig(weeks=["FY25-Q2|W05"]).dry_run
    job = build_defs().resolve_job_def("repair_slices")
    assert job.partitioned_config is not None
    config = job.partitioned_config.get_run_config_for_partition_key("FY25-Q2|W05")
    assert config == {"ops": {"validated_slice": {"config": {"action": "REPAIR", "dry_run": True}}}}
    assert ValidatedSliceConfig().dry_run


def test_the_legacy_stays_open_unless_somebody_says_otherwise() -> None:
    config = DecommissionConfig(approved_by="Ada")
    assert config.dry_run
    assert not config.accept_stale


def test_nothing_leaves_the_base_unless_somebody_says_so() -> None:
    job = build_defs().resolve_job_def("retire_slices")
    assert job.partitioned_config is not None
    config = job.partitioned_config.get_run_config_for_partition_key("FY25-Q2|W05")
    assert config == {"ops": {"retired_slice": {"config": {"dry_run": True}}}}
    assert RetiredSliceConfig().dry_run
    assert not RetiredSliceConfig().confirm


def test_what_reads_the_legacy_by_the_clock_waits_to_be_started_and_what_only_watches_runs() -> None:
    repository = build_defs().get_repository_def()
    schedules = {one.name: (one.cron_schedule, one.job_name, one.default_status) for one in repository.schedule_defs}
    assert schedules == {"ongoing_validation": ("*/15 * * * *", "validate_slices", dg.DefaultScheduleStatus.STOPPED)}
    sensors = {one.name: (one.minimum_interval_seconds, one.default_status) for one in repository.sensor_defs}
    assert sensors == {
        "quarter_opener": (60, dg.DefaultSensorStatus.RUNNING),
        "change_stream_monitor": (30, dg.DefaultSensorStatus.RUNNING),
        "retention": (15 * 60, dg.DefaultSensorStatus.STOPPED),
        "run_failure_alert": (30, dg.DefaultSensorStatus.RUNNING),
    }


def alone() -> list[dg.AssetsDefinition]:
    return list(build_defs().asset_checks or [])


def test_definitions_load_in_an_empty_environment() -> None:
    code = "from migration_assets.definitions import defs; assert defs.resolve_all_asset_keys()"
    result = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", code],
        env={"PATH": os.defpath}, cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_quarters_are_registered_chronologically_and_once() -> None:
    with dg.DagsterInstance.ephemeral() as instance:  # pyright: ignore[reportUnknownMemberType]
        quarters = [FiscalQuarter(2025, 2), FiscalQuarter(2024, 3), FiscalQuarter(2025, 1), FiscalQuarter(2024, 4)]
        assert len(register_quarters(instance, quarters)) == 4
        assert register_quarters(instance, quarters) == []
        assert instance.get_dynamic_partitions("fiscal_quarter") == ["FY24-Q3", "FY24-Q4", "FY25-Q1", "FY25-Q2"]
