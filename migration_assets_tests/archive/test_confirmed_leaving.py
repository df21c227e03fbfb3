"""A week leaves the base, and is dropped, with the code that a look at it gave: once, in time, for what was seen."""

from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta

import dagster as dg
import psycopg
import pytest

from migration_assets.archive.archiving import archive_week
from migration_assets.defs.partitions import register_quarters
from migration_assets.domain.confirmation import ConfirmationError, digest_of
from migration_assets.domain.errors import RetirementError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.retirements import Step
from migration_assets.retirement.leaving import Retired
from migration_assets.retirement.retiring import bring_back, retire_week, told
from migration_assets.runtime import Migration
from migration_assets_tests.archive.conftest import QUARTER, WEEKS, with_settings
from migration_assets_tests.archive.test_leaving_and_coming_back import on, state_of
from migration_assets_tests.confirmed_deeds import code_in, code_to_retire, let_leave
from migration_assets_tests.defs.conftest import Project, failure_text


def leave(migration: Migration, week: FiscalWeek, code: str = "") -> Retired:
    return retire_week(migration, week, dry_run=False, confirm=code)


def as_it_is(migration: Migration, week: FiscalWeek) -> list[tuple[object, ...]]:
    """Where the week is, and what the ledger notes of its leaving."""
    return on(
        migration.databases.base_url,
        "SELECT s.state, s.released_at, r.id, r.step, (SELECT count(*) FROM migration.attempts),"
        " to_regclass('public.' || s.leaf), to_regclass('migration_quarantine.' || s.leaf)"
        " FROM migration.slices s LEFT JOIN migration.retirements r USING (relation, quarter, week)"
        " WHERE s.quarter = %s AND s.week = %s ORDER BY r.id",
        week.quarter.key, week.name,
    )  # fmt: skip


def refused(migration: Migration, week: FiscalWeek, code: str, why: str) -> None:
    """Nothing happens, and the error says why, and where a code is to be had."""
    before = as_it_is(migration, week)
    with pytest.raises(ConfirmationError, match=why) as caught:
        leave(migration, week, code)
    assert f"`migration-assets retire {week.quarter.key} {week.name}` gives one" in caught.value.next_step
    assert as_it_is(migration, week) == before


@contextmanager
def nobody_may(migration: Migration, what: str) -> Generator[None]:
    """What is done to migration.retirements fails."""
    base = migration.databases.base_url
    on(base, "CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no'; END$$")
    on(base, f"CREATE TRIGGER no BEFORE {what} ON migration.retirements FOR EACH ROW EXECUTE FUNCTION public.no()")
    yield
    on(base, "DROP FUNCTION public.no() CASCADE")


def spent(migration: Migration, code: str) -> bool:
    query = "SELECT spent_at IS NOT NULL FROM migration.confirmations WHERE code_sha256 = %s"
    return bool(on(migration.databases.base_url, query, digest_of(code))[0][0])


@pytest.mark.long
def test_a_run_without_the_weeks_own_code_lets_nothing_leave_and_a_backfill_has_one_for_each(
    signed: Migration,
) -> None:
    first, second = WEEKS[:2]
    for week in (first, second):
        archive_week(signed, week)
    with dg.DagsterInstance.ephemeral() as instance:  # pyright: ignore[reportUnknownMemberType]
        register_quarters(instance, [QUARTER])
        project = Project(signed, instance)

        def run(week: FiscalWeek, code: str) -> dg.ExecuteInProcessResult:
            return project.run_job("retire_slices", week, {"retired_slice": {"dry_run": False, "confirm": code}})

        before = as_it_is(signed, first)
        assert "it asks for a confirmation code, and none was given" in failure_text(run(first, ""))
        [seen] = project.run_job("retire_slices", first).asset_observations_for_node("retired_slice")
        shown = code_in(str(seen.metadata["confirm"].value))
        other = code_to_retire(signed, second)
        assert "was given for: retire FY25-Q2|W02" in failure_text(run(first, other))
        assert as_it_is(signed, first) == before

        both = f"{other}, {shown}"
        for week in (first, second):
            done = run(week, both)
            assert done.success, failure_text(done)
            assert state_of(signed, week) == "retired"
        bring_back(signed, first)
        assert "this confirmation code was used at" in failure_text(run(first, both)), "an old run, executed again"


@pytest.mark.long
def test_a_code_is_for_what_was_looked_at_and_not_for_ever(signed: Migration) -> None:
    week = WEEKS[2]
    archive_week(signed, week)
    refused(signed, week, "ABCD-EFGH-JKMN", "nobody was given this confirmation code")
    code = code_to_retire(signed, week)
    assert code
    keeps = "SELECT count(*) FROM migration.confirmations c WHERE to_jsonb(c)::text ~ %s"
    assert on(signed.databases.base_url, keeps, code) == [(0,)]
    refused(with_settings(signed, quarantine_days=0), week, code, "when the code was given: the time in quarantine")
    archive_week(signed, week)
    refused(signed, week, code, "what was examined is not as it was when the code was given: the archive")
    late = code_to_retire(signed, week)
    on(signed.databases.base_url, "UPDATE migration.confirmations SET expires_at = clock_timestamp()")
    refused(signed, week, late, "this confirmation code was good until")
    good = code_to_retire(signed, week)
    assert leave(signed, week, f"{code} {late} {good.lower()}").step is Step.QUARANTINED, "one of them is good"


@pytest.mark.long
def test_the_drop_asks_again_and_a_standing_approval_asks_for_nothing(signed: Migration) -> None:
    week, other = WEEKS[3], WEEKS[4]
    for one in (week, other):
        archive_week(signed, one)
    out = code_to_retire(signed, week)
    assert leave(signed, week, out).step is Step.QUARANTINED
    assert retire_week(signed, week).confirmation is None, "there is nothing to decide yet"
    assert leave(signed, week).step is Step.QUARANTINED
    later = with_settings(signed, as_of=signed.now() + timedelta(days=8))
    refused(later, week, "", "it asks for a confirmation code, and none was given")
    refused(later, week, out, "this confirmation code was used at")
    for_good = code_to_retire(later, week)
    bring_back(later, week)
    refused(later, week, for_good, "when the code was given: where the week is")
    let_leave(signed, week)
    assert leave(later, week, for_good).step is Step.DROPPED
    assert spent(later, for_good)

    alone = with_settings(signed, auto_retire=True)
    assert retire_week(alone, other).confirmation is None
    assert leave(alone, other).step is Step.QUARANTINED
    assert leave(with_settings(later, auto_retire=True), other).step is Step.DROPPED


@pytest.mark.long
def test_what_died_half_way_goes_on_without_a_code_into_quarantine_and_no_further(signed: Migration) -> None:
    week, soon = WEEKS[5], with_settings(signed, quarantine_days=0)
    archive_week(soon, week)
    code = code_to_retire(soon, week)
    with nobody_may(soon, "INSERT"), pytest.raises(psycopg.Error):
        leave(soon, week, code)
    assert state_of(soon, week) == "archived"
    assert not spent(soon, code), "it never began"
    with nobody_may(soon, "UPDATE"), pytest.raises(psycopg.Error):
        leave(soon, week, code)
    assert (state_of(soon, week), spent(soon, code)) == ("retired", True)
    looked = retire_week(soon, week)
    assert (looked.step, looked.confirmation) == (Step.DETACHING, None)
    assert "needs no code" in told(looked)
    assert leave(soon, week).step is Step.QUARANTINED, "that it is dropped nobody has said"
    refused(soon, week, code, "this confirmation code was used at")
    drop = code_to_retire(soon, week)
    with nobody_may(soon, "UPDATE"), pytest.raises(psycopg.Error):
        leave(soon, week, drop)
    assert not spent(soon, drop), "it was not dropped"
    assert leave(soon, week, drop).step is Step.DROPPED
    assert spent(soon, drop)

    archive_week(soon, WEEKS[6])
    assert let_leave(soon, WEEKS[6]).step is Step.DROPPED, "without a grace period one code is for both"


def test_what_stands_in_the_way_is_said_first_and_gives_no_code(signed: Migration) -> None:
    looked = retire_week(signed, WEEKS[8])
    assert looked.obstacles
    assert looked.confirmation is None
    with pytest.raises(RetirementError, match="there is no archive of it"):
        leave(signed, WEEKS[8])
