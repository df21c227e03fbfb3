"""Dagster's web server as a person meets it: started by our command, spoken to as its own pages speak."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from migration_assets.embedded.cluster import free_port
from migration_assets.runtime import project_folder
from migration_assets_tests.freezes import patience

REPOSITORY = {"repositoryLocationName": "migration_assets", "repositoryName": "__repository__"}
_NOT_OURS = {".git", ".venv", ".pytest_cache", ".ruff_cache", ".hypothesis", "var"}
ENDED = {"SUCCESS", "FAILURE", "CANCELED"}
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

_LAUNCH_RUN = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on Error { message } } }"""
_LAUNCH_BACKFILL = """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on Error { message } } }"""
_BACKFILL_RUNS = """query($id: String!) { runsOrError(filter: {tags: [{key: "dagster/backfill", value: $id}]}) {
  ... on Runs { results { runId jobName status endTime tags { key value }
    eventConnection { events { ... on RunStartingEvent { timestamp } } } } } } }"""
_RUN = """query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"""


@dataclass(frozen=True)
class Run:
    """One run as its page shows it; seconds of the epoch. It holds its place in the pool from `launched_at` on."""

    run_id: str
    job: str
    partition: str
    status: str
    launched_at: float
    ended: float


@dataclass(frozen=True)
class Web:
    """A running `migration-assets ui`."""

    process: psutil.Process
    port: int
    log: Path

    def ask(self, query: str, **variables: object) -> dict[str, Any]:
        """A GraphQL request; its errors are test failures."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json", "Origin": f"http://127.0.0.1:{self.port}"},
        )
        with _DIRECT.open(request, timeout=30) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def materialize(self, asset: str, partition: str = "", checks: Sequence[str] = ()) -> str:
        """One run of one asset, as the dialog launches it for a single partition; returns its status at the end."""
        run_id = self.launch(asset, partition, checks)
        self.wait_until(lambda: self.status(run_id) in ENDED, f"the run of {asset}")
        return self.status(run_id)

    def launch(self, asset: str, partition: str = "", checks: Sequence[str] = ()) -> str:
        """The same without waiting; returns the run's id."""
        params = {
            "selector": {
                "jobName": "__ASSET_JOB",
                "assetSelection": [_key(asset)],
                "assetCheckSelection": [{"name": name, "assetKey": _key(asset)} for name in checks],
                **REPOSITORY,
            },
            "executionMetadata": {"tags": _partition_tags(partition) if partition else []},
            "runConfigData": {},
            "mode": "default",
        }
        launched = self.ask(_LAUNCH_RUN, params=params)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def status(self, run_id: str) -> str:
        """A run's status as its page shows it."""
        return str(self.ask(_RUN, id=run_id)["runOrError"]["status"])

    def backfill(self, assets: list[str], partitions: list[str], *, job: str = "") -> list[Run]:
        """What the dialog of an asset sends, or that of a job's page; returns the runs by partition, all ended."""
        params: dict[str, Any] = {
            "tags": [{"key": "dagster/from_ui", "value": "true"}],
            "assetSelection": [_key(asset) for asset in assets],
            "partitionNames": partitions,
            "fromFailure": False,
        }
        if job:
            params["selector"] = {"partitionSetName": f"{job}_partition_set", "repositorySelector": REPOSITORY}
            # The daemon looks for backfills every 30 s, fixed: not waiting for it is all that differs from the dialog.
            params["forceSynchronousSubmission"] = True
        launched = self.ask(_LAUNCH_BACKFILL, params=params)["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched

        def runs() -> list[dict[str, Any]]:
            return self.ask(_BACKFILL_RUNS, id=launched["backfillId"])["runsOrError"]["results"]

        # The backfill itself is called done up to 30 s after its last run.
        def ended() -> bool:
            now = runs()
            return len(now) == len(partitions) and all(run["endTime"] for run in now)

        self.wait_until(ended, f"the backfill of {', '.join(partitions)}")
        return sorted((_run(run) for run in runs()), key=lambda run: run.partition)

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
        """Ask until it is true; when the time is up, say what the server printed."""
        began = time.monotonic()
        while not condition():
            assert self.process.is_running(), f"the server is gone:\n{self.log.read_text()[-3000:]}"
            assert time.monotonic() - began < patience(seconds), (
                f"{what}: not after {seconds} s\n{self.log.read_text()[-3000:]}"
            )
            time.sleep(0.2)

    def answers(self) -> bool:
        """Whether the page is there."""
        try:
            with _DIRECT.open(f"http://127.0.0.1:{self.port}/server_info", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def processes(self) -> list[psutil.Process]:
        """The server and all that it started."""
        return [self.process, *self.process.children(recursive=True)]


def top_level() -> set[str]:
    """What lies in the project's folder, but for the caches of tools that run beside the tests."""
    return {path.name for path in project_folder().iterdir()} - _NOT_OURS


@contextmanager
def running_ui(folder: Path, variables: Mapping[str, str], *options: str) -> Generator[Web]:
    """Start `migration-assets ui` as a person does, in a working directory of its own; end it as Ctrl-C does."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("migration-assets")), "ui", "--port", str(port), *options]
    with running(command, port, folder, variables) as web:
        yield web


@contextmanager
def running(command: Sequence[str], port: int, folder: Path, variables: Mapping[str, str]) -> Generator[Web]:
    """A server of Dagster's page until its first answer, and to its end."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MIGRATION_", "DAGSTER_", "PYTEST_"))}
    log = folder / "ui.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, cwd=folder, env={**inherited, **variables}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    web = Web(psutil.Process(child.pid), port, log)
    try:
        web.wait_until(web.answers, "the first page")
        yield web
    finally:
        family = web.processes() if child.poll() is None else []
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(patience(20))
        # By their ids: what was ours before, and only if it is still the same process.
        _, left = psutil.wait_procs(family, timeout=5)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        child.wait(10)


def _key(asset: str) -> dict[str, list[str]]:
    return {"path": [asset]}


def _partition_tags(partition: str) -> list[dict[str, str]]:
    tags = {"dagster/partition": partition}
    quarter, _, week = partition.partition("|")
    if week:
        tags |= {"dagster/partition/quarter": quarter, "dagster/partition/week": week}
    return [{"key": key, "value": value} for key, value in tags.items()]


def _run(run: dict[str, Any]) -> Run:
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    [launched_at] = [event["timestamp"] for event in run["eventConnection"]["events"] if event]
    return Run(
        run["runId"], run["jobName"], tags["dagster/partition"], run["status"], int(launched_at) / 1000, run["endTime"]
    )
