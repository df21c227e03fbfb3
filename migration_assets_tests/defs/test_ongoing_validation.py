"""The rotation: oldest validation first, within the budget, not while there is a reason to wait."""

from collections.abc import Generator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from pydantic import SecretStr

from migration_assets.definitions import build_defs
from migration_assets.defs.resources import MIGRATION_SOURCE, MigrationSource
from migration_assets.defs.schedules import ongoing_validation
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.slices import read_slice, slice_lock
from migration_assets.proof.validation import Candidate, next_in_turn
from migration_assets.runtime import Migration, open_migration
from migration_assets.stream.holding import pause_stream
from migration_assets_tests.defs.conftest import QUARTER, WEEK, WEEKS, Project

NOON = datetime(2024, 7, 1, 12, tzinfo=UTC)


@pytest.fixture
def instance() -> Generator[dg.DagsterInstance]:
    """On disk: a schedule's context refuses one in memory."""
    with dg.instance_for_test() as instance:
        yield instance


def candidate(number: int, rows: int = 10, hours: float | None = 1.0, *, busy: bool = False) -> Candidate:
    """A week that was validated so many hours before noon."""
    at = None if hours is None else NOON - timedelta(hours=hours)
    return Candidate(FiscalWeek(QUARTER, number), rows, at, busy)


def chosen(*candidates: Candidate, budget: int) -> list[int]:
    return [week.number for week in next_in_turn(candidates, budget_rows=budget)]


def test_the_oldest_validation_comes_first_and_none_at_all_before_it() -> None:
    found = chosen(candidate(1, hours=1), candidate(2, hours=None), candidate(3, hours=9), budget=1000)
    assert found == [2, 3, 1]


def test_weeks_of_one_moment_come_in_their_own_order() -> None:
    assert chosen(candidate(3), candidate(1), candidate(2), budget=1000) == [1, 2, 3]


def test_the_budget_is_not_exceeded_and_a_large_week_is_not_passed_by_a_small_one() -> None:
    weeks = (candidate(1, 60, 9), candidate(2, 60, 8), candidate(3, 10, 7))
    assert chosen(*weeks, budget=100) == [1]
    assert chosen(*weeks, budget=120) == [1, 2]
    assert chosen(*weeks, budget=130) == [1, 2, 3]


def test_a_week_larger_than_the_whole_budget_has_a_turn_of_its_own() -> None:
    assert chosen(candidate(1, 500, 9), candidate(2, 1, 8), budget=100) == [1]


def test_who_is_busy_keeps_nobody_waiting() -> None:
    assert chosen(candidate(1, 90, 9, busy=True), candidate(2, 90, 8), budget=100) == [2]
    assert chosen(budget=100) == []


def tick(project: Project, **settings: object) -> list[dg.RunRequest] | str:
    """One evaluation; the requests, or why there are none."""
    migration = project.migration
    changed = Migration(migration.settings.model_copy(update=settings), migration.databases)
    source = {MIGRATION_SOURCE: MigrationSource(changed)}
    with dg.build_schedule_context(
        instance=project.instance, scheduled_execution_time=NOON, resources=source
    ) as context:
        found = ongoing_validation(context)
    if isinstance(found, dg.SkipReason):
        return str(found.skip_message)
    assert isinstance(found, list)
    return found


@pytest.fixture
def rotating(streamed: Project) -> Project:
    """All weeks validated at one moment, but for W05 and W09: these are older, W09 by more."""
    streamed.on_base(
        "UPDATE migration.slices SET validated_at = now() - CASE week WHEN 'W05' THEN interval '1 hour'"
        " WHEN 'W09' THEN interval '2 hours' ELSE interval '1 minute' END"
    )
    return streamed


def test_a_tick_asks_for_a_run_a_week_oldest_first(rotating: Project) -> None:
    requests = tick(rotating)
    assert isinstance(requests, list)
    keys = [str(request.partition_key) for request in requests]
    assert keys[:2] == ["FY25-Q2|W09", "FY25-Q2|W05"]
    assert sorted(keys) == [week.key for week in WEEKS]
    assert [request.run_key for request in requests][:1] == ["FY25-Q2|W09@2024-07-01T12:00"]
    again = tick(rotating)
    assert isinstance(again, list)
    assert [request.run_key for request in again] == [request.run_key for request in requests], "the same tick"


@pytest.mark.long
def test_a_tick_keeps_to_the_budget_of_rows(rotating: Project) -> None:
    [[rows]] = rotating.on_base("SELECT sum(base_rows)::bigint FROM migration.slices WHERE week IN ('W05', 'W09')")
    requests = tick(rotating, ongoing_validation_rows=rows)
    assert isinstance(requests, list)
    assert [str(request.partition_key) for request in requests] == ["FY25-Q2|W09", "FY25-Q2|W05"]


@pytest.mark.long
def test_a_week_that_is_worked_on_or_has_a_run_on_its_way_is_left_out(rotating: Project) -> None:
    rotating.instance.create_run_for_job(
        job_def=build_defs(rotating.migration).resolve_job_def("validate_slices"),
        status=dg.DagsterRunStatus.STARTING,
        tags={"dagster/partition": "FY25-Q2|W09"},
    )
    with rotating.migration.databases.session("base", "test") as base:
        record = read_slice(base, rotating.migration.spec.relation, WEEK)
        assert record is not None
        with slice_lock(base, record):
            requests = tick(rotating)
    assert isinstance(requests, list)
    keys = {str(request.partition_key) for request in requests}
    assert keys == {week.key for week in WEEKS} - {"FY25-Q2|W05", "FY25-Q2|W09"}


@pytest.mark.long
def test_nothing_is_asked_for_while_a_throttle_reason_exists(rotating: Project) -> None:
    reason = tick(rotating, throttle_retained_wal_gb=1e-12)
    assert isinstance(reason, str)
    assert reason.startswith("held back: retained WAL ")


def test_nothing_is_asked_for_while_the_stream_does_not_run(rotating: Project) -> None:
    pause_stream(rotating.migration, "a test")
    assert tick(rotating) == "the change stream is held (a test)"


def test_without_a_stream_a_tick_says_so(empty_project: Project) -> None:
    assert tick(empty_project) == "nothing is under CDC: no change stream was begun yet"


def test_with_a_dead_base_a_tick_says_so_and_does_not_fail(empty_project: Project) -> None:
    reason = tick(dead(empty_project))
    assert isinstance(reason, str)
    assert reason.startswith("the weeks cannot be read: ")


def dead(project: Project) -> Project:
    """The same with a base that is nowhere."""
    nowhere = "postgresql://migrator@127.0.0.1:1/base"
    settings = project.migration.settings.model_copy(update={"base_url": SecretStr(nowhere)})
    return Project(open_migration(settings), project.instance)
