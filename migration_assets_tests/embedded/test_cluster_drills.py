"""The embedded servers after every kind of kill, and in the way of other programs: nothing committed is lost."""

import json
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

from migration_assets.domain.errors import EmbeddedServerError
from migration_assets.embedded.processes import is_alive, pid_file_lines, server_processes, server_user
from migration_assets.embedded.reach import shared_home
from migration_assets.embedded.servers import EmbeddedServers, ServerName
from migration_assets_tests.embedded.asked_servers import FAST, eventually, execute, one, status_of
from migration_assets_tests.freezes import patience

_NAMES: tuple[ServerName, ...] = ("legacy", "base")
_START_SCRIPT = """
import sys
from pathlib import Path
from migration_assets.embedded.servers import EmbeddedServers
EmbeddedServers(Path(sys.argv[1]), extra_settings={"fsync": "off"}).start()
"""
_HOLD_SCRIPT = """
import sys, time
from pathlib import Path
from migration_assets.embedded.processes import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[EmbeddedServers, Path]]:
    """A pair that tests may crash, and its folder; each test starts it for itself."""
    var = tmp_path_factory.mktemp("own")
    pair = EmbeddedServers(var, extra_settings=FAST)
    yield pair, var
    pair.remove()


def _python(script: str, var: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, str(var)], text=True, stdout=subprocess.PIPE)


def _as_server_user(*arguments: str) -> subprocess.Popen[bytes]:
    user = server_user()
    return subprocess.Popen(
        arguments,
        cwd="/",
        user=user.uid if user else None,
        group=user.gid if user else None,
        extra_groups=[] if user else None,
    )


@pytest.mark.long
def test_committed_rows_survive_a_kill_of_both_servers(own: tuple[EmbeddedServers, Path]) -> None:
    pair, _ = own
    pair.start()
    for name in _NAMES:
        url = pair.address(name).url("postgres")
        execute(url, "DROP TABLE IF EXISTS kept", "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS id")
        pair.kill(name)
    assert [(status.running, status.pid) for status in pair.status()] == [(False, None)] * 2
    assert not [p for status in pair.status() for p in server_processes(status.data_folder)]
    pair.start()
    for name in _NAMES:
        assert one(pair.address(name).url("postgres"), "SELECT count(*) FROM kept") == "1000"


@pytest.mark.long
def test_stop_and_start_keep_ports_and_rows_and_may_be_repeated(own: tuple[EmbeddedServers, Path]) -> None:
    pair, _ = own
    pair.start()
    ports = [status.port for status in pair.status()]
    execute(pair.base_url(), "CREATE TABLE stopped AS SELECT 1 AS id")
    pair.stop()
    pair.stop()
    assert [status.running for status in pair.status()] == [False, False]
    pair.start()
    pair.stop(mode="immediate")
    pair.start()
    assert [status.port for status in pair.status()] == ports
    assert one(pair.base_url(), "SELECT count(*) FROM stopped") == "1"


def test_a_kept_port_that_another_program_took_is_replaced(own: tuple[EmbeddedServers, Path]) -> None:
    pair, var = own
    pair.start()
    old = pair.address("base").port
    legacy = pair.address("legacy").port
    pair.kill("base")
    with socket.create_server(("127.0.0.1", old)):
        pair.start()
        assert pair.address("base").port != old
        assert pair.address("legacy").port == legacy
        assert json.loads((var / "servers.json").read_text())["servers"]["base"]["port"] == pair.address("base").port
        assert one(pair.base_url(), "SELECT 1") == "1"


def test_a_pid_file_that_names_a_zombie_does_not_block_the_start(own: tuple[EmbeddedServers, Path]) -> None:
    zombie = _as_server_user("/bin/sh", "-c", "exit 0")
    eventually(lambda: psutil.Process(zombie.pid).status() == psutil.STATUS_ZOMBIE)
    assert not is_alive(psutil.Process(zombie.pid))
    _start_over_a_pid_file_of(own[0], zombie.pid)
    zombie.wait()


@pytest.mark.long
def test_a_pid_file_that_names_another_program_does_not_block_the_start(own: tuple[EmbeddedServers, Path]) -> None:
    other = _as_server_user("/bin/sleep", "600")
    try:
        _start_over_a_pid_file_of(own[0], other.pid)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def _start_over_a_pid_file_of(pair: EmbeddedServers, pid: int) -> None:
    pair.start()
    pair.kill("legacy")
    status = status_of(pair, "legacy")
    lines = pid_file_lines(status.data_folder)
    assert lines, "a kill leaves the pid file behind"
    (status.data_folder / "postmaster.pid").write_text("\n".join([str(pid), *lines[1:]]) + "\n")
    assert not status_of(pair, "legacy").running
    pair.start()
    assert one(pair.legacy_url(), "SELECT 1") == "1"


@pytest.mark.long
def test_a_frozen_server_is_not_called_running(own: tuple[EmbeddedServers, Path]) -> None:
    pair, _ = own
    pair.start()
    leader = psutil.Process(status_of(pair, "base").pid)
    leader.suspend()
    try:
        assert not status_of(pair, "base").running
    finally:
        leader.resume()
    assert status_of(pair, "base").running


@pytest.mark.long
def test_a_server_that_does_not_come_up_shows_the_end_of_its_log(own: tuple[EmbeddedServers, Path]) -> None:
    pair, var = own
    pair.start()
    pair.stop()
    with pytest.raises(EmbeddedServerError, match="nonsense") as caught:
        EmbeddedServers(var, extra_settings={**FAST, "work_mem": "nonsense"}).start()
    assert "server.log" in str(caught.value)
    assert caught.value.next_step
    password = pair.address("base").passfile.read_text().strip().rpartition(":")[2]
    assert password not in str(caught.value)
    pair.start()
    assert all(status.running for status in pair.status())


@pytest.mark.long
def test_servers_outlive_the_kill_of_the_python_that_started_them(own: tuple[EmbeddedServers, Path]) -> None:
    pair, var = own
    pair.stop()
    starter = _python(_START_SCRIPT + "print('up', flush=True)\nimport time\ntime.sleep(600)", var)
    with starter:
        assert starter.stdout
        assert starter.stdout.readline() == "up\n"
        starter.kill()
    before = [status.pid for status in pair.status()]
    assert all(before)
    pair.start()
    assert [status.pid for status in pair.status()] == before


@pytest.mark.long
def test_the_lock_goes_with_a_killed_holder(own: tuple[EmbeddedServers, Path]) -> None:
    pair, var = own
    holder = _python(_HOLD_SCRIPT, var)
    with holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        starter = _python(_START_SCRIPT, var)
        with starter:
            with pytest.raises(subprocess.TimeoutExpired):
                starter.wait(timeout=1.5)
            holder.kill()
            assert starter.wait(timeout=patience(20)) == 0
    assert all(status.running for status in pair.status())


@pytest.mark.long
def test_a_start_that_is_killed_during_initdb_is_made_good_by_the_next_one(fresh: tuple[EmbeddedServers, Path]) -> None:
    pair, var = fresh
    starter = _python(_START_SCRIPT, var)
    homes = (var, shared_home(var))
    with starter:
        eventually(lambda: any(list(home.glob("servers/*/initdb-*/data/base")) for home in homes))
        starter.kill()
    assert not (var / "servers.json").exists()
    pair.start()
    assert all(status.running for status in pair.status())
    pair.stop()
    pair.start()
    assert [p for home in homes for p in home.glob("servers/*/initdb-*")] == []


@pytest.mark.long
def test_two_starters_at_once_end_up_with_the_same_servers(fresh: tuple[EmbeddedServers, Path]) -> None:
    pair, var = fresh
    with _python(_START_SCRIPT, var) as first, _python(_START_SCRIPT, var) as second:
        assert (first.wait(timeout=patience(60)), second.wait(timeout=patience(60))) == (0, 0)
    assert all(status.running for status in pair.status())
    leaders = [p for status in pair.status() for p in server_processes(status.data_folder) if p.ppid() == 1]
    assert len(leaders) <= 2


@pytest.mark.long
def test_lost_data_is_reported_and_not_replaced_by_an_empty_server(fresh: tuple[EmbeddedServers, Path]) -> None:
    pair, _ = fresh
    pair.start()
    passfile = pair.address("legacy").passfile
    data = status_of(pair, "legacy").data_folder
    pair.stop()
    data.rename(data.with_name("elsewhere"))
    with pytest.raises(EmbeddedServerError, match="data folder of an embedded server is gone"):
        pair.start()
    data.with_name("elsewhere").rename(data)
    passfile.rename(passfile.with_name("elsewhere"))
    with pytest.raises(EmbeddedServerError, match="password file of the embedded servers is gone"):
        pair.start()
    passfile.with_name("elsewhere").rename(passfile)
