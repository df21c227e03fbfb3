"""The asset legacy_cutover and the job rollback, as a person launches them."""

import os
import signal
import threading
from collections.abc import Callable

import dagster as dg
import pytest
from pydantic import SecretStr

from migration_assets.domain.states import CutoverState
from migration_assets_tests.cutover.ground import past_the_hold
from migration_assets_tests.cutover.offered import ASSET, Offered
from migration_assets_tests.defs.conftest import check_results, failure_text, table_rows

STATES = ["begun", "waiting", "held", "drained", "compared", "sequences", "reversed"]
CHECKS = {"writes_are_accepted": True, "reverse_stream_is_healthy": True}


def observations(result: dg.ExecuteInProcessResult) -> list[dg.AssetObservation]:
    return [e.asset_observation_data.asset_observation for e in result.all_events if e.is_asset_observation]


def last_word(ready: Offered) -> str:
    """What the asset's page shows last."""
    [record] = ready.instance.fetch_observations(dg.AssetKey(ASSET), limit=1).records
    assert record.asset_observation is not None
    return record.asset_observation.description or ""


def test_rehearsed_cut_over_and_rolled_back_with_nothing_lost(ready: Offered) -> None:
    rehearsed = ready.cut()
    assert rehearsed.success, failure_text(rehearsed)
    assert rehearsed.asset_materializations_for_node(ASSET) == [], "the legacy is still in charge"
    [seen] = observations(rehearsed)
    assert "rehearsed by Ada" in (seen.description or "")
    assert [row["state"] for row in table_rows(seen.metadata["timeline"])] == [*STATES, "undoing", "undone"]
    assert isinstance(seen.metadata["downtime_ms"].value, float)
    assert check_results(rehearsed) == {}, "they belong to a cutover, and are skipped with it"
    ready.require_as_before()

    done = ready.cut(rehearse=False)
    assert done.success, failure_text(done)
    [event] = done.asset_materializations_for_node(ASSET)
    figures = {name: value.value for name, value in event.metadata.items()}
    assert isinstance(figures["downtime_ms"], float)
    assert (figures["compared_weeks"], figures["compared_rows"], figures["approved_by"]) == (13, 28 * 13, "Ada")
    assert {"held_at", "opened_at"} <= set(figures)
    assert "the job rollback goes back without loss" in str(figures["result"])
    rows = table_rows(event.metadata["timeline"])
    assert [row["state"] for row in rows] == [*STATES, "open", "switched", "done"]
    assert all(row["finished"] for row in rows)
    assert check_results(done) == CHECKS
    assert (ready.charge, ready.accepts("base"), ready.accepts("legacy")) == ("base", True, False)
    written = ready.ground.insert("base")
    assert "the base is in charge already" in failure_text(ready.cut(rehearse=False))
    past_the_hold(ready.ground, "UPDATE bookings SET guests = 77 WHERE id = (SELECT min(id) FROM bookings)")
    shown = ready.repair_legacy("FY25-Q2|W01")
    assert "FY25-Q2|W01: 0 missing, 0 extra, 1 changed on the legacy" in failure_text(shown)
    assert ready.repair_legacy("FY25-Q2|W01", dry_run=False).success

    back = ready.back()
    assert back.success, failure_text(back)
    assert "rolled back by Ada" in last_word(ready)
    ready.require_as_before()
    assert ready.ground.one("legacy", "SELECT count(*) FROM bookings WHERE id = %s", written) == 1
    assert "the legacy is in charge already" in failure_text(ready.back())


def test_a_cutover_that_is_not_ready_touches_nothing_and_says_all_that_blocks(ready: Offered) -> None:
    ready.ground.run("legacy", "INSERT INTO bookings (id, booked_at) VALUES (9000000, '1999-01-01')")
    before = ready.records
    try:
        for rehearse in (True, False):
            refused = ready.cut(rehearse=rehearse)
            text = failure_text(refused)
            assert "not ready for the cutover" in text
            assert "Remedy: " in text
            assert "State left: nothing was touched" in text
            [event] = [event for event in refused.all_events if event.is_step_failure]
            data = event.step_failure_data.user_failure_data
            assert data is not None
            assert "blocking" in {row["severity"] for row in table_rows(data.metadata["findings"])}
            assert observations(refused) == []
    finally:
        ready.ground.run("legacy", "DELETE FROM bookings WHERE booked_at < '2000-01-01'")
    assert ready.records == before
    ready.require_as_before()


def test_nobody_in_particular_cannot_approve(ready: Offered) -> None:
    before = ready.records
    for rehearse in (True, False):
        assert "nobody approved it" in failure_text(ready.cut(approved_by=" ", rehearse=rehearse))
    assert "nobody approved it" in failure_text(ready.back(approved_by=" "))
    assert ready.records == before


def terminated(ready: Offered, state: CutoverState, run: Callable[[], dg.ExecuteInProcessResult]) -> str:
    """The signal of Dagster's own button Terminate, sent while the state is under way; what the run says then."""

    def press() -> None:
        ready.until_it_stays()
        os.kill(os.getpid(), signal.SIGINT)

    with ready.staying(state):
        thread = threading.Thread(target=press)
        thread.start()
        result = run()
        thread.join()
    assert not result.success
    return failure_text(result)


@pytest.mark.long
@pytest.mark.parametrize("state", [CutoverState.WAITING, CutoverState.DRAINED, CutoverState.REVERSED])
def test_a_cutover_that_is_terminated_ends_with_writes_accepted(ready: Offered, state: CutoverState) -> None:
    text = terminated(ready, state, lambda: ready.cut(rehearse=False))
    assert "it was stopped by a signal (SIGINT)" in text
    assert "writes go on on the legacy" in text
    assert ready.records[-1].outcome == "aborted"
    ready.require_as_before()


@pytest.mark.long
def test_a_rollback_that_is_terminated_leaves_the_base_in_charge(ready: Offered) -> None:
    assert ready.cut(rehearse=False).success
    text = terminated(ready, CutoverState.COMPARED, ready.back)
    assert "writes go on on the base" in text
    assert (ready.charge, ready.accepts("base"), ready.accepts("legacy")) == ("base", True, False)
    assert ready.check("reverse_stream_is_healthy").passed
    assert ready.back().success
    ready.require_as_before()


@pytest.mark.long
def test_a_rollback_that_could_not_tell_the_applications_is_done_and_its_run_fails(ready: Offered) -> None:
    hooked = ready.under(cutover_hook_command=SecretStr("test {to} = base"))
    assert hooked.cut(rehearse=False).success
    back = hooked.back()
    text = failure_text(back)
    assert "The rollback is done and nothing was lost, but the applications were not told" in text
    assert "the hook's command ended with code 1" in text
    assert "switch the applications to the legacy now" in text
    assert "rolled back by Ada" in last_word(ready), "it is noted all the same"
    assert ready.records[-1].outcome == "succeeded"
    ready.require_as_before()


@pytest.mark.long
def test_a_cutover_that_could_not_tell_the_applications_went_back(ready: Offered) -> None:
    hooked = ready.under(cutover_hook_command=SecretStr("test {to} = legacy"))
    text = failure_text(hooked.cut(rehearse=False))
    assert "the applications could not be switched: the hook's command ended with code 1" in text
    assert "writes go on on the legacy" in text
    ready.require_as_before()


def test_an_automatic_retry_settles_and_never_begins(ready: Offered) -> None:
    before = ready.records
    retry = {"dagster/retry_number": "1", "dagster/parent_run_id": "1", "dagster/root_run_id": "1"}
    for result in (ready.cut(retry, rehearse=False), ready.back(retry)):
        assert "is an automatic retry" in failure_text(result)
        assert "the legacy accepts writes" in failure_text(result)
    assert ready.records == before
