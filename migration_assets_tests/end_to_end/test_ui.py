"""The web page and the daemon as `migration-assets ui` starts them: copy, damage, find, mend, all through the page."""

from dataclasses import dataclass
from typing import Any

import psutil
import psycopg
import pytest

from migration_assets.defs.sensors import OPENS_TAG
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets_tests.end_to_end.web import ENDED, Run, Web, top_level

pytestmark = pytest.mark.long
WEEKS = ["FY25-Q2|W05", "FY25-Q2|W06"]
DAMAGED = "FY25-Q2|W05"
CHECKS = ("row_count_matches", "checksum_matches")
LOSE_A_ROW = """DELETE FROM public.amenity_bookings_fy25_q2_w05
    WHERE id = (SELECT max(id) FROM public.amenity_bookings_fy25_q2_w05)"""

_STATUSES = """{ assetNodeOrError(assetKey: {path: ["migrated_slice"]}) { ... on AssetNode {
  partitionStats { numMaterialized numFailed }
  assetPartitionStatuses { ... on MultiPartitionStatuses { ranges { primaryDimStartKey primaryDimEndKey
    secondaryDim { ... on DefaultPartitionStatuses { failedPartitions } } } } } } } }"""
_CHECK = """query($check: String!, $partition: String!) { assetCheckExecutions(
  assetKey: {path: ["migrated_slice"]}, checkName: $check, partition: $partition, limit: 1) { evaluation {
    success partition
    metadataEntries { label ... on IntMetadataEntry { intRepr } ... on TextMetadataEntry { text } } } } }"""


@dataclass(frozen=True)
class Statuses:
    """The dots of the page of partitions."""

    materialized: int
    failed: int
    failed_partitions: list[str]


@dataclass(frozen=True)
class Check:
    """The last evaluation of a check for one partition."""

    passed: bool
    partition: str
    figures: dict[str, str]


@dataclass(frozen=True)
class Story:
    """What was seen at each step, so that every test may look at any of them."""

    prepared: list[str]
    quarters: list[str]
    copied: list[Run]
    after_copy: Statuses
    verified: list[Run]
    after_damage: Statuses
    checks: dict[tuple[str, str], Check]
    failure: str
    mended: list[str]
    after_mending: Statuses
    mended_checks: dict[tuple[str, str], Check]
    runs: int


@pytest.fixture(scope="module")
def story(web: Web, pair: EmbeddedServers) -> Story:
    """Preflight, a quarter's places, two weeks; one of them damaged, found and copied again."""
    prepared = [
        web.materialize("preflight", checks=("nothing_blocks", "nothing_warns")),
        web.materialize("quarter_partitions", "FY25-Q2"),
    ]
    quarters = _quarters(web)
    copied = web.backfill(["legacy_slice", "migrated_slice"], WEEKS)
    after_copy = _statuses(web)
    with psycopg.connect(pair.base_url()) as connection:
        connection.execute(LOSE_A_ROW)
    verified = web.backfill(["migrated_slice"], WEEKS, job="verify_slices")
    after_damage, checks = _statuses(web), _checks(web)
    failure = _failure(web, next(run for run in verified if run.partition == DAMAGED))
    # "Backfill only failed and missing partitions within selection" with one failed week launches one run.
    mended = [web.materialize("migrated_slice", week, CHECKS) for week in after_damage.failed_partitions]
    return Story(
        prepared, quarters, copied, after_copy, verified, after_damage, checks, failure, mended,
        _statuses(web), _checks(web), len([run for run in _runs(web) if OPENS_TAG not in run]),
    )  # fmt: skip


def test_the_definitions_load_without_an_error(web: Web) -> None:
    answer = web.ask("""{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { __typename
        ... on RepositoryLocation { name } ... on PythonError { message } } } } } }""")
    [entry] = answer["workspaceOrError"]["locationEntries"]
    assert entry["locationOrLoadError"] == {"__typename": "RepositoryLocation", "name": "migration_assets"}


def test_nobody_is_asked_to_sign_up_and_nothing_is_reported_home(web: Web) -> None:
    answer = web.ask("{ shouldShowNux instance { info } }")
    assert answer["shouldShowNux"] is False
    info = " ".join(answer["instance"]["info"].split())
    assert "telemetry: enabled: false" in info
    assert "nux: enabled: false" in info


def test_the_server_listens_on_this_machine_only(web: Web) -> None:
    listening = [
        connection.laddr
        for process in web.processes()
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert web.port in {address.port for address in listening}
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_copies_of_the_legacy_share_a_pool_as_big_as_the_setting_says(web: Web) -> None:
    answer = web.ask("{ instance { poolConfig { poolGranularity } concurrencyLimits { concurrencyKey limit } } }")
    assert answer["instance"]["poolConfig"] == {"poolGranularity": "run"}
    for pool in ("legacy_read", "many_weeks"):
        assert {"concurrencyKey": pool, "limit": 1} in answer["instance"]["concurrencyLimits"]


def test_preflight_registers_the_legacys_quarters_chronologically(story: Story) -> None:
    assert story.prepared == ["SUCCESS", "SUCCESS"]
    # The sensor may have looked ahead in between.
    assert story.quarters[:4] == ["FY24-Q3", "FY24-Q4", "FY25-Q1", "FY25-Q2"]


def test_the_daemon_opens_the_next_quarter_by_itself(web: Web, story: Story) -> None:
    assert story.prepared == ["SUCCESS", "SUCCESS"]
    web.wait_until(lambda: [run for run in _runs(web) if OPENS_TAG in run] != [], "the sensor's run")
    [opened] = [run for run in _runs(web) if OPENS_TAG in run]
    assert (opened[OPENS_TAG], opened["dagster/partition"]) == ("FY25-Q3:quarter_partitions", "FY25-Q3")
    web.wait_until(lambda: web.status(opened["run id"]) in ENDED, "the sensor's run ends")
    assert web.status(opened["run id"]) == "SUCCESS"
    assert _quarters(web) == ["FY24-Q3", "FY24-Q4", "FY25-Q1", "FY25-Q2", "FY25-Q3"]


def test_a_backfill_runs_every_week_on_its_own_and_no_more_at_once_than_the_pool_allows(
    story: Story,
) -> None:
    assert [(run.partition, run.status) for run in story.copied] == [(week, "SUCCESS") for week in WEEKS]
    assert story.after_copy == Statuses(materialized=2, failed=0, failed_partitions=[])
    assert _most_at_once(story.copied) == 1


def test_verification_fails_exactly_the_week_that_was_damaged(story: Story) -> None:
    assert [run.job for run in story.verified] == ["verify_slices"] * 2
    assert [run.partition for run in story.verified if run.status != "SUCCESS"] == [DAMAGED]
    assert story.after_damage == Statuses(materialized=1, failed=1, failed_partitions=[DAMAGED])


@pytest.mark.parametrize("check", CHECKS)
def test_a_failed_check_shows_both_figures_of_its_own_week(story: Story, check: str) -> None:
    assert {week: story.checks[check, week].passed for week in WEEKS} == {week: week != DAMAGED for week in WEEKS}
    failed = story.checks[check, DAMAGED]
    assert failed.partition == DAMAGED
    assert int(failed.figures["legacy_rows"]) == int(failed.figures["base_rows"]) + 1
    assert failed.figures["row_difference"] == "-1"
    assert failed.figures["legacy_checksum"] != failed.figures["base_checksum"]


def test_a_failed_run_says_what_happened_and_what_to_do_next(story: Story) -> None:
    assert story.failure.startswith(f"{DAMAGED}: the base differs from the legacy.")
    assert "Next: materialize migrated_slice" in story.failure


def test_a_backfill_of_failed_weeks_mends_exactly_those(story: Story) -> None:
    assert story.mended == ["SUCCESS"]
    assert story.after_mending == Statuses(materialized=2, failed=0, failed_partitions=[])
    assert all(check.passed for check in story.mended_checks.values())
    assert story.runs == 2 + 2 + 2 + 1


@pytest.mark.usefixtures("story")
def test_what_dagster_writes_lies_below_var(pair: EmbeddedServers, top_level_before: set[str]) -> None:
    # Dagster writes to its home, which is the project folder, and to the working directory.
    assert top_level() - top_level_before == set()
    assert {path.name for path in pair.var.parent.iterdir()} == {"var", "ui.log"}
    assert any((pair.var / "dagster").iterdir())


def _quarters(web: Web) -> list[str]:
    answer = web.ask("""{ assetNodes(assetKeys: [{path: ["quarter_partitions"]}]) { partitionKeys } }""")
    return answer["assetNodes"][0]["partitionKeys"]


def _runs(web: Web) -> list[dict[str, str]]:
    """The tags of every run, and its id."""
    answer = web.ask("{ runsOrError { ... on Runs { results { runId tags { key value } } } } }")
    return [
        {tag["key"]: tag["value"] for tag in run["tags"]} | {"run id": run["runId"]}
        for run in answer["runsOrError"]["results"]
    ]


def _statuses(web: Web) -> Statuses:
    node = web.ask(_STATUSES)["assetNodeOrError"]
    failed: list[str] = []
    for found in node["assetPartitionStatuses"]["ranges"]:
        assert found["primaryDimStartKey"] == found["primaryDimEndKey"]  # one quarter holds all of them
        failed += [f"{found['primaryDimStartKey']}|{week}" for week in found["secondaryDim"]["failedPartitions"]]
    stats = node["partitionStats"]
    return Statuses(stats["numMaterialized"], stats["numFailed"], failed)


def _checks(web: Web) -> dict[tuple[str, str], Check]:
    return {(name, week): _check(web, name, week) for name in CHECKS for week in WEEKS}


def _check(web: Web, name: str, week: str) -> Check:
    [execution] = web.ask(_CHECK, check=name, partition=week)["assetCheckExecutions"]
    found: dict[str, Any] | None = execution["evaluation"]
    assert found is not None, f"the run of {week} ended before {name} was evaluated:\n{web.log.read_text()[-3000:]}"
    figures = {entry["label"]: str(entry.get("intRepr") or entry.get("text")) for entry in found["metadataEntries"]}
    return Check(found["success"], found["partition"], figures)


def _failure(web: Web, run: Run) -> str:
    answer = web.ask(
        """query($id: ID!) { runOrError(runId: $id) { ... on Run { eventConnection { events { __typename
           ... on ExecutionStepFailureEvent { failureMetadata { description } } } } } } }""",
        id=run.run_id,
    )
    events = answer["runOrError"]["eventConnection"]["events"]
    [failed] = [event for event in events if event["__typename"] == "ExecutionStepFailureEvent"]
    return str(failed["failureMetadata"]["description"])


def _most_at_once(runs: list[Run]) -> int:
    return max(sum(other.launched_at <= run.launched_at < other.ended for other in runs) for run in runs)
