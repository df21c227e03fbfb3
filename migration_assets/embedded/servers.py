"""The pair of embedded servers: the legacy on PostgreSQL 16, the base (and Dagster's storage) on 18.

`servers.json` says where the clusters' data is, and which port and version each has. It holds no secret.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from migration_assets.domain.errors import EmbeddedServerError
from migration_assets.embedded.access import (
    HOST,
    ServerAddress,
    ServerStatus,
    create_database,
    drop_database,
    ensure_password,
)
from migration_assets.embedded.cluster import Cluster, StopMode
from migration_assets.embedded.processes import Major, exclusive, locate, postmaster, server_user
from migration_assets.embedded.reach import reachable_binaries, reachable_home, shared_home

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_FILE_NAME = "servers.json"


@dataclass(frozen=True)
class ServerRecord:
    """One server as it was last started.

    Attributes:
        port: TCP port on 127.0.0.1.
        version: Full version such as `16.14`.
        data_folder: Absolute.
    """

    port: int
    version: str
    data_folder: Path


@dataclass(frozen=True)
class Records:
    """The contents of `servers.json`.

    Attributes:
        home: Folder of `servers/<name>/data` and `pgpass`: `var` itself, or one in a shared place (see `reach`).
        servers: By name.
    """

    home: Path
    servers: Mapping[str, ServerRecord]


def read_records(var: Path) -> Records | None:
    """Read `servers.json`; None when no server was ever started from this folder.

    Raises:
        EmbeddedServerError: The file is damaged.
    """
    file = var / _FILE_NAME
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        # Paths below var are relative in the file, so that the folder can be renamed while the servers are down.
        servers = {
            name: ServerRecord(
                port=int(entry["port"]), version=str(entry["version"]), data_folder=var / str(entry["data_folder"])
            )
            for name, entry in content["servers"].items()
        }
        return Records(home=var / str(content["home"]), servers=servers)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EmbeddedServerError(
            f"the file is damaged: {error}",
            where=str(file),
            state_left="the servers and their data were not touched",
            next_step="delete the file and start the servers again: they are found where they were",
        ) from error


def write_records(var: Path, records: Records) -> None:
    """Replace the file, whole or not at all."""
    content = {
        "home": _below(var, records.home),
        "servers": {
            name: {
                "port": record.port,
                "version": record.version,
                "data_folder": _below(var, record.data_folder),
            }
            for name, record in sorted(records.servers.items())
        },
    }
    aside = var / f"{_FILE_NAME}.{secrets.token_hex(4)}.aside"
    with aside.open("w", encoding="utf-8") as output:
        output.write(json.dumps(content, indent=2) + "\n")
        output.flush()
        os.fsync(output.fileno())
    aside.replace(var / _FILE_NAME)


def delete_records(var: Path) -> None:
    """Forget the servers; their data is not touched."""
    (var / _FILE_NAME).unlink(missing_ok=True)


def _below(var: Path, path: Path) -> str:
    return str(path.relative_to(var)) if path.is_relative_to(var) else str(path)


__all__ = ["EmbeddedServers", "ServerAddress", "ServerName", "ServerStatus"]

ServerName = Literal["legacy", "base"]

_MAJORS: dict[ServerName, Major] = {"legacy": 16, "base": 18}
_DATABASES: dict[ServerName, tuple[str, ...]] = {"legacy": ("legacy",), "base": ("base", "dagster")}


class EmbeddedServers:
    """The two clusters below one folder; constructing it touches nothing.

    Args:
        var: Folder for state and data. Where the user that runs the servers cannot get into it, the data is elsewhere
            and `servers.json` says where.
        extra_settings: PostgreSQL settings for both clusters that win over ours.
    """

    def __init__(self, var: Path, *, extra_settings: Mapping[str, str] | None = None) -> None:
        self._var = var.absolute()
        self._extra_settings = dict(extra_settings or {})

    @property
    def var(self) -> Path:
        """The folder that was given, absolute."""
        return self._var

    def start(self) -> None:
        """Start both servers and make their databases; a running server is left alone.

        Raises:
            EmbeddedServerError: A server does not come up, or another process holds the lock for 10 minutes.
        """
        with exclusive(self._var):
            user = server_user()
            known = read_records(self._var)
            home = known.home if known else reachable_home(self._var, user)
            self._refuse_lost_files(home, known)
            ensure_password(home / "pgpass", user)  # once, before two threads need it
            if home != self._var and not (self._var / "pgpass").is_symlink():
                (self._var / "pgpass").symlink_to(home / "pgpass")
            clusters = self._clusters(home, known)
            with ThreadPoolExecutor(len(clusters)) as pool:
                ports = list(pool.map(Cluster.start, clusters))
            started = {
                cluster.name: ServerRecord(port=port, version=cluster.version, data_folder=cluster.data)
                for cluster, port in zip(clusters, ports, strict=True)
            }
            records = Records(home=home, servers=started)
            if records != known:
                write_records(self._var, records)
            self.create_databases()

    def stop(self, *, mode: StopMode = "fast") -> None:
        """Stop both and wait until they are gone; a stopped server is left alone.

        Raises:
            EmbeddedServerError: A server is still alive after two minutes.
        """
        if not self._var.is_dir():
            return
        with exclusive(self._var):
            # The base first: its apply workers leave, so that the legacy has no subscriber left to wait for.
            for cluster in reversed(self._known_clusters()):
                cluster.stop(mode)

    def remove(self) -> None:
        """Stop both and delete their data, password and records, wherever they are."""
        if not self._var.is_dir():
            return
        with exclusive(self._var):
            for cluster in reversed(self._known_clusters()):
                cluster.end()
            known = read_records(self._var)
            delete_records(self._var)
            home = known.home if known else shared_home(self._var)
            for folder in {home, self._var}:
                shutil.rmtree(folder / "servers", ignore_errors=True)
                (folder / "pgpass").unlink(missing_ok=True)
            if home != self._var and home.is_dir():
                home.rmdir()

    def status(self) -> list[ServerStatus]:
        """Both servers, the legacy first; empty when none was ever started from this folder."""
        return [self._status_of(cluster) for cluster in self._known_clusters()]

    def kill(self, name: ServerName) -> None:
        """SIGKILL a postmaster and its children and wait until they are gone: a crash, for drills.

        Raises:
            EmbeddedServerError: Some are still alive after 20 s.
        """
        for cluster in self._known_clusters():
            if cluster.name == name:
                cluster.kill()

    def address(self, name: ServerName) -> ServerAddress:
        """The address of a server, read anew at every call, since a start may have changed the port.

        Raises:
            EmbeddedServerError: The servers were never started from this folder.
        """
        known = read_records(self._var)
        if known is None or name not in known.servers:
            raise EmbeddedServerError(
                "the embedded servers were never started from this folder",
                where=str(self._var),
                next_step="migration-assets servers start",
            )
        record = known.servers[name]
        return ServerAddress(
            name=name, host=HOST, port=record.port, version=record.version, passfile=known.home / "pgpass"
        )

    def legacy_url(self, database: str = "legacy") -> str:
        """URL of a database on the legacy server, without a password in it."""
        return self.address("legacy").url(database)

    def base_url(self, database: str = "base") -> str:
        """URL of a database on the base server, without a password in it."""
        return self.address("base").url(database)

    def dagster_url(self) -> str:
        """SQLAlchemy URL of Dagster's own storage, a database on the base server; psycopg itself does not take it.

        The driver is psycopg2 on purpose: dagster-postgres sends NOTIFY with a bound parameter for every event, which
        psycopg 3 binds on the server, where NOTIFY takes none.
        """
        return self.base_url("dagster").replace("postgresql://", "postgresql+psycopg2://", 1)

    def create_databases(self) -> None:
        """Make the databases that are missing: `legacy` on the legacy, `base` and `dagster` on the base."""
        for server, databases in _DATABASES.items():
            admin_url = self.address(server).url("postgres")
            for database in databases:
                create_database(admin_url, database)

    def recreate_database(self, server: ServerName, database: str) -> None:
        """Replace a database by an empty one of the same name, even while clients are connected.

        Where both ends of a subscription are recreated, begin with the base: its slot on the legacy is dropped with it.

        Raises:
            EmbeddedServerError: The old one cannot be dropped.
        """
        self.drop_database(server, database)
        create_database(self.address(server).url("postgres"), database)

    def drop_database(self, server: ServerName, database: str) -> None:
        """Drop a database with its subscriptions and slots; nothing happens where it does not exist.

        Raises:
            EmbeddedServerError: Clients are still connected after 20 s.
        """
        address = self.address(server)
        drop_database(address.url("postgres"), address.url(database), database)

    def _clusters(self, home: Path, known: Records | None) -> list[Cluster]:
        user = server_user()
        clusters: list[Cluster] = []
        for name, major in _MAJORS.items():
            programs, version = reachable_binaries(locate(major), user)
            record = known.servers.get(name) if known else None
            clusters.append(
                Cluster(
                    name=name,
                    folder=home / "servers" / name,
                    passfile=home / "pgpass",
                    port=record.port if record else 0,
                    binaries=programs,
                    version=version,
                    user=user,
                    extra_settings=self._extra_settings,
                )
            )
        return clusters

    def _known_clusters(self) -> list[Cluster]:
        """The servers that have a data folder, even if their start was killed before it wrote the records."""
        known = read_records(self._var)
        homes = [known.home] if known else [self._var, shared_home(self._var)]
        for home in homes:
            if any((home / "servers" / name / "data").is_dir() for name in _MAJORS):
                return [cluster for cluster in self._clusters(home, known) if cluster.data.is_dir()]
        return []

    def _status_of(self, cluster: Cluster) -> ServerStatus:
        port = cluster.accepting_port()
        leader = postmaster(cluster.data) if port else None
        return ServerStatus(
            name=cluster.name,
            version=cluster.version,
            port=port or cluster.port,
            pid=leader.pid if leader else None,
            running=leader is not None,
            data_folder=cluster.data,
            size_bytes=_size_of(cluster.data),
        )

    def _refuse_lost_files(self, home: Path, known: Records | None) -> None:
        """Refuse to replace a lost data folder by an empty server, or a lost password by one that does not fit."""
        for record in known.servers.values() if known else ():
            if not record.data_folder.is_dir():
                raise EmbeddedServerError(
                    "the data folder of an embedded server is gone",
                    where=str(record.data_folder),
                    state_left="nothing was touched",
                    next_step=f"restore the folder, or delete {self._var / 'servers.json'} to begin with empty servers",
                )
        if not (home / "pgpass").exists() and any((home / "servers").glob("*/data")):
            raise EmbeddedServerError(
                "the password file of the embedded servers is gone",
                where=str(home / "pgpass"),
                state_left="nothing was touched",
                next_step=f"restore it, or delete {home / 'servers'} and {self._var / 'servers.json'} to begin anew",
            )


def _size_of(folder: Path) -> int:
    size = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # the server removed it in between
                size += os.lstat(os.path.join(root, name)).st_size  # noqa: PTH118 - thousands of files
    return size
