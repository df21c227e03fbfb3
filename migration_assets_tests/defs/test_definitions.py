"""What a person finds in the UI: asset keys, dependencies, checks, jobs. A change here is a change of the product."""

import os
import subprocess
import sys

import dagster as dg

from migration_assets.definitions import build_defs
from migration_assets.defs.partitions import register_quarters
from migration_assets.domain.fiscal_calendar import FiscalQuarter

ASSETS: dict[str, tuple[set[str], set[str]]] = {
    "preflight": (set(), {"nothing_blocks", "nothing_warns"}),
    "quarter_partitions": ({"preflight"}, set()),
    "legacy_slice": ({"quarter_partitions"}, set()),
    "migrated_slice": ({"legacy_slice"}, {"row_count_matches", "checksum_matches"}),
}


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
        assert "postgres" in spec.kinds, spec.key


def test_every_check_of_a_week_is_partitioned_else_the_last_week_speaks_for_all() -> None:
    assets_def = build_defs().resolve_assets_def("migrated_slice")
    for check in assets_def.check_specs:
        assert check.partitions_def == assets_def.partitions_def


def test_the_jobs_run_one_week_a_run() -> None:
    names = {job.name for job in build_defs().resolve_all_job_defs()} - {"__ASSET_JOB"}
    assert names == {"migrate_quarter", "verify_slices"}
    for name in names:
        job = build_defs().resolve_job_def(name)
        assert isinstance(job.partitions_def, dg.MultiPartitionsDefinition)
        assert job.executor_def is dg.in_process_executor


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
