"""A run that failed is told to a real webhook: asset, partition, the first lines of its error, never a secret."""

import json
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import dagster as dg
import pytest
from pydantic import SecretStr

from migration_assets.defs.resources import MIGRATION_SOURCE, MigrationSource
from migration_assets.defs.sensors import failure_message, run_failure_alert
from migration_assets.domain.confirmation import new_code
from migration_assets.runtime import Migration
from migration_assets_tests.defs.conftest import WEEK, Project


@pytest.fixture
def webhook() -> Generator[tuple[str, list[dict[str, Any]]]]:
    """Its URL, and what it was told."""
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class says so
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"json://127.0.0.1:{server.server_port}", told
        server.shutdown()
        thread.join()


def tell(project: Project, result: dg.ExecuteInProcessResult, *urls: str) -> None:
    settings = project.migration.settings.model_copy(update={"alert_urls": tuple(SecretStr(url) for url in urls)})
    context = dg.build_run_status_sensor_context(
        sensor_name="run_failure_alert",
        dagster_event=result.get_run_failure_event(),
        dagster_instance=project.instance,
        dagster_run=result.dagster_run,
        resources={MIGRATION_SOURCE: MigrationSource(Migration(settings, project.migration.databases))},
    ).for_run_failure()
    run_failure_alert(context)


def test_a_failed_run_is_told_with_asset_partition_and_error(
    streamed: Project, webhook: tuple[str, list[dict[str, Any]]]
) -> None:
    url, told = webhook
    failed = streamed.verify(WEEK)
    tell(streamed, failed, url)
    [message] = told
    assert message["title"] == "[FAILED] migrated_slice FY25-Q2|W05"
    assert "only a copied one can be verified so" in message["message"]
    assert failed.run_id in message["message"]
    assert "Stack Trace" not in message["message"]


def test_a_channel_that_is_away_or_not_set_is_no_error(streamed: Project) -> None:
    failed = streamed.verify(WEEK)
    tell(streamed, failed)
    tell(streamed, failed, "json://127.0.0.1:1")


def test_a_secret_in_an_error_of_somebody_else_is_left_out_and_the_text_stays_short() -> None:
    run = dg.DagsterRun(job_name="validate_slices", tags={"dagster/partition": "FY25-Q2|W05"})
    text = "\n".join([
        "cannot reach postgresql://migrator:sesame@host/legacy",
        "conninfo: host=x password='open sesame' user=y",
        *(f"line {number}" for number in range(20)),
    ])  # fmt: skip
    title, body = failure_message(run, {"validated_slice": text})
    assert title == "[FAILED] validated_slice FY25-Q2|W05"
    assert "sesame" not in title + body
    assert "postgresql://***@host/legacy" in body
    assert len(body.splitlines()) == 8


def test_a_code_that_a_run_shows_is_for_whoever_looks_at_that_run() -> None:
    code = new_code()
    text = f"Nothing was rolled back yet.\nNext: launch this job again with confirm: {code} (good once)"
    _, body = failure_message(dg.DagsterRun(job_name="rollback"), {"roll_back_to_legacy": text})
    assert code not in body
    assert "confirm: the code on the run's page (good once)" in body
