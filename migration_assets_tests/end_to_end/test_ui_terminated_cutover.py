"""A cutover that somebody terminates on its run's page, in mid-hold: the run's own process lets the writes go on."""

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from migration_assets.domain.states import CutoverState
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets_tests.clones import Clones
from migration_assets_tests.confirmed_deeds import code_for_cutover, code_for_rollback
from migration_assets_tests.cutover.offered import ASSET, Offered, offered
from migration_assets_tests.end_to_end.web import ENDED, REPOSITORY, Web, running_ui

_LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on RunConfigValidationInvalid { errors { message } }
  ... on Error { message } } }"""
_TERMINATE = """mutation($id: String!) { terminateRun(runId: $id) {
  __typename ... on Error { message } ... on TerminateRunFailure { message } } }"""
_FAILURES = """query($id: ID!) { runOrError(runId: $id) { ... on Run { eventConnection { events {
  __typename ... on ExecutionStepFailureEvent { failureMetadata { description } } } } } } }"""


@contextmanager
def _page(ready: Offered, servers: EmbeddedServers, folder: Path) -> Generator[Web]:
    """The UI on the quarter's databases, with a storage of its own."""
    storage = f"dagster_{secrets.token_hex(6)}"
    servers.recreate_database("base", storage)
    variables = ready.quarter.environment | {
        "MIGRATION_DAGSTER_URL": servers.base_url(storage),
        "MIGRATION_VAR": str(folder / "var"),
    }
    try:
        with running_ui(folder, variables) as web:
            yield web
    finally:
        servers.drop_database("base", storage)


def _launch(web: Web, job: str, op: str, config: dict[str, Any], **selection: object) -> str:
    params: dict[str, Any] = {
        "selector": {"jobName": job, **selection, **REPOSITORY},
        "runConfigData": {"ops": {op: {"config": config}}},
        "mode": "default",
    }
    launched = web.ask(_LAUNCH, params=params)["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    return str(launched["run"]["runId"])


def _cut(web: Web, **config: object) -> str:
    return _launch(
        web, "__ASSET_JOB", ASSET, {"approved_by": "Ada", **config},
        assetSelection=[{"path": [ASSET]}], assetCheckSelection=[],
    )  # fmt: skip


def _ended(web: Web, run: str) -> str:
    web.wait_until(lambda: web.status(run) in ENDED, "the run's end")
    return web.status(run)


# How a step ends that is interrupted in mid-hold is tested without a page, too (test_aborts, test_cutover_commands).
@pytest.mark.soak
def test_terminate_in_mid_hold_then_again_and_back_from_the_page(
    servers: EmbeddedServers, clones: Clones, tmp_path: Path
) -> None:
    with offered(clones) as ready, _page(ready, servers, tmp_path) as web:
        with ready.staying(CutoverState.COMPARED):
            run = _cut(web, rehearse=False, confirm=code_for_cutover(ready.migration))
            ready.until_it_stays()
            assert not ready.accepts("legacy")
            told = web.ask(_TERMINATE, id=run)["terminateRun"]
            assert told["__typename"] == "TerminateRunSuccess", told
            web.wait_until(lambda: ready.accepts("legacy"), "the writes go on", seconds=20)
        assert _ended(web, run) == "CANCELED", "as it was asked; its step says what was left"
        [failure] = [
            event["failureMetadata"]["description"]
            for event in web.ask(_FAILURES, id=run)["runOrError"]["eventConnection"]["events"]
            if event["__typename"] == "ExecutionStepFailureEvent"
        ]
        assert "it was stopped by a signal (SIGINT)" in failure
        assert "writes go on on the legacy" in failure
        ready.require_as_before()

        again = _cut(web, rehearse=False, confirm=code_for_cutover(ready.migration))
        assert _ended(web, again) == "SUCCESS"
        assert ready.charge == "base"
        config = {"approved_by": "Ada", "confirm": code_for_rollback(ready.migration)}
        back = _launch(web, "rollback", "roll_back_to_legacy", config)
        assert _ended(web, back) == "SUCCESS"
        ready.require_as_before()
