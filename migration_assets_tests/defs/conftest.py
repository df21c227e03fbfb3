"""A migration of a small legacy, ready for Dagster runs in this process."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import dagster as dg
import psycopg
import pytest
from pydantic import SecretStr

from migration_assets.definitions import build_defs
from migration_assets.defs.assets.migrated_slice import SliceAction
from migration_assets.defs.partitions import partition_key
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.embedded.bookings import create_bookings
from migration_assets.runtime import Migration, open_migration
from migration_assets.settings import MigrationSettings
from migration_assets_tests.conftest import Databases

QUARTER = FiscalQuarter(2025, 2)
WEEK = FiscalWeek(QUARTER, 5)


@dataclass(frozen=True)
class Project:
    """The definitions on one migration, and an instance that remembers their runs."""

    migration: Migration
    instance: dg.DagsterInstance

    def run(
        self, asset: str, key: FiscalQuarter | FiscalWeek | None = None, config: dict[str, Any] | None = None
    ) -> dg.ExecuteInProcessResult:
        """Materialize one asset for one partition."""
        job = build_defs(self.migration).resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            asset_selection=[dg.AssetKey(asset)],
            instance=self.instance,
            raise_on_error=False,
            run_config={"ops": {asset: {"config": config}}} if config else None,
            partition_key=None if key is None else _key(key),
        )

    def prepared(self) -> "Project":
        """Preflight taken and FY25-Q2 opened."""
        assert self.run("preflight").success
        assert self.run("quarter_partitions", QUARTER).success
        return self

    def verify(self, week: FiscalWeek) -> dg.ExecuteInProcessResult:
        """Read the week again."""
        return self.run("migrated_slice", week, {"action": SliceAction.VERIFY.name})

    def on_base(self, statement: str) -> list[tuple[Any, ...]]:
        """Run SQL on the base as a person with psql would."""
        with psycopg.connect(self.migration.databases.base_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


def _key(key: FiscalQuarter | FiscalWeek) -> str:
    return partition_key(key) if isinstance(key, FiscalWeek) else key.key


def check_results(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    """Check name → passed, of one run."""
    return {e.check_name: e.passed for e in result.get_asset_check_evaluations()}


def failure_text(result: dg.ExecuteInProcessResult) -> str:
    """What the failed step tells its reader."""
    [event] = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data
    return (data.user_failure_data.description or "") if data.user_failure_data else str(data.error)


@pytest.fixture
def instance() -> Generator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:  # pyright: ignore[reportUnknownMemberType]
        yield instance


@pytest.fixture
def empty_project(databases: Databases, instance: dg.DagsterInstance) -> Project:
    """Both databases empty."""
    settings = MigrationSettings(
        _env_file=None,  # pyright: ignore[reportCallIssue]
        legacy_url=SecretStr(databases.legacy_url),
        base_url=SecretStr(databases.base_url),
        as_of=None,
        progress_seconds=0.001,
        lock_patience_seconds=5,
    )
    return Project(open_migration(settings), instance)


@pytest.fixture
def project(empty_project: Project) -> Project:
    """4,000 bookings in the legacy, nothing in the base."""
    with psycopg.connect(empty_project.migration.databases.legacy_url) as connection:
        create_bookings(connection, rows=4000)
    return empty_project
