"""Life after the cutover, as people and sensors see it: quarters open, weeks are archived and leave, nobody asks the
legacy, and what has lost its meaning says so. In the order of the file, at whose end all of it is given up.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from migration_assets.abandon.abandon import abandon_migration
from migration_assets.archive.archiving import archive_week
from migration_assets.copying.weeks import (
    copy_week,
    repair_week,
    undo_repair,
    validate_week,
    verify_week,
)
from migration_assets.cutover.machine import cut_over
from migration_assets.cutover.observing import look_at_reverse
from migration_assets.definitions import build_defs
from migration_assets.defs.resources import MIGRATION_SOURCE, MigrationSource
from migration_assets.defs.schedules import ongoing_validation
from migration_assets.domain.errors import SliceStateError
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.domain.states import BaseInChargeError, Freshness, SliceState
from migration_assets.domain.table_spec import leaf_name
from migration_assets.evidence.approval import sign_off_quarter, sign_off_state
from migration_assets.ledger.retirements import Step
from migration_assets.postgres.sessions import Databases
from migration_assets.preflight.run import examine
from migration_assets.proof.reconciliation import reconcile_quarter
from migration_assets.quarters.opening import look_ahead, open_quarter, see_runway
from migration_assets.readiness.readiness import examine_cutover
from migration_assets.readiness.step import cutover_plan, roll_back
from migration_assets.retirement.policy import due_weeks
from migration_assets.retirement.restoring import drill_week, restore_week
from migration_assets.retirement.retiring import late_in, retire_week
from migration_assets.runtime import Migration
from migration_assets.stream.holding import start_stream
from migration_assets.terminal.figures import Seen
from migration_assets.watch.overview import read_overview
from migration_assets_tests.archive.conftest import QUARTER, WEEKS, with_settings
from migration_assets_tests.archive.test_leaving_and_coming_back import on, state_of
from migration_assets_tests.confirmed_deeds import code_for_abandon, code_for_rollback, let_leave
from migration_assets_tests.defs.conftest import keep_only_the_quarter

SUMMER, AUTUMN = QUARTER.next, QUARTER.next.next
BORN = tuple(FiscalWeek(SUMMER, number) for number in range(1, 14))
STEPS: dict[str, Callable[[Migration], object]] = {
    "copy": lambda m: copy_week(m, WEEKS[4]),
    "verify": lambda m: verify_week(m, WEEKS[4]),
    "validate": lambda m: validate_week(m, WEEKS[4]),
    "repair": lambda m: repair_week(m, WEEKS[4]),
    "undo": lambda m: undo_repair(m, 1),
    "stream": lambda m: start_stream(m, QUARTER, rebuild=True),
    "reconcile": lambda m: reconcile_quarter(m, QUARTER),
    "sign off": lambda m: sign_off_quarter(m, QUARTER, "Ada Lovelace"),
    "preflight": examine,
    "abandon": lambda m: abandon_migration(m, apply=True),
}


@pytest.fixture(scope="module")
def signed(signed: Migration) -> Migration:
    """The base in charge since a moment ago; of the legacy's quarters only this one was to be migrated."""
    keep_only_the_quarter(signed)
    assert cut_over(cutover_plan(signed), approved_by="Ada Lovelace", rehearse=False).outcome == "succeeded"
    return signed


@pytest.fixture
def alone(signed: Migration) -> Migration:
    """The same, where the legacy does not answer any more."""
    nowhere = Databases("postgresql://migrator@127.0.0.1:1/nowhere", signed.databases.base_url)
    return replace(signed, databases=nowhere)


def book(migration: Migration, when: str, rows: int = 3) -> None:
    """An application writes to the base."""
    on(
        migration.databases.base_url,
        "INSERT INTO public.amenity_bookings (booked_at, amenity, resident_id, property_id, starts_at, ends_at)"
        " SELECT %s::timestamptz + n * interval '1 minute', 'pool', n, 1, now(), now() + interval '1 hour'"
        " FROM generate_series(1, %s) n",
        when,
        rows,
    )


def week_rows(url: str, migration: Migration, week: FiscalWeek) -> list[str]:
    bounds = migration.calendar.bounds(week)
    query = "SELECT b::text FROM public.amenity_bookings b WHERE booked_at >= %s AND booked_at < %s ORDER BY 1"
    return [str(row[0]) for row in on(url, query, bounds.lower, bounds.upper)]


def arrived(migration: Migration) -> None:
    """All that was written to the base until now is on the legacy, and nothing was in the way."""
    health = look_at_reverse(cutover_plan(migration))
    assert health is not None
    assert health.healthy


@pytest.mark.long
@pytest.mark.parametrize("step", STEPS)
def test_what_rests_on_the_legacy_is_refused_before_anybody_asks_it(alone: Migration, step: str) -> None:
    with pytest.raises(BaseInChargeError, match="the base is in charge since") as caught:
        STEPS[step](alone)
    assert "migration-assets rollback" in str(caught.value)


@pytest.mark.long
def test_readiness_says_one_thing(alone: Migration) -> None:
    examined = examine_cutover(alone)
    assert [finding.code for finding in examined.findings] == ["base_in_charge"]
    assert not examined.ready


@pytest.mark.long
def test_ongoing_validation_skips_and_says_why(alone: Migration) -> None:
    with (
        dg.instance_for_test() as instance,
        dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=datetime(2024, 11, 1, tzinfo=UTC),
            resources={MIGRATION_SOURCE: MigrationSource(alone)},
        ) as context,
    ):
        found = ongoing_validation(context)
    assert isinstance(found, dg.SkipReason)
    assert "there is nothing to validate against" in str(found.skip_message)


@pytest.mark.long
def test_a_sign_off_from_before_stands_whatever_its_age(alone: Migration) -> None:
    on(
        alone.databases.base_url,
        "UPDATE migration.slices SET validated_at = validated_at - interval '900 days',"
        " changed_at = changed_at - interval '900 days'",
    )
    assert sign_off_state(alone, QUARTER).stands
    with alone.databases.session("base", "test") as base:
        overview = read_overview(base, alone.spec)
    seen = Seen.of(overview, timedelta(days=1))
    assert {seen.freshness(record) for record in overview.slices if record.validated} == {Freshness.FRESH}


@pytest.mark.long
def test_quarters_open_without_the_legacy_a_preflight_or_a_stream(alone: Migration) -> None:
    on(alone.databases.base_url, "DELETE FROM migration.preflights")
    outlook = look_ahead(alone)
    wanted = (SUMMER, AUTUMN, AUTUMN.next)  # nobody opened the first of them in its time
    assert outlook.obstacle is None
    assert outlook.waiting == ()
    assert [(one.quarter, one.join) for one in outlook.openings] == [(quarter, False) for quarter in wanted]
    for quarter in wanted:
        opened, description = open_quarter(alone, quarter)
        assert len(opened.created) == 13
        assert description.table == alone.spec.table
    assert look_ahead(alone).openings == ()
    seen = see_runway(alone)
    assert seen.runway is not None
    assert (seen.severity, seen.runway.followed, seen.runway.quarters) == (None, False, 2)


@pytest.mark.long
def test_a_leaf_that_was_lost_is_not_made_again_by_itself(alone: Migration) -> None:
    leaf = "public.amenity_bookings_fy25_q4_w09"
    on(alone.databases.base_url, f"ALTER TABLE public.amenity_bookings_fy25_q4 DETACH PARTITION {leaf}")
    outlook = look_ahead(alone)
    on(
        alone.databases.base_url,
        f"ALTER TABLE public.amenity_bookings_fy25_q4 ATTACH PARTITION {leaf} FOR VALUES FROM ('2024-11-26') TO"
        " ('2024-12-03')",
    )
    assert outlook.openings == ()
    assert outlook.waiting == (
        "FY25-Q4 is not opened automatically: W09 was open and lost its leaf; see the check no_gap_no_overlap",
    )


@pytest.mark.long
def test_a_week_born_in_the_base_is_archived_once_it_is_over_and_leaves_and_comes_back(signed: Migration) -> None:
    for when in ("2024-07-02 10:00+00", "2024-07-10 10:00+00", "2024-11-01 00:00+00"):
        book(signed, when)
    with pytest.raises(SliceStateError, match="the week is not over: it ends at"):
        archive_week(signed, signed.calendar.week_of(signed.now()))
    early = with_settings(signed, as_of=datetime(2024, 7, 3, tzinfo=UTC))
    with pytest.raises(SliceStateError, match="the week is not over"):
        archive_week(early, BORN[0])
    week, rows = BORN[0], week_rows(signed.databases.base_url, signed, BORN[0])
    assert len(rows) == 3
    archived = archive_week(signed, week)
    assert (archived.record.native.rows, state_of(signed, week)) == (3, SliceState.ARCHIVED)
    assert retire_week(signed, week).obstacles == ()
    gone = let_leave(with_settings(signed, quarantine_days=0), week)
    assert gone.step is Step.DROPPED
    assert (week_rows(signed.databases.base_url, signed, week), late_in(signed, week)) == ([], None)
    arrived(signed)
    assert week_rows(signed.databases.legacy_url, signed, week) == rows
    drill_week(signed, week)
    restore_week(signed, week)
    arrived(signed)
    assert week_rows(signed.databases.base_url, signed, week) == rows
    assert week_rows(signed.databases.legacy_url, signed, week) == rows
    book(signed, "2024-07-02 20:00+00", rows=1)
    arrived(signed)
    assert len(week_rows(signed.databases.legacy_url, signed, week)) == 4


@pytest.mark.long
def test_retention_asks_for_weeks_that_nobody_signed_and_for_those_that_changed(signed: Migration) -> None:
    due = {one.week: one.why for one in due_weeks(signed).weeks}
    assert due[WEEKS[3]] == "signed off and old enough"
    assert due[BORN[1]] == "old enough, and the base is in charge"
    assert not any(week.quarter >= AUTUMN for week in due)
    archive_week(signed, BORN[1])
    assert BORN[1] not in {one.week for one in due_weeks(signed).weeks}
    # No counter tells of a rewrite; what the archive saw of the leaf does.
    on(signed.databases.base_url, f"VACUUM FULL public.{leaf_name('amenity_bookings', BORN[1])}")
    why = next(one.why for one in due_weeks(signed).weeks if one.week == BORN[1])
    assert why.startswith("the leaf was rewritten since its archive")
    archive_week(signed, BORN[1])
    assert BORN[1] not in {one.week for one in due_weeks(signed).weeks}
    book(signed, "2024-04-22 10:00+00")
    again = archive_week(signed, WEEKS[3])
    assert again.record.native.rows == len(week_rows(signed.databases.base_url, signed, WEEKS[3]))
    waits = with_settings(signed, auto_retire=True)
    assert {one.week for one in due_weeks(waits).weeks if one.step.value == "retire"} >= {BORN[1], WEEKS[3]}


@pytest.mark.long
def test_the_check_of_late_bookings_says_that_none_can_come(signed: Migration) -> None:
    key = dg.AssetCheckKey(dg.AssetKey("retired_slice"), "nothing_came_late")
    tags = {
        "dagster/partition": BORN[0].key,
        "dagster/partition/quarter": SUMMER.key,
        "dagster/partition/week": BORN[0].name,
    }
    with dg.instance_for_test() as instance:
        alone = dg.define_asset_job("alone", selection=dg.AssetSelection.checks(key))  # pyright: ignore[reportUnknownMemberType]
        job = dg.Definitions.merge(build_defs(signed), dg.Definitions(jobs=[alone])).resolve_job_def("alone")
        [evaluation] = job.execute_in_process(instance=instance, tags=tags).get_asset_check_evaluations()
    assert evaluation.passed
    assert "new rows are written only to the base" in str(evaluation.description)


@pytest.mark.long
def test_a_rollback_with_retired_restored_archived_and_newly_opened_weeks_finds_everything_equal(
    signed: Migration,
) -> None:
    out = with_settings(signed, quarantine_days=0)
    assert let_leave(out, BORN[1]).step is Step.DROPPED
    assert let_leave(signed, WEEKS[3]).step is Step.QUARANTINED
    assert roll_back(signed, "Ada Lovelace", confirm=code_for_rollback(signed)).outcome == "succeeded"
    states = {
        FiscalWeek.parse(key): (state, covered)
        for key, state, covered in on(
            signed.databases.base_url,
            "SELECT quarter || '|' || week, state, released_at IS NULL FROM migration.slices",
        )
    }
    left = {week for week, (state, _) in states.items() if state == "retired"}
    assert left == {BORN[1], WEEKS[3]}
    assert all(covered for week, (_, covered) in states.items() if week not in left)
    assert states[BORN[0]] == ("archived", True)
    assert (late_in(signed, BORN[1]), late_in(signed, WEEKS[3])) == (None, None)
    for quarter in (QUARTER, SUMMER, FiscalQuarter(2025, 4)):
        for week in signed.calendar.weeks_of(quarter):
            if week not in left:
                validate_week(signed, week)


@pytest.mark.long
def test_once_the_migration_is_given_up_retention_lets_nothing_leave_nor_drops_it(signed: Migration) -> None:
    later = with_settings(signed, as_of=datetime(2026, 1, 1, tzinfo=UTC), auto_retire=True)
    assert WEEKS[3] in {one.week for one in due_weeks(later).weeks if one.step.value == "retire"}
    assert abandon_migration(signed, apply=True, confirm=code_for_abandon(signed)).done
    due = due_weeks(later)
    assert not any(one.step.value == "retire" for one in due.weeks)
    assert "the legacy is in charge and no stream follows it" in due.why_nothing
    [obstacle] = retire_week(later, WEEKS[3]).obstacles
    assert obstacle.startswith("the migration was abandoned: the legacy is in charge and no stream follows it")
