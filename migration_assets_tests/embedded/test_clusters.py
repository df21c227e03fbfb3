"""The embedded servers on real PostgreSQL: what they promise when all is well, and after every kind of kill."""

import json
import os
import secrets
import socket
import stat
import subprocess
from collections.abc import Generator
from pathlib import Path

import psutil
import psycopg
import pytest
import sqlalchemy

from migration_assets.domain.errors import EmbeddedServerError
from migration_assets.embedded.cluster import render
from migration_assets.embedded.processes import Binaries, locate, package_folders, server_processes, server_user
from migration_assets.embedded.reach import reachable_binaries, shared_home
from migration_assets.embedded.servers import EmbeddedServers, ServerName
from migration_assets_tests.conftest import Databases
from migration_assets_tests.embedded.asked_servers import eventually, execute, one, status_of
from migration_assets_tests.server_pairs import running_pair

_NAMES: tuple[ServerName, ...] = ("legacy", "base")


@pytest.mark.long
def test_the_legacy_is_postgresql_16_and_the_base_is_18(servers: EmbeddedServers) -> None:
    assert one(servers.legacy_url("postgres"), "SHOW server_version").startswith("16.")
    assert one(servers.base_url("postgres"), "SHOW server_version").startswith("18.")
    assert [status.version.split(".")[0] for status in servers.status()] == ["16", "18"]


@pytest.mark.long
@pytest.mark.parametrize("name", _NAMES)
def test_a_server_is_set_up_for_logical_replication_and_bulk_load(servers: EmbeddedServers, name: ServerName) -> None:
    url = servers.address(name).url("postgres")
    expected = {
        "wal_level": "logical",
        "wal_retrieve_retry_interval": "100ms",
        "max_wal_size": "4GB",
        "data_checksums": "on",
        "TimeZone": "UTC",
        "server_encoding": "UTF8",
        "track_io_timing": "on",
        "fsync": "off",
    }
    assert {setting: one(url, f"SHOW {setting}") for setting in expected} == expected


@pytest.mark.long
@pytest.mark.parametrize("name", _NAMES)
def test_text_is_ordered_by_code_point_on_both_sides(servers: EmbeddedServers, name: ServerName) -> None:
    query = "SELECT string_agg(t, '' ORDER BY t) FROM unnest(ARRAY['b', 'B', 'a', 'é', 'Z', '-']) t"
    assert one(servers.address(name).url("postgres"), query) == "-BZabé"


def test_only_postgresql_18_gets_the_setting_that_only_it_knows() -> None:
    assert "max_active_replication_origins" in render(18, 1, {})
    assert "max_active_replication_origins" not in render(16, 1, {})


def test_an_extra_setting_wins_and_is_quoted() -> None:
    text = render(16, 5000, {"shared_buffers": "1GB", "application_name": r"it's \n"})
    assert "shared_buffers = '1GB'" in text
    assert r"application_name = 'it''s \\n'" in text
    assert text.count("shared_buffers") == 1


def test_a_setting_name_that_would_smuggle_in_another_line_is_refused() -> None:
    with pytest.raises(EmbeddedServerError, match="not the name of a PostgreSQL setting"):
        render(16, 5000, {"x = 1\nlisten_addresses": "*"})


@pytest.mark.long
@pytest.mark.parametrize("name", _NAMES)
def test_a_server_listens_on_the_loopback_address_only(servers: EmbeddedServers, name: ServerName) -> None:
    leader = psutil.Process(status_of(servers, name).pid)
    listening = [
        c for c in leader.net_connections(kind="all") if c.status == psutil.CONN_LISTEN or c.family == socket.AF_UNIX
    ]
    assert [str(connection.laddr[0]) for connection in listening] == ["127.0.0.1"]


@pytest.mark.long
@pytest.mark.parametrize("name", _NAMES)
def test_nobody_gets_in_without_the_password(servers: EmbeddedServers, name: ServerName, tmp_path: Path) -> None:
    address = servers.address(name)
    empty = tmp_path / "empty"
    empty.touch(mode=0o600)
    for password in (None, "wrong"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(
                host=address.host,
                port=address.port,
                user="migrator",
                password=password,
                dbname="postgres",
                passfile=str(empty),
            )


@pytest.fixture
def untouched_servers(tmp_path: Path) -> Generator[EmbeddedServers]:
    """A pair that no subscription was ever made on: its connection string is in the catalogue and in the WAL."""
    with running_pair(tmp_path) as pair:
        yield pair


def test_the_password_is_in_the_password_file_and_nowhere_else(untouched_servers: EmbeddedServers) -> None:
    servers = untouched_servers
    passfile = servers.address("legacy").passfile
    assert stat.S_IMODE(passfile.stat().st_mode) == 0o600
    password = passfile.read_text().strip().rpartition(":")[2]
    assert len(password) >= 24
    assert all(password not in url for url in (servers.legacy_url(), servers.base_url(), servers.dagster_url()))
    folders = {servers.var, passfile.parent}
    holders = {
        p for folder in folders for p in folder.rglob("*") if p.is_file() and password.encode() in p.read_bytes()
    }
    assert {holder.resolve() for holder in holders} == {passfile.resolve()}
    command_lines = [" ".join(p.cmdline()) for status in servers.status() for p in server_processes(status.data_folder)]
    assert command_lines
    assert not any(password in line for line in command_lines)


@pytest.mark.long
def test_psycopg_and_sqlalchemy_take_the_url_as_it_is(databases: Databases) -> None:
    assert one(databases.base_url, "SELECT current_user") == "migrator"
    for scheme in ("postgresql+psycopg", "postgresql+psycopg2", "postgresql"):
        engine = sqlalchemy.create_engine(databases.base_url.replace("postgresql", scheme, 1))
        with engine.connect() as connection:
            assert connection.execute(sqlalchemy.text("SELECT current_user")).scalar_one() == "migrator"
        engine.dispose()


@pytest.mark.long
def test_dagsters_storage_url_can_send_the_bound_notify_of_its_event_log(servers: EmbeddedServers) -> None:
    engine = sqlalchemy.create_engine(servers.dagster_url())
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("NOTIFY run_events, :event"), {"event": "1"})
    engine.dispose()


@pytest.mark.long
def test_a_subscription_on_the_base_takes_the_legacys_url_as_it_is(databases: Databases) -> None:
    _replicate(databases)
    eventually(lambda: one(databases.base_url, "SELECT count(*) FROM t") == "2")


@pytest.mark.long
def test_databases_in_use_can_be_dropped_and_in_the_wrong_order_too(servers: EmbeddedServers) -> None:
    name = f"test_{secrets.token_hex(6)}"
    for server in _NAMES:
        servers.recreate_database(server, name)
    _replicate(Databases(legacy_url=servers.legacy_url(name), base_url=servers.base_url(name)))
    held = psycopg.connect(servers.legacy_url(name))
    servers.drop_database("legacy", name)  # its slot is in use, and the subscriber reconnects every 100 ms
    servers.recreate_database("base", name)
    servers.drop_database("base", name)
    held.close()
    for server in _NAMES:
        url = servers.address(server).url("postgres")
        assert one(url, "SELECT count(*) FROM pg_database WHERE datname = %s", name) == "0"
        assert one(url, "SELECT count(*) FROM pg_replication_slots WHERE database = %s", name) == "0"


def _replicate(databases: Databases) -> None:
    execute(databases.legacy_url, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    execute(databases.legacy_url, "CREATE PUBLICATION p FOR TABLE t")
    slot = f"s_{secrets.token_hex(6)}"
    execute(
        databases.base_url,
        "CREATE TABLE t (id int PRIMARY KEY)",
        f"CREATE SUBSCRIPTION {slot} CONNECTION '{databases.legacy_url}' PUBLICATION p",
    )
    execute(databases.legacy_url, "INSERT INTO t VALUES (2)")


@pytest.mark.long
def test_a_second_start_leaves_running_servers_alone(servers: EmbeddedServers) -> None:
    before = [(status.pid, status.port) for status in servers.status()]
    servers.start()
    assert [(status.pid, status.port) for status in servers.status()] == before
    assert all(status.running and status.size_bytes > 1_000_000 for status in servers.status())


@pytest.mark.long
def test_asking_servers_that_were_never_started_touches_nothing(tmp_path: Path) -> None:
    pair = EmbeddedServers(tmp_path / "var")
    assert pair.status() == []
    pair.stop()
    with pytest.raises(EmbeddedServerError, match="never started"):
        pair.legacy_url()
    assert not (tmp_path / "var").exists()


@pytest.mark.long
def test_removed_servers_leave_nothing_behind(fresh: tuple[EmbeddedServers, Path]) -> None:
    pair, var = fresh
    pair.start()
    data = [status.data_folder for status in pair.status()]
    pair.remove()
    assert not any(folder.exists() for folder in data)
    assert not shared_home(var).exists()
    assert {path.name for path in var.iterdir()} <= {"servers.lock"}


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user runs the servers itself")
def test_programs_that_the_server_user_cannot_reach_are_copied_once(tmp_path: Path) -> None:
    installed = locate(16)
    for folder in package_folders(installed.tree):
        (tmp_path / folder.name).symlink_to(folder)  # the way leads through a folder that only root can enter
    closed = Binaries(major=16, tree=tmp_path)
    copy, version = reachable_binaries(closed, server_user())
    try:
        assert version.startswith("16.")
        assert copy.tree != closed.tree
        made = copy.tree.stat().st_ino
        again, _ = reachable_binaries(closed, server_user())
        assert (again, again.tree.stat().st_ino) == (copy, made)
    finally:
        subprocess.run(["/bin/rm", "-r", str(copy.tree)], check=True)


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user runs the servers itself")
def test_data_goes_to_a_shared_place_when_the_folder_is_closed_to_the_server_user(
    fresh: tuple[EmbeddedServers, Path],
) -> None:
    servers, var = fresh
    servers.start()
    home = servers.address("base").passfile.parent
    assert home == shared_home(var)
    assert stat.S_IMODE((home / "servers").stat().st_mode) == 0o700
    assert (var / "pgpass").resolve() == (home / "pgpass").resolve()
    assert json.loads((var / "servers.json").read_text())["home"] == str(home)
