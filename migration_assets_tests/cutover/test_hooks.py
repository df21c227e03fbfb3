"""The team's own switch, as the settings name it: a command or a webhook, whose output is nobody's business."""

import hmac
import json
import sys
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from migration_assets.domain.errors import SettingsError
from migration_assets.domain.states import CutoverError
from migration_assets.postgres.sessions import Databases
from migration_assets.readiness.step import cutover_plan
from migration_assets.runtime import Migration
from migration_assets.settings import SECRETS, load_settings
from migration_assets_tests.freezes import patience
from migration_assets_tests.ground import wait_for


def migration(**settings: Any) -> Migration:
    return Migration(load_settings(env_file=None, **settings), Databases("postgresql://x/l", "postgresql://x/b"))


def call(**settings: Any) -> None:
    switch = cutover_plan(migration(**settings)).switch
    assert switch is not None
    switch("base", 7)


def python(code: str) -> str:
    return f'{sys.executable} -c "{code}" {{to}}'


@pytest.mark.parametrize(
    ("name", "value"),
    [*product(("cutover_hook_command", "cutover_hook_url", "cutover_hook_secret", "archive_url"), ("", " \t")),
     ("cutover_hook_command", "'s3cret"), ("cutover_hook_command", "'' s3cret")],
)  # fmt: skip
def test_what_could_not_be_done_at_the_cutover_is_refused_before(name: str, value: str) -> None:
    """An empty secret would sign what everybody can sign; the rest fails when writes are moved already."""
    with pytest.raises(SettingsError, match=name.upper()) as caught:
        migration(**{name: value})
    assert "s3cret" not in str(caught.value)


def test_without_a_hook_nobody_is_told() -> None:
    assert cutover_plan(migration()).switch is None


def test_a_command_is_told_where_writes_go(tmp_path: Path) -> None:
    out = tmp_path / "told"
    call(cutover_hook_command=python(f"import sys; open('{out}', 'w').write(sys.argv[1] + sys.stdin.read())"))
    assert out.stat().st_mode & 0o777 == 0o644, "our own files are private; a proxy may want to read this one"
    side, _, told = out.read_text().partition("{")
    assert side == "base"
    assert json.loads("{" + told) == {"relation": "public.amenity_bookings", "to": "base", "cutover": 7}


@pytest.mark.parametrize(
    ("command", "what", "seconds"),
    [
        (python("import sys; print('s3cret'); sys.exit(3)"), "ended with code 3", 30),
        (python("import time; time.sleep(30)"), "did not end within 0.5 s", 0.5),
        ("/nowhere/s3cret --password s3cret", "cannot be run", 30),
    ],
)
def test_a_command_that_fails_says_how_and_shows_nothing(command: str, what: str, seconds: float) -> None:
    with pytest.raises(CutoverError, match=what) as caught:
        call(cutover_hook_command=command, cutover_hook_timeout_seconds=seconds)
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(migration(cutover_hook_command=command))


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="whether a process lives is in /proc")
def test_a_command_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = tmp_path / "switch.sh"
    script.write_text(f"#!/bin/sh\nsleep 300 &\necho $! > {pid}\nwait\n")
    script.chmod(0o700)
    began = time.monotonic()
    with pytest.raises(CutoverError, match="did not end within 2 s and was killed"):
        call(cutover_hook_command=str(script), cutover_hook_timeout_seconds=2)
    assert time.monotonic() - began < patience(20)
    child = Path(f"/proc/{pid.read_text().strip()}/stat")
    wait_for(lambda: not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z", "its child is dead")


def test_a_command_that_leaves_something_running_and_ends_well_is_well(tmp_path: Path) -> None:
    script = tmp_path / "switch.sh"
    script.write_text("#!/bin/sh\nsleep 120 &\n")
    script.chmod(0o700)
    began = time.monotonic()
    call(cutover_hook_command=str(script), cutover_hook_timeout_seconds=60)
    assert time.monotonic() - began < min(patience(15), 100)


def test_a_command_gets_none_of_our_passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "environment"
    command = python(f"import os; open('{out}', 'w').write(str(dict(os.environ)))")
    switch = cutover_plan(migration(cutover_hook_command=command)).switch
    assert switch is not None
    for name in SECRETS:
        monkeypatch.setenv(f"MIGRATION_{name}".upper(), "s3cret")
        monkeypatch.setenv(f"MIGRATION_{name}_file".upper(), "s3cret")
    monkeypatch.setenv("DAGSTER_STORAGE_URL", "s3cret")
    monkeypatch.setenv("TEAMS_OWN", "kept")
    switch("base", 7)
    assert "kept" in out.read_text()
    assert "s3cret" not in out.read_text()


class _Hook(BaseHTTPRequestHandler):
    bodies: list[Any]
    headers_seen: list[Mapping[str, str]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.bodies.append(json.loads(body))
        self.headers_seen.append({**self.headers, "body": body.decode()})
        if "elsewhere" in self.path:
            self.send_response(int(self.path[-3:]))
            self.send_header("Location", "/here")
            self.end_headers()
            return
        if "drip" in self.path:
            with suppress(OSError):
                for letter in b"HTTP/1.0 204 slow" * 2:
                    self.wfile.write(bytes([letter]))
                    time.sleep(0.1)
            return
        self.send_response(500 if "fail" in self.path else 204)
        self.end_headers()

    def do_GET(self) -> None:
        self.bodies.append("GET")
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's own name
        pass


@pytest.fixture
def address() -> Generator[str]:
    _Hook.bodies, _Hook.headers_seen = [], []
    with HTTPServer(("127.0.0.1", 0), _Hook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_webhook_is_told_where_writes_go(address: str) -> None:
    call(cutover_hook_url=f"{address}/s3cret")
    assert _Hook.bodies == [{"relation": "public.amenity_bookings", "to": "base", "cutover": 7}]


def test_what_stays_on_this_machine_goes_through_no_proxy(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    call(cutover_hook_url=f"{address}/s3cret")
    assert len(_Hook.bodies) == 1


def test_a_webhook_s_receiver_can_tell_who_calls(address: str) -> None:
    call(cutover_hook_url=f"{address}/x", cutover_hook_secret="k3y")
    [seen] = _Hook.headers_seen
    signed = f"{seen['X-Migration-Timestamp']}.{seen['body']}".encode()
    assert seen["X-Migration-Signature"] == "sha256=" + hmac.new(b"k3y", signed, "sha256").hexdigest()
    assert abs(time.time() - int(seen["X-Migration-Timestamp"])) < patience(60)


# After the first three Python would go on with a GET, which tells nobody anything, and call that told.
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_webhook_is_never_sent_on_to_somebody_else(address: str, status: int) -> None:
    with pytest.raises(CutoverError, match=f"answered with status {status}"):
        call(cutover_hook_url=f"{address}/elsewhere/{status}")
    assert len(_Hook.bodies) == 1


@pytest.mark.parametrize(
    "url", ["http://switch.example/s3cret", "http://127.0.0.1.example/s3cret", "ftp://h/s3cret", "s3cret"]
)
def test_a_webhook_goes_over_tls_unless_it_is_on_this_machine(url: str) -> None:
    with pytest.raises(SettingsError, match=r"CUTOVER_HOOK_URL: .*expected an https:// URL") as caught:
        migration(cutover_hook_url=url)
    assert "s3cret" not in str(caught.value)
    migration(cutover_hook_url="https://switch.example/x")


def test_a_webhook_that_fails_says_how_and_shows_nothing(address: str) -> None:
    with pytest.raises(CutoverError, match="answered with status 500") as caught:
        call(cutover_hook_url=f"{address}/s3cret/fail")
    assert "s3cret" not in str(caught.value)
    with pytest.raises(CutoverError, match="cannot be called: URLError") as caught:
        call(cutover_hook_url="http://127.0.0.1:1/s3cret", cutover_hook_timeout_seconds=2)
    assert "s3cret" not in str(caught.value)


@pytest.mark.long
def test_a_webhook_that_answers_byte_by_byte_is_given_up_in_time(address: str) -> None:
    began = time.monotonic()
    with pytest.raises(CutoverError, match=r"did not answer within 0\.5 s"):
        call(cutover_hook_url=f"{address}/drip", cutover_hook_timeout_seconds=0.5)
    assert time.monotonic() - began < patience(10)
