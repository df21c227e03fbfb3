"""A migration of a small legacy, ready for Dagster runs in this process."""

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import dagster as dg
import psycopg
import pytest
from pydantic import SecretStr

from migration_assets.copying.weeks import copy_week, repair_week
from migration_assets.definitions import build_defs
from migration_assets.defs.partitions import fiscal_weeks, partition_key, register_quarters
from migration_assets.defs.slices import SliceAction
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalQuarter, FiscalWeek
from migration_assets.domain.table_spec import QualifiedName, TableSpec
from migration_assets.embedded.bookings import AS_OF, create_bookings
from migration_assets.postgres.sessions import Databases as Sides
from migration_assets.preflight.run import examine
from migration_assets.quarters.opening import open_quarter
from migration_assets.runtime import Migration, open_migration
from migration_assets.settings import MigrationSettings
from migration_assets.stream.holding import resume_stream, start_stream
from migration_assets_tests.clones import Clones
from migration_assets_tests.conftest import Databases
from migration_assets_tests.ground import Ground

QUARTER = FiscalQuarter(2025, 2)
WEEK = FiscalWeek(QUARTER, 5)
WEEKS = FiscalCalendar.weeks_of(QUARTER)
_CONTENT = "SELECT count(*), sum(hashtextextended(b::text, 0)) FROM public.amenity_bookings b"
AMENITY_BOOKINGS = TableSpec(QualifiedName("public", "amenity_bookings"), "booked_at")
LEAF = "public.amenity_bookings_fy25_q2_w05"


@dataclass(frozen=True)
class Project:
    """The definitions on one migration, and an instance that remembers their runs."""

    migration: Migration
    instance: dg.DagsterInstance

    def run(
        self,
        asset: str,
        key: FiscalQuarter | FiscalWeek | None = None,
        config: dict[str, Any] | None = None,
        tags: dict[str, str] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Materialize one asset for one partition."""
        job = build_defs(self.migration).resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            asset_selection=[dg.AssetKey(asset)],
            instance=self.instance,
            raise_on_error=False,
            run_config={"ops": {asset: {"config": config}}} if config else None,
            partition_key=None if key is None else _key(key),
            tags=tags,
        )

    def prepared(self) -> "Project":
        """Preflight taken and FY25-Q2 opened, by runs; see `opened_project`."""
        assert self.run("preflight").success
        assert self.run("quarter_partitions", QUARTER).success
        return self

    def verify(self, week: FiscalWeek) -> dg.ExecuteInProcessResult:
        """Read the week again."""
        return self.run("migrated_slice", week, {"action": SliceAction.VERIFY.name})

    def run_job(
        self, job: str, week: FiscalWeek, config: dict[str, dict[str, Any]] | None = None
    ) -> dg.ExecuteInProcessResult:
        """A job by its name for one week; `config` maps assets to what a person changes in the launchpad."""
        return (
            build_defs(self.migration)
            .resolve_job_def(job)
            .execute_in_process(
                instance=self.instance,
                raise_on_error=False,
                partition_key=partition_key(week),
                run_config={"ops": {asset: {"config": given} for asset, given in config.items()}} if config else None,
            )
        )

    def run_check(self, asset: str, check: str, quarter: FiscalQuarter = QUARTER) -> dg.AssetCheckEvaluation:
        """One check alone, without its asset."""
        key = dg.AssetCheckKey(dg.AssetKey(asset), check)
        alone = dg.define_asset_job("alone", selection=dg.AssetSelection.checks(key))  # pyright: ignore[reportUnknownMemberType]
        job = dg.Definitions.merge(build_defs(self.migration), dg.Definitions(jobs=[alone])).resolve_job_def("alone")
        # As its page launches it: by the tag, since a run without assets takes no partition_key.
        result = job.execute_in_process(instance=self.instance, tags={"dagster/partition": quarter.key})
        [evaluation] = result.get_asset_check_evaluations()
        assert evaluation.check_name == check
        assert not any(event.is_step_materialization for event in result.all_events)
        return evaluation

    def partitions(self, asset: str) -> dict[str, str]:
        """Week → what its square on the asset's page shows, of those that were ever run."""
        found = self.instance.get_status_by_partition(
            dg.AssetKey(asset), [partition_key(week) for week in WEEKS], fiscal_weeks
        )
        assert found is not None
        return {FiscalWeek.parse(str(key)).name: status.name for key, status in found.items() if status is not None}

    def on_base(self, statement: str) -> list[tuple[Any, ...]]:
        """Run SQL on the base as a person with psql would."""
        return self._on(self.migration.databases.base_url, statement)

    def on_legacy(self, statement: str) -> list[tuple[Any, ...]]:
        """The same on the legacy."""
        return self._on(self.migration.databases.legacy_url, statement)

    @staticmethod
    def _on(url: str, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def subscription(self) -> str:
        """The name that the stream's three parts share."""
        return str(self.on_base("SELECT subscription FROM migration.streams")[0][0])


def _key(key: FiscalQuarter | FiscalWeek) -> str:
    return partition_key(key) if isinstance(key, FiscalWeek) else key.key


def at(project: Project, now: datetime = AS_OF, **settings: Any) -> Project:
    """The same with another clock."""
    migration = project.migration
    changed = migration.settings.model_copy(update={"as_of": now, **settings})
    return Project(Migration(changed, migration.databases), project.instance)


def check_results(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    """Check name → passed, of one run."""
    return {e.check_name: e.passed for e in result.get_asset_check_evaluations()}


def table_rows(value: dg.MetadataValue) -> list[dict[str, Any]]:
    """The records of a table in metadata."""
    assert isinstance(value, dg.TableMetadataValue)
    return [dict(record.data) for record in value.records]


def failure_text(result: dg.ExecuteInProcessResult) -> str:
    """What the failed step tells its reader."""
    [event] = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data
    return (data.user_failure_data.description or "") if data.user_failure_data else str(data.error)


def keep_only_the_quarter(migration: Migration) -> None:
    """The legacy's other quarters go: rows that no week of the base has stop a cutover."""
    bounds = [migration.calendar.bounds(week) for week in (WEEKS[0], WEEKS[-1])]
    with psycopg.connect(migration.databases.legacy_url) as connection:
        connection.execute(
            "DELETE FROM public.amenity_bookings WHERE booked_at < %s OR booked_at >= %s",
            [bounds[0].lower, bounds[1].upper],
        )


@pytest.fixture
def instance() -> Generator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:  # pyright: ignore[reportUnknownMemberType]
        yield instance


def migration_of(legacy_url: str, base_url: str) -> Migration:
    """Settings of a test, whatever the environment says."""
    return open_migration(
        MigrationSettings(
            _env_file=None,  # pyright: ignore[reportCallIssue]
            legacy_url=SecretStr(legacy_url),
            base_url=SecretStr(base_url),
            as_of=None,
            progress_seconds=0.001,
            lock_patience_seconds=5,
        )
    )


@pytest.fixture
def empty_project(databases: Databases, instance: dg.DagsterInstance) -> Project:
    """Both databases empty."""
    return Project(migration_of(databases.legacy_url, databases.base_url), instance)


@pytest.fixture
def project(empty_project: Project) -> Project:
    """4,000 bookings in the legacy, nothing in the base."""
    with psycopg.connect(empty_project.migration.databases.legacy_url) as connection:
        create_bookings(connection, rows=4000)
    return empty_project


@pytest.fixture
def opened_project(clones: Clones, instance: dg.DagsterInstance) -> Generator[Project]:
    """Preflight taken and FY25-Q2 opened, and an instance that knows what the preflight registers."""
    with clones.made("opened_quarter", _open) as databases:
        yield _known_to(instance, databases)


@pytest.fixture
def followed_project(clones: Clones, instance: dg.DagsterInstance) -> Generator[Project]:
    """The same with the quarter under CDC."""

    def follow(ground: Ground) -> None:
        start_stream(_open(ground.databases), QUARTER)

    with clones.grown("followed_quarter", follow, AMENITY_BOOKINGS) as databases:
        yield _known_to(instance, databases)


def _open(databases: Sides) -> Migration:
    migration = migration_of(databases.legacy_url, databases.base_url)
    with psycopg.connect(databases.legacy_url) as connection:
        create_bookings(connection, rows=4000)
    examine(migration)
    open_quarter(migration, QUARTER)
    return migration


def _known_to(instance: dg.DagsterInstance, databases: Sides) -> Project:
    register_quarters(instance, FiscalCalendar().quarters_between(FiscalQuarter(2024, 3), QUARTER))
    return Project(migration_of(databases.legacy_url, databases.base_url), instance)


def copy_weeks(migration: Migration, weeks: Sequence[FiscalWeek]) -> None:
    """Without Dagster, two at a time: for weeks of which a test wants no more than that they are there."""

    def copy(week: FiscalWeek) -> None:
        copy_week(migration, week)

    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(copy, weeks))


@contextmanager
def quarter_under_cdc(clones: Clones) -> Generator[Migration]:
    """FY25-Q2 of 4,000 bookings under CDC, in databases of its own."""

    def migrate(ground: Ground) -> None:
        migration = _open(ground.databases)
        copy_weeks(migration, WEEKS)
        start_stream(migration, QUARTER)

    with clones.grown("quarter_under_cdc", migrate, AMENITY_BOOKINGS) as databases:
        yield migration_of(databases.legacy_url, databases.base_url)


@pytest.fixture(scope="package")
def migration_under_cdc(clones: Clones) -> Generator[Migration]:
    """Made once: `streamed` hands it to tests, and mends what they leave."""
    with quarter_under_cdc(clones) as migration:
        yield migration


@pytest.fixture
def streamed(migration_under_cdc: Migration, instance: dg.DagsterInstance) -> Generator[Project]:
    """FY25-Q2 under CDC and equal; an instance that knows the quarter, and nothing of any run."""
    project = Project(migration_under_cdc, instance)
    register_quarters(instance, [QUARTER])
    before = project.on_base(_CONTENT)
    yield project
    resume_stream(migration_under_cdc)
    if project.on_base(_CONTENT) != before:
        for number in (5, 6):  # the only ones that tests damage
            repair_week(migration_under_cdc, FiscalWeek(QUARTER, number), dry_run=False)
        assert project.on_base(_CONTENT) == before
