"""Strangers at the page: other sites in the operator's browser, rebound names, and lookers who must not act."""

import http.client
import json
import os
import re
import sys
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import psutil
import pytest

from migration_assets.embedded.cluster import free_port
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.runtime import dagster_environment, project_folder
from migration_assets.settings import load_settings
from migration_assets.terminal.ui import take_ui_lock
from migration_assets_tests.end_to_end.web import REPOSITORY, Web, running, running_ui
from migration_assets_tests.freezes import patience

LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on Error { message } } }"""
PREFLIGHT = {
    "selector": {
        "jobName": "__ASSET_JOB",
        "assetSelection": [{"path": ["preflight"]}],
        "assetCheckSelection": [
            {"name": name, "assetKey": {"path": ["preflight"]}} for name in ("nothing_blocks", "nothing_warns")
        ],
        **REPOSITORY,
    },
    "runConfigData": {},
    "mode": "default",
}
GRAPHQL = urlencode({"query": LAUNCH, "variables": json.dumps({"params": PREFLIGHT})})
BODY = json.dumps({"query": LAUNCH, "variables": {"params": PREFLIGHT}})
JSON = {"Content-Type": "application/json"}
RELOAD = "mutation { reloadWorkspace { __typename } }"
STRANGER = "somewhere.example"
FURTHER = "migration.example"
FOREIGN = {"Origin": f"https://{STRANGER}"}
SOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "graphql-ws",
}


@dataclass(frozen=True)
class Sent:
    """One request to the page, and what a body of it says."""

    method: str
    path: str
    headers: dict[str, str]
    body: str | None = None


STRANGERS = {
    "a picture's address": Sent("GET", f"/graphql?{GRAPHQL}", {}),
    "a link that is followed": Sent("GET", f"/graphql?{GRAPHQL}", {"Accept": "text/html"}),
    "a form": Sent("POST", f"/graphql?{GRAPHQL}", {"Content-Type": "application/x-www-form-urlencoded"}, ""),
    "text": Sent("POST", f"/graphql?{GRAPHQL}", {"Content-Type": "text/plain"}, BODY),
    "text that names JSON": Sent("POST", "/graphql", {"Content-Type": "text/plain; application/json"}, BODY),
    "nothing said of the body": Sent("POST", f"/graphql?{GRAPHQL}", {}),
    "a language of its own": Sent("POST", "/graphql", {"Content-Type": "application/graphql"}, RELOAD),
    "another site": Sent("POST", "/graphql", JSON | FOREIGN, BODY),
    "a sandboxed page": Sent("POST", "/graphql", JSON | {"Origin": "null"}, BODY),
    "another port of this machine": Sent("POST", "/graphql", JSON | {"Origin": "http://127.0.0.1:1"}, BODY),
    "a rebound name": Sent("POST", "/graphql", JSON | {"Host": STRANGER, "Origin": f"http://{STRANGER}"}, BODY),
    "a rebound name that says nothing": Sent("POST", "/graphql", JSON | {"Host": STRANGER}, BODY),
    "a rebound name that reads": Sent("GET", "/server_info", {"Host": STRANGER}),
    "an event that never was": Sent("POST", "/report_asset_materialization/preflight", {}),
    "a socket of another site": Sent("GET", "/graphql", SOCKET | FOREIGN),
    "a socket of nobody": Sent("GET", "/graphql", SOCKET),
    "a socket of a rebound name": Sent("GET", "/graphql", SOCKET | {"Host": STRANGER, "Origin": f"http://{STRANGER}"}),
}
REFUSED = {400, 403, 405, 415}


def answer(web: Web, sent: Sent) -> tuple[int, Mapping[str, str], str]:
    """Status, headers and text, as a browser gets them for exactly these headers."""
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=30)
    try:
        connection.request(sent.method, sent.path, sent.body, {"Host": f"127.0.0.1:{web.port}", **sent.headers})
        response = connection.getresponse()
        text = "" if response.status == http.HTTPStatus.SWITCHING_PROTOCOLS else response.read().decode()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, text
    finally:
        connection.close()


def events(web: Web) -> tuple[int, int]:
    """How many runs there are, and how often preflight was materialized."""
    found = web.ask("""{ runsOrError { ... on Runs { results { assetSelection { path } } } }
        assetNodes(assetKeys: [{path: ["preflight"]}]) { assetMaterializations { runId } } }""")
    launched = [run for run in found["runsOrError"]["results"] if run["assetSelection"] == [{"path": ["preflight"]}]]
    return len(launched), len(found["assetNodes"][0]["assetMaterializations"])


@pytest.mark.long
def test_what_other_pages_can_send_is_refused_and_changes_nothing(web: Web) -> None:
    before = events(web)
    answers = {kind: answer(web, sent) for kind, sent in STRANGERS.items()}
    assert {kind: status for kind, (status, _, _) in answers.items() if status not in REFUSED} == {}
    assert "MIGRATION_UI_ORIGINS" in answers["another site"][2]
    assert events(web) == before


@pytest.mark.long
def test_the_page_itself_works_and_cannot_be_shown_inside_another(web: Web) -> None:
    home = {"Origin": f"http://localhost:{web.port}", "Host": f"localhost:{web.port}"}
    status, headers, page = answer(web, Sent("GET", "/", {}))
    assert (status, headers["x-frame-options"]) == (200, "DENY")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    scripts = re.findall(r'src="(/[^"]+\.js)"', page)
    assert scripts != []
    for script in scripts:
        assert answer(web, Sent("GET", script, {"Origin": f"http://127.0.0.1:{web.port}"}))[0] == 200, script
    assert answer(web, Sent("GET", "/graphql", {"Accept": "text/html"}))[0] == 200, "the editor of queries"
    assert answer(web, Sent("GET", "/graphql", SOCKET | home))[0] == 101
    status, _, said = answer(web, Sent("POST", "/graphql", JSON | home, json.dumps({"query": "{ version }"})))
    assert (status, list(json.loads(said)["data"])) == (200, ["version"])


@pytest.fixture
def for_reading(pair: EmbeddedServers, tmp_path: Path) -> Generator[Web]:
    """The web server as `ui --read-only` starts it, alone, on the same storage."""
    port = free_port()
    command = [sys.executable, "-m", "migration_assets.web.server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workspace", str(project_folder() / "workspace.yaml"), "--read-only"]
    command += ["--origin", f"https://{FURTHER}"]
    variables = {"MIGRATION_VAR": str(pair.var), **dagster_environment(load_settings(env_file=None, var=pair.var))}
    with running(command, port, tmp_path, variables) as web:
        yield web


@pytest.mark.long
@pytest.mark.usefixtures("web")
def test_a_page_for_reading_starts_nothing_under_any_of_its_addresses(for_reading: Web) -> None:
    before = events(for_reading)
    for sent in (Sent("POST", "/graphql", JSON, BODY), Sent("POST", "/graphql", JSON, json.dumps({"query": RELOAD}))):
        status, _, said = answer(for_reading, sent)
        assert (status, "--read-only" in said) == (400, True), said
    told = Sent("POST", "/report_asset_materialization/preflight", JSON, "{}")
    assert answer(for_reading, told)[0] == 401
    seen = JSON | {"Host": FURTHER, "Origin": f"https://{FURTHER}"}  # behind a proxy that knows who asks
    assert answer(for_reading, Sent("POST", "/graphql", seen, json.dumps({"query": "{ version }"})))[0] == 200
    assert events(for_reading) == before


@pytest.mark.soak
def test_read_only_reaches_the_page_and_the_page_ends_with_its_daemon(pair: EmbeddedServers, tmp_path: Path) -> None:
    variables = {
        "MIGRATION_VAR": str(tmp_path / "var"),
        "MIGRATION_LEGACY_URL": pair.legacy_url(),
        "MIGRATION_BASE_URL": pair.base_url(),
        "MIGRATION_DAGSTER_URL": pair.dagster_url(),
    }
    with running_ui(tmp_path, variables, "--read-only") as web:
        status, _, said = answer(web, Sent("POST", "/graphql", JSON, BODY))
        assert (status, "--read-only" in said) == (400, True), said
        page, daemon = (child for child in web.process.children() if child.is_running())
        daemon.kill()
        assert psutil.wait_procs([page], timeout=patience(60))[1] == []
    assert "Dagster's daemon ended by itself, exit code -9" in web.log.read_text()
    # Nobody can be told of a kill -9: all that it had started ends all the same, and another one may begin.
    with running_ui(tmp_path, variables) as web:
        family = web.process.children(recursive=True)
        web.process.kill()
        assert psutil.wait_procs(family, timeout=patience(90))[1] == []
    os.close(take_ui_lock(tmp_path / "var"))
