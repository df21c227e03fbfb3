"""The opener: asks for exactly what is needed, once, in one tick; skips with a reason for everything else."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from pydantic import SecretStr

from migration_assets.definitions import build_defs
from migration_assets.defs import sensors as opener
from migration_assets.defs.partitions import QUARTERS_NAME
from migration_assets.defs.resources import MIGRATION_SOURCE, MigrationSource, source_resource
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.embedded.bookings import AS_OF
from migration_assets.ledger.slices import read_slices
from migration_assets.quarters.opening import open_quarter
from migration_assets.runtime import open_migration
from migration_assets.stream.holding import pause_stream, resume_stream
from migration_assets_tests.defs.conftest import QUARTER, Project, at, check_results, failure_text

NEXT = QUARTER.next
BOTH = ["quarter_partitions", "change_stream"]


@pytest.fixture
def opened(opened_project: Project) -> Project:
    """FY25-Q2 opened by people, on its last Monday; no stream."""
    return at(opened_project)


@pytest.fixture
def followed(followed_project: Project) -> Project:
    """The same under CDC."""
    return at(followed_project)


def tick(project: Project) -> dg.SensorResult | dg.SkipReason:
    source = {MIGRATION_SOURCE: MigrationSource(project.migration)}
    with dg.build_sensor_context(instance=project.instance, resources=source) as context:
        found = opener.quarter_opener(context)
    assert isinstance(found, dg.SensorResult | dg.SkipReason)
    return found


def skipped(project: Project) -> str:
    found = tick(project)
    assert isinstance(found, dg.SkipReason), found
    return str(found.skip_message)


def asked(project: Project) -> list[tuple[str, list[str]]]:
    """The quarters and assets that a tick asks for."""
    return [
        (str(request.partition_key), [key.to_user_string() for key in request.asset_selection or []])
        for request in result(project).run_requests or []
    ]


def result(project: Project) -> dg.SensorResult:
    found = tick(project)
    assert isinstance(found, dg.SensorResult), found
    return found


def execute(project: Project, found: dg.SensorResult) -> list[dg.ExecuteInProcessResult]:
    """What Dagster's daemon does with it: first the keys, then the runs."""
    for added in found.dynamic_partitions_requests or []:
        project.instance.add_dynamic_partitions(added.partitions_def_name, list(added.partition_keys))
    job = build_defs(project.migration).resolve_implicit_global_asset_job_def()
    return [
        job.execute_in_process(
            asset_selection=list(request.asset_selection or []),
            partition_key=request.partition_key,
            tags=dict(request.tags),
            instance=project.instance,
            raise_on_error=False,
        )
        for request in found.run_requests or []
    ]


def under_cdc(project: Project, quarter: FiscalQuarter) -> int:
    with project.migration.databases.session("base", "test") as base:
        records = read_slices(base, project.migration.spec.relation, quarter)
    return sum(record.under_cdc for record in records)


def test_before_anybody_opened_a_quarter_it_skips_and_leaves_the_base_as_it_is(empty_project: Project) -> None:
    assert skipped(at(empty_project)) == "no quarter was ever opened: the migration has not begun"
    assert empty_project.on_base("SELECT to_regnamespace('migration')") == [(None,)]


@pytest.mark.long
@pytest.mark.parametrize("side", ["base", "legacy"])
def test_a_server_that_is_away_is_a_reason_to_skip(followed: Project, side: str) -> None:
    open_quarter(followed.migration, NEXT)
    nowhere = SecretStr("postgresql://migrator:secret@127.0.0.1:1/nowhere")
    settings = followed.migration.settings.model_copy(update={f"{side}_url": nowhere})
    reason = skipped(Project(open_migration(settings), followed.instance))
    assert reason.startswith("the runway cannot be determined: ")
    assert "secret" not in reason


def test_where_nothing_was_ever_started_it_skips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIGRATION_VAR", str(tmp_path / "var"))
    with (
        dg.DagsterInstance.ephemeral() as instance,  # pyright: ignore[reportUnknownMemberType]
        dg.build_sensor_context(instance=instance, resources={MIGRATION_SOURCE: source_resource(None)}) as context,
    ):
        found = opener.quarter_opener(context)
    assert isinstance(found, dg.SkipReason)
    assert str(found.skip_message).startswith("the runway cannot be determined: ")


def test_without_a_preflight_that_lets_pass_nothing_is_asked_for(opened: Project) -> None:
    opened.on_base(
        """UPDATE migration.preflights SET findings = jsonb_set(jsonb_set(findings, '{0,severity}', '"blocking"'),"""
        """ '{0,remedy}', '"mend it"')"""
    )
    assert skipped(opened).startswith("preflight blocks: ")
    opened.on_base("DELETE FROM migration.preflights")
    assert skipped(opened) == "no preflight was taken: materialize preflight"


def test_without_a_stream_it_asks_for_the_places_alone(opened: Project) -> None:
    assert asked(opened) == [("FY25-Q3", ["quarter_partitions"])]


def test_with_a_stream_one_tick_adds_the_keys_and_asks_for_one_run_that_opens_and_joins(followed: Project) -> None:
    followed.instance.delete_dynamic_partition(QUARTERS_NAME, "FY25-Q2")
    found = result(at(followed, runway_quarters=3))
    assert [(r.partition_key, r.run_key) for r in found.run_requests or []] == [
        ("FY25-Q3", "FY25-Q3:quarter_partitions+change_stream#1"),
        ("FY25-Q4", "FY25-Q4:quarter_partitions+change_stream#1"),
    ]
    [added] = found.dynamic_partitions_requests or []
    assert list(added.partition_keys) == ["FY25-Q2", "FY25-Q3", "FY25-Q4"], "in the order of time, without known ones"
    assert asked(followed) == [("FY25-Q3", BOTH)]


def test_the_run_opens_the_quarter_and_brings_it_under_cdc_and_the_next_tick_skips(followed: Project) -> None:
    [run] = execute(followed, result(followed))
    assert run.success, failure_text(run)
    steps = [e.step_key for e in run.all_events if e.is_step_success and e.step_key in BOTH]
    assert steps == BOTH, "in this order"
    assert check_results(run)["runway_is_sufficient"], "looked at when the quarter was under CDC, not before"
    assert all(check_results(run).values()), check_results(run)
    assert under_cdc(followed, NEXT) == 13
    assert skipped(followed) == "the runway is 98.5 days, to 2024-10-01 00:00 UTC: FY25-Q4|W01 has no leaf"
    followed.on_legacy("UPDATE amenity_bookings SET booked_at = '2024-07-01 00:00:00Z' WHERE id % 3 = 0")
    for step in (followed.run("reconciled_quarter", quarter) for quarter in (QUARTER, NEXT)):
        assert step.success, failure_text(step)
    [[moved]] = followed.on_base("SELECT count(*) FROM amenity_bookings WHERE booked_at = '2024-07-01 00:00:00Z'")
    assert moved > 1000


@pytest.mark.long
def test_a_clock_that_goes_on_opens_one_quarter_after_the_other(followed: Project) -> None:
    """From the last days of June over the turn of the year: keys in order, every run green, nothing asked for twice."""
    now = AS_OF
    while now < datetime(2025, 1, 2, tzinfo=UTC):
        here = at(followed, now)
        if isinstance(found := tick(here), dg.SensorResult):
            assert [run.success for run in execute(here, found)] == [True]
        now += timedelta(days=9)
    assert followed.instance.get_dynamic_partitions(QUARTERS_NAME)[-4:] == ["FY25-Q2", "FY25-Q3", "FY25-Q4", "FY26-Q1"]
    assert all(under_cdc(followed, quarter) == 13 for quarter in (NEXT, NEXT.next, FiscalQuarter(2026, 1)))
    quiet = at(followed, datetime(2024, 12, 31, tzinfo=UTC))
    assert quiet.run_check("quarter_partitions", "runway_is_sufficient").passed
    assert quiet.run_check("quarter_partitions", "no_gap_no_overlap").passed


@pytest.mark.long
def test_after_a_long_downtime_no_quarter_between_is_left_without_places(followed: Project) -> None:
    late = at(followed, datetime(2025, 2, 1, tzinfo=UTC))
    found = result(late)
    assert [
        (str(request.partition_key), [key.to_user_string() for key in request.asset_selection or []])
        for request in found.run_requests or []
    ] == [
        ("FY25-Q3", ["quarter_partitions"]),
        ("FY25-Q4", ["quarter_partitions"]),
        ("FY26-Q1", BOTH),
        ("FY26-Q2", BOTH),
    ]
    # The second run fails, the others are well: later ticks still say it.
    wanted = [request for request in found.run_requests or [] if request.partition_key != "FY25-Q4"]
    lost = dg.SensorResult(run_requests=wanted, dynamic_partitions_requests=found.dynamic_partitions_requests)
    assert all(run.success for run in execute(late, lost))
    assert "FY25-Q4 lies between open quarters and is not open itself" in skipped(late)
    open_quarter(late.migration, FiscalQuarter(2025, 4))
    assert late.run_check("quarter_partitions", "no_gap_no_overlap").passed
    assert "lies between" not in skipped(late)


def test_a_tick_that_is_evaluated_twice_asks_for_one_run(followed: Project) -> None:
    keys = [[request.run_key for request in result(followed).run_requests or []] for _ in range(2)]
    assert keys[0] == keys[1]


def test_while_a_run_of_the_quarter_is_under_way_no_other_is_asked_for(followed: Project) -> None:
    run = followed.instance.create_run_for_job(
        job_def=build_defs(followed.migration).resolve_job_def("validate_slices"),
        status=dg.DagsterRunStatus.STARTED,
        tags={"dagster/partition": "FY25-Q3"},
    )
    execute(followed, dg.SensorResult(dynamic_partitions_requests=result_keys(followed)))
    assert "a run for FY25-Q3 is under way" in skipped(followed)
    followed.instance.report_run_failed(run)
    assert asked(followed) == [("FY25-Q3", BOTH)], "somebody else's failure is no reason to wait"


def result_keys(project: Project) -> list[dg.AddDynamicPartitionsRequest]:
    """A tick that only adds keys, as while a run is under way."""
    found = result(project)
    return [one for one in found.dynamic_partitions_requests or [] if isinstance(one, dg.AddDynamicPartitionsRequest)]


@pytest.mark.long
def test_a_run_that_failed_is_tried_again_after_an_hour_and_not_before(
    followed: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed.on_base("CREATE TABLE public.amenity_bookings_fy25_q3 (precious integer)")
    [failed] = execute(followed, result(followed))
    assert not failed.success
    assert "the last run for it ended at" in skipped(followed)
    monkeypatch.setattr(opener, "RETRY_AFTER", timedelta(0))
    followed.on_base("DROP TABLE public.amenity_bookings_fy25_q3")
    again = result(followed)
    assert [request.run_key for request in again.run_requests or []] == ["FY25-Q3:quarter_partitions+change_stream#2"]
    assert [run.success for run in execute(followed, again)] == [True]


@pytest.mark.long
def test_a_stream_that_a_person_holds_is_left_alone_and_the_places_are_made(followed: Project) -> None:
    pause_stream(followed.migration, "a holiday")
    found = result(followed)
    assert [run.success for run in execute(followed, found)] == [True]
    assert "FY25-Q3 does not join the stream now: the change stream is held (a holiday)" in skipped(followed)
    resume_stream(followed.migration)
    assert asked(followed) == [("FY25-Q3", BOTH)]


@pytest.mark.long
def test_a_quarter_with_rows_that_were_never_copied_waits_for_people(followed: Project) -> None:
    """While older quarters are moved first, nobody is told every hour that the newest is not copied yet."""
    followed.on_legacy("UPDATE amenity_bookings SET booked_at = '2024-07-10Z' WHERE id % 3 = 0")
    here = at(followed, join_rows=50)
    assert asked(here) == [("FY25-Q3", ["quarter_partitions"])]
    execute(here, result(here))
    assert "FY25-Q3 does not join the stream now: rows that were never copied (W02 about " in skipped(here)
    assert asked(followed) == [("FY25-Q3", BOTH)], "so few join as they are"


def test_a_leaf_that_somebody_dropped_is_made_again_where_nothing_can_be_lost_with_it(opened: Project) -> None:
    open_quarter(opened.migration, NEXT)
    opened.on_base("DROP TABLE amenity_bookings_fy25_q3_w13")
    [run] = execute(opened, result(opened))
    assert run.success
    assert skipped(opened).startswith("the runway is 98.5 days")


@pytest.mark.long
def test_a_leaf_that_was_under_cdc_is_not_made_again_by_itself(followed: Project) -> None:
    """Empty, it would let the stream go on as if nothing had happened."""
    execute(followed, result(followed))
    followed.on_base("DROP TABLE amenity_bookings_fy25_q3_w13")
    assert "W13 is under CDC and lost its leaf; see the alert `leaf missing`" in skipped(followed)
