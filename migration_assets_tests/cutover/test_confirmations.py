"""A cutover and a rollback ask for the code that looking at them gave: once, in time, and for what was looked at."""

from pathlib import Path

import dagster as dg
import pytest

from migration_assets.domain.confirmation import digest_of
from migration_assets.domain.states import CutoverState
from migration_assets_tests.confirmed_deeds import code_for_cutover, code_for_rollback, code_in
from migration_assets_tests.cutover.offered import ASSET, Offered
from migration_assets_tests.defs.conftest import failure_text
from migration_assets_tests.ground import wait_for

ROLLBACK = ("rollback", "--approved-by", "Ada", "--yes")


def rehearsed(ready: Offered) -> str:
    """The code on the page of a rehearsal."""
    assert ready.cut().success
    [record] = ready.instance.fetch_observations(dg.AssetKey(ASSET), limit=1).records
    assert record.asset_observation is not None
    return code_in(str(record.asset_observation.metadata["confirm"].value))


def refused(ready: Offered, code: str, why: str) -> None:
    """Nothing begins, and the run says why, and where a code is to be had."""
    before = ready.records
    text = failure_text(ready.cut(rehearse=False, confirm=code))
    assert why in text, text
    assert "State left: nothing was touched\nNext: `migration-assets readiness`" in text
    assert ready.records == before


@pytest.mark.long
def test_an_old_run_that_is_executed_again_moves_nothing(ready: Offered) -> None:
    refused(ready, "", "it asks for a confirmation code, and none was given")
    refused(ready, "ABCD-EFGH-JKMN", "nobody was given this confirmation code")
    code = rehearsed(ready)
    assert (
        ready.ground.one("base", "SELECT count(*) FROM migration.confirmations c WHERE to_jsonb(c)::text ~ %s", code)
        == 0
    )
    other = code_for_cutover(ready.migration)
    assert ready.cut(rehearse=False, confirm=code.replace("-", " ").lower()).success

    asked = failure_text(ready.back(confirm=""))
    assert "Nothing was rolled back yet" in asked
    assert "the base is in charge" in asked
    assert ready.charge == "base"
    assert "was given for: cutover" in failure_text(ready.back(confirm=other))
    back = code_in(asked)
    assert ready.back(confirm=back).success
    ready.require_as_before()

    refused(ready, code, "this confirmation code was used at")
    refused(ready, back, "this confirmation code was given for: rollback")
    refused(ready, other, "what was examined is not as it was when the code was given: the last cutover")
    late = code_for_cutover(ready.migration)
    ready.ground.run("base", "UPDATE migration.confirmations SET expires_at = clock_timestamp()")
    refused(ready, late, "this confirmation code was good until")


@pytest.mark.long
def test_a_code_goes_with_what_it_began_and_stays_where_nothing_came_of_that(ready: Offered) -> None:
    code = code_for_cutover(ready.migration)
    ready.ground.run("base", "CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS"
                     " $$BEGIN RAISE EXCEPTION 'no'; END$$",
                     "CREATE TRIGGER no BEFORE INSERT ON migration.cutovers EXECUTE FUNCTION public.no()")  # fmt: skip
    assert not ready.cut(rehearse=False, confirm=code).success
    ready.ground.run("base", "DROP TRIGGER no ON migration.cutovers", "DROP FUNCTION public.no()")
    spent = "SELECT cutover FROM migration.confirmations WHERE code_sha256 = %s"
    assert ready.ground.one("base", spent, digest_of(code)) is None, "it never began"

    ready.ground.run("base", "CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS"
                     " $$BEGIN RAISE EXCEPTION 'no'; END$$",
                     "CREATE TRIGGER no BEFORE UPDATE ON migration.cutovers FOR EACH ROW"
                     " WHEN (NEW.state = 'compared') EXECUTE FUNCTION public.no()")  # fmt: skip
    assert "writes go on on the legacy" in failure_text(ready.cut(rehearse=False, confirm=code))
    ready.ground.run("base", "DROP TRIGGER no ON migration.cutovers", "DROP FUNCTION public.no()")
    assert ready.ground.one("base", spent, digest_of(code)) == ready.records[-1].id, "it began"
    assert ready.records[-1].outcome == "aborted"

    assert ready.cut(rehearse=False, confirm=code).success, "as the refusal said: run this again"
    assert ready.back().success
    refused(ready, code, "this confirmation code was used at")


def rollback_killed(ready: Offered, folder: Path, state: CutoverState) -> str:
    """One with a good code is killed as it enters the state; that code."""
    code = code_for_rollback(ready.migration)
    with ready.staying(state), ready.typed(folder, *ROLLBACK, "--confirm", code) as process:
        ready.until_it_stays()
        process.kill()
        process.wait()
        wait_for(lambda: not ready.stays(), "its session ends")
    return code


@pytest.mark.long
def test_one_that_died_with_the_legacy_open_is_finished_without_a_code(ready: Offered, tmp_path: Path) -> None:
    assert ready.cut(rehearse=False).success
    rollback_killed(ready, tmp_path, CutoverState.SWITCHED)
    assert ready.records[-1].outcome == "running"
    done = ready.quarter.run(*ROLLBACK)
    assert done.exit_code == 0, "what is left to do needs no person: " + done.output
    ready.require_as_before()


@pytest.mark.long
def test_a_rollback_that_died_with_writes_held_is_no_dead_end_without_a_code_or_a_legacy(
    ready: Offered, tmp_path: Path
) -> None:
    assert ready.cut(rehearse=False).success
    code = rollback_killed(ready, tmp_path, CutoverState.COMPARED)
    assert not ready.accepts("base")
    away = {"MIGRATION_LEGACY_URL": "postgresql://nobody@127.0.0.1:1/nowhere", "MIGRATION_RETRY_ATTEMPTS": "1"}
    released = ready.quarter.run("release-writes", **away)
    assert "the base accepts writes again: the legacy was never opened" in " ".join(released.output.split())
    assert ready.accepts("base")
    released_at, downtime_ms = ready.records[-1].released_at, ready.records[-1].downtime_ms
    assert released_at is not None
    again = ready.quarter.run("release-writes", **away)
    assert "the base accepts writes; the legacy cannot be reached" in " ".join(again.output.split())
    asked = ready.quarter.run(*ROLLBACK)
    assert "it asks for a confirmation code" in asked.stderr, "what died was undone, and a new one is to begin"
    assert ready.records[-1].outcome == "aborted"
    assert (ready.records[-1].released_at, ready.records[-1].downtime_ms) == (released_at, downtime_ms)
    assert ready.accepts("base")
    done = ready.quarter.run(*ROLLBACK, "--confirm", code)
    assert done.exit_code == 0, "nothing came of it: " + done.output
    ready.require_as_before()
