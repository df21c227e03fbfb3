"""A pair of servers of which either may be copied, followed, promoted, put back: with PostgreSQL's own programs."""

import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from migration_assets.embedded.cluster import Cluster
from migration_assets.embedded.processes import locate, own, run, server_user
from migration_assets.embedded.reach import reachable_binaries
from migration_assets.embedded.servers import EmbeddedServers, ServerName
from migration_assets.postgres.sessions import Databases, Side
from migration_assets_tests.ground import Ground, wait_for
from migration_assets_tests.server_pairs import quick_pair
from migration_assets_tests.servers.versions import Installed, new_cluster

Moved = TypeVar("Moved", bound=Ground)


@dataclass
class Spare:
    """A pair and its copies. `clusters` is who serves as which side now; `former` are those that served before."""

    pair: EmbeddedServers
    folder: Path
    clusters: dict[Side, Cluster]
    made: list[Cluster] = field(default_factory=list[Cluster])

    def url(self, side: Side, database: str) -> str:
        """Of a database on whoever serves as the side now."""
        cluster = self.clusters[side]
        server: ServerName = side
        address = replace(self.pair.address(server), port=cluster.port, passfile=cluster.passfile)
        return address.url(database)

    def recreate(self, name: str) -> None:
        """An empty database of that name on both sides."""
        for side in self.clusters:
            with psycopg.connect(self.url(side, "postgres"), autocommit=True) as admin:
                admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    def ground(self, like: Moved) -> Moved:
        """The same migration on whoever serves now."""
        names = {side: conninfo_to_dict(like.databases.url(side))["dbname"] for side in self.clusters}
        urls = {side: self.url(side, str(names[side])) for side in self.clusters}
        return replace(like, databases=Databases(urls["legacy"], urls["base"]))

    def stop(self, side: Side, mode: str = "fast") -> None:
        """Whoever serves as the side; its data stay."""
        self.clusters[side].stop("immediate" if mode == "immediate" else "fast")

    def start(self, side: Side) -> None:
        """It serves again, on the port that it had."""
        cluster = self.clusters[side]
        self.clusters[side] = replace(cluster, port=cluster.start())

    def keep_files(self, side: Side) -> Path:
        """A copy of the data folder of a server that is stopped for it, and goes on."""
        aside = self.folder / f"kept-{side}-{len(list(self.folder.iterdir()))}"
        self.stop(side)
        _copy(self.clusters[side].data, aside)
        self.start(side)
        return aside

    def put_back(self, side: Side, aside: Path) -> None:
        """The folder's data in the place of the side's own, without any recovery."""
        self.stop(side, "immediate")
        shutil.rmtree(self.clusters[side].data)
        _copy(aside, self.clusters[side].data)
        self.start(side)

    def back_up(self, side: Side) -> Path:
        """What pg_basebackup takes of a running server."""
        cluster, user = self.clusters[side], server_user()
        target = self.folder / f"backup-{side}-{len(list(self.folder.iterdir()))}"
        target.mkdir(mode=0o700)
        own(target, user)
        url = f"{self.url(side, 'postgres')}"
        code, said = run(
            [cluster.binaries.program("pg_basebackup"), "-D", str(target), "-d", url, "-X", "stream", "-c", "fast",
             "--no-sync"],
            user=user,
        )  # fmt: skip
        assert code == 0, said
        return target

    def restore(self, side: Side, backup: Path, settings: Mapping[str, str]) -> Cluster:
        """A new server of a backup, recovering as `settings` say, on a port of its own; not yet serving as the side."""
        old = self.clusters[side]
        folder = self.folder / f"server-{side}-{len(self.made)}"
        folder.mkdir(mode=0o700)
        own(folder, server_user())
        backup.rename(folder / "data")
        for name in ("migration_assets.conf", "postmaster.pid"):
            (folder / "data" / name).unlink(missing_ok=True)
        new = replace(old, folder=folder, port=0, extra_settings={**old.extra_settings, **settings})
        self.made.append(new)
        return new

    def dump_and_restore(self, ground: Ground) -> Ground:
        """The base's database carried into another one of its server, by pg_dump and psql; without its subscription."""
        base = self.clusters["base"]
        name = f"{conninfo_to_dict(ground.databases.base_url)['dbname']}_copy"
        with psycopg.connect(self.url("base", "postgres"), autocommit=True) as admin:
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        file = self.folder / name
        target = self.url("base", name)
        for program, *arguments in (
            ("pg_dump", "-d", ground.databases.base_url, "--no-subscriptions", "--no-publications", "-Fc", "-f", file),
            ("pg_restore", "-d", target, "--exit-on-error", file),
        ):
            code, said = run([base.binaries.program(program), *map(str, arguments)], user=server_user())
            assert code == 0, said
        return replace(ground, databases=replace(ground.databases, base_url=target))

    def standby(self, side: Side, **settings: str) -> Cluster:
        """A running standby of the side."""
        backup = self.back_up(side)
        touch(backup / "standby.signal")
        new = self.restore(
            side, backup, {"primary_conninfo": _conninfo(self.url(side, "postgres")), "hot_standby": "on", **settings}
        )
        return self.began(new)

    def began(self, new: Cluster) -> Cluster:
        """It runs."""
        running = replace(new, port=new.start())
        self.made[self.made.index(new)] = running
        return running

    def ask(self, cluster: Cluster, query: str, database: str = "postgres") -> object:
        """One value, of a server that need not serve as a side."""
        address = replace(self.pair.address("base"), port=cluster.port, passfile=cluster.passfile)
        with psycopg.connect(address.url(database), autocommit=True) as connection:
            row = connection.execute(query.encode()).fetchone()
        return row and row[0]

    def promote(self, side: Side, standby: Cluster) -> None:
        """The standby serves as the side; whoever did is dead."""
        self.clusters[side].kill()
        self.ask(standby, "SELECT pg_promote()")
        wait_for(lambda: self.ask(standby, "SELECT NOT pg_is_in_recovery()"), "the standby is promoted")
        self.clusters[side] = standby


def touch(path: Path) -> None:
    """An empty file that the server may read."""
    path.touch()
    own(path, server_user())


def _conninfo(url: str) -> str:
    return make_conninfo(url, application_name="standby")


def _copy(source: Path, target: Path) -> None:
    user = server_user()
    shutil.copytree(source, target, symlinks=True)
    for path in (target, *target.rglob("*")):
        own(path, user)
    (target / "postmaster.pid").unlink(missing_ok=True)


@contextmanager
def spare_servers(
    *, new_legacy: bool = False, legacy: Installed | None = None, base: Installed | None = None
) -> Generator[Spare]:
    """A pair of its own, and everything that was made of it gone at the end.

    Args:
        new_legacy: The legacy is of the base's version, which can hand its slots on to a standby.
        legacy: Programs for a legacy of another version.
        base: The same for the base.
    """
    with quick_pair() as pair:
        folder = pair.var / "spare"
        folder.mkdir(mode=0o711)
        own(folder, server_user())
        clusters: dict[Side, Cluster] = {}
        user = server_user()
        for status in pair.status():
            side: Side = "base" if status.name == "base" else "legacy"
            programs, version = reachable_binaries(locate(18 if side == "base" else 16), user)
            clusters[side] = Cluster(
                side, status.data_folder.parent, pair.address(side).passfile, status.port, programs, version, user,
                {"fsync": "off", "max_prepared_transactions": "4"},
            )  # fmt: skip
        spare = Spare(pair, folder, clusters)
        try:
            others: dict[Side, Cluster] = {}
            if new_legacy:
                others["legacy"] = replace(clusters["base"], name="legacy", folder=folder / "legacy18", port=0)
            wanted: dict[Side, Installed | None] = {"legacy": legacy, "base": base}
            for one, programs in wanted.items():
                if programs is not None:
                    like = clusters[one]
                    others[one] = new_cluster(one, programs, folder / f"other_{one}", like, like.extra_settings)
            for one, cluster in others.items():
                spare.made.append(cluster)
                clusters[one] = spare.began(cluster)
            yield spare
        finally:
            for cluster in spare.made:
                cluster.end()
