"""The two servers that a benchmark measures on: equal rows for all, and an empty base for each."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from benchmarks.clients import process_tree_cpu
from benchmarks.lab_names import SPEC
from migration_assets.domain.errors import EmbeddedServerError
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.table_description import TableDescription
from migration_assets.embedded.bookings import create_bookings
from migration_assets.embedded.processes import locate
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.fingerprints import hashed_columns, take_fingerprint
from migration_assets.postgres.sessions import Databases, Side, Timeouts, require_row

_NEVER = Timeouts(lock=0, statement=0, idle_in_transaction=0)


@dataclass(frozen=True)
class Lab:
    """Running servers and a legacy that is full; `table_bytes` is its heap with TOAST, `index_bytes` all indexes."""

    servers: EmbeddedServers
    databases: Databases
    rows: int
    table_bytes: int
    index_bytes: int
    description: TableDescription
    fingerprint: Fingerprint

    def empty_base(self) -> None:
        """A new base database; then a checkpoint on both sides, so that nobody inherits another's WAL debt."""
        self.servers.recreate_database("base", "base")
        for side in ("legacy", "base"):
            _checkpoint(self.databases.url(side))

    def warm_up(self) -> None:
        """Read the whole legacy once, TOAST too: all contenders then find it in the same caches."""
        self.fingerprint_of("legacy")

    def fingerprint_of(self, side: Side) -> Fingerprint:
        """Of the whole table, through the root where it has one."""
        with self.databases.session(side, "benchmark", _NEVER) as connection:
            return take_fingerprint(connection, SPEC.table, hashed_columns(self.description))

    def fingerprints(self) -> tuple[Fingerprint, Fingerprint]:
        """Of both sides at once, as two servers can: what a careful user of a peer would do after it."""
        with ThreadPoolExecutor(2) as pool:
            legacy = pool.submit(self.fingerprint_of, "legacy")
            base = pool.submit(self.fingerprint_of, "base")
            return legacy.result(), base.result()

    def server_cpu(self) -> float:
        """CPU seconds that both servers have used so far, of all backends there ever were."""
        return sum(process_tree_cpu(status.pid) for status in self.servers.status() if status.pid is not None)

    def versions(self) -> dict[str, str]:
        """Of both servers."""
        return {status.name: status.version for status in self.servers.status()}


@contextmanager
def open_lab(folder: Path, rows: int, *, keep: bool) -> Generator[Lab]:
    """Start servers below `folder` and fill the legacy, unless it is there with as many rows.

    Servers and data are removed at the end, also after an error, unless `keep`.
    """
    servers = EmbeddedServers(folder)
    try:
        servers.start()
        databases = Databases(servers.legacy_url(), servers.base_url())
        if _rows_there(databases.legacy_url) != rows:
            servers.recreate_database("legacy", "legacy")
            with psycopg.connect(databases.legacy_url) as connection:
                create_bookings(connection, rows=rows)
        # Else the first reader would pay for the hint bits of all.
        with psycopg.connect(databases.legacy_url, autocommit=True) as connection:
            connection.execute(sql.SQL("VACUUM ANALYZE {}").format(_table()))
        yield _examine(servers, databases, rows)
    finally:
        if not keep:
            servers.remove()


def client_program(name: str) -> str:
    """A PostgreSQL 18 client from the same package as the servers.

    Raises:
        EmbeddedServerError: The package has no such program.
    """
    program = locate(18).program(name)
    if not Path(program).is_file():
        raise EmbeddedServerError(f"there is no {name} beside the servers", next_step="look into the package's bin/")
    return program


def _examine(servers: EmbeddedServers, databases: Databases, rows: int) -> Lab:
    with databases.session("legacy", "benchmark", _NEVER) as connection:
        description = require_table(connection, SPEC.table, "legacy")
        sizes = connection.execute(
            "SELECT pg_table_size(%(t)s::regclass), pg_indexes_size(%(t)s::regclass)", {"t": SPEC.relation}
        ).fetchone()
        table_bytes, index_bytes = require_row(sizes, "the sizes of the legacy")
        fingerprint = take_fingerprint(connection, SPEC.table, hashed_columns(description))
    return Lab(servers, databases, rows, int(table_bytes), int(index_bytes), description, fingerprint)


def _rows_there(url: str) -> int | None:
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [SPEC.relation]).fetchone()
        if not require_row(found, "to_regclass")[0]:
            return None
        count = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(_table())).fetchone()
        return int(require_row(count, "a count")[0])


def _table() -> sql.Identifier:
    return sql.Identifier(SPEC.table.schema, SPEC.table.name)


def _checkpoint(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
