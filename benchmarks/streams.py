"""The two change streams that are measured: ours, and PostgreSQL's own as its manual would set it up.

Both are between the same two servers, over the same rows of one quarter and with the same indexes, each in databases of
its own, since replica identity belongs to the table. Only one of them runs at a time.
"""

import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql
from pydantic import SecretStr

from benchmarks.changes import Load
from benchmarks.clients import run_pipe
from benchmarks.lab import Lab, client_program
from benchmarks.lab_names import SPEC
from migration_assets.copying.weeks import copy_week
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.postgres.fingerprints import in_range
from migration_assets.postgres.sessions import Connected, Databases, require_row
from migration_assets.preflight.run import examine
from migration_assets.quarters.opening import open_quarter
from migration_assets.runtime import Migration, open_migration
from migration_assets.settings import MigrationSettings
from migration_assets.stream.heartbeats import newest_arrived, send_heartbeat
from migration_assets.stream.holding import pause_stream, resume_stream, start_stream
from migration_assets.stream.subscription import legacy_conninfo

QUARTER = FiscalQuarter.parse("FY25-Q2")
OURS, PEER = "ours", "native"
_OURS_DATABASE, _PEER_DATABASE = "cdc", "cdc_peer"
_PATIENCE = 600.0


@dataclass(frozen=True)
class Stream:
    """One contender. `beat` writes a heartbeat on the legacy, `newest` sees the last that is visible on the base."""

    name: str
    title: str
    databases: Databases
    beat: Callable[[Connected], int]
    newest: Callable[[Connected], int]
    let_go: Callable[[], object]
    stop: Callable[[], object]

    def rest(self) -> None:
        """Stop it, and wait until its worker has ended."""
        self.stop()
        with self.databases.session("base", "benchmark") as base:
            wait_until(lambda: not _rows(base, _WORKERS), f"{self.name}: the apply worker does not end")


@dataclass(frozen=True)
class Ground:
    """Both streams, at rest, over the same rows of `QUARTER`; `rows` is how many that are."""

    lab: Lab
    migration: Migration
    ours: Stream
    peer: Stream
    bounds: tuple[object, object]
    rows: int

    def load(self, stream: Stream, **how: float | str | bool) -> Load:
        """Changes to the quarter's rows in a stream's legacy."""
        lower, upper = (str(bound) for bound in self.bounds)
        columns = tuple(column.name for column in self.lab.description.copied_columns)
        table = SPEC.table.schema, SPEC.table.name
        url = stream.databases.legacy_url
        return Load(url, table, SPEC.control_column, lower, upper, columns, **how)  # pyright: ignore[reportArgumentType]


@contextmanager
def open_ground(lab: Lab) -> Generator[Ground]:
    """Make all four databases and both streams; they are dropped at the end."""
    try:
        for name in (_OURS_DATABASE, _PEER_DATABASE):
            _drop(lab, name)
            with psycopg.connect(lab.servers.address("legacy").url("postgres"), autocommit=True) as admin:
                admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE legacy").format(sql.Identifier(name)))
            lab.servers.recreate_database("base", name)
        migration = _migration(lab)
        kind = lab.description.control_kind(SPEC.control_column)
        weeks = migration.calendar.weeks_of(QUARTER)
        bounds = migration.calendar.bound_values(weeks[0], kind)[0], migration.calendar.bound_values(weeks[-1], kind)[1]
        peer, rows = _native_stream(lab, bounds)
        peer.rest()
        ours = _our_stream(migration)
        ours.rest()
        yield Ground(lab, migration, ours, peer, bounds, rows)
    finally:
        for name in (_OURS_DATABASE, _PEER_DATABASE):
            _drop(lab, name)


def _our_stream(migration: Migration) -> Stream:
    """Through the product's own steps: preflight, the quarter's places, 13 copies, activation."""
    examine(migration)
    open_quarter(migration, QUARTER)
    with ThreadPoolExecutor(2) as pool:
        for copied in [pool.submit(copy_week, migration, week) for week in migration.calendar.weeks_of(QUARTER)]:
            copied.result()
    start_stream(migration, QUARTER)
    relation = migration.spec.relation
    return Stream(
        OURS,
        "migration_assets' change stream",
        migration.databases,
        lambda legacy: send_heartbeat(legacy, relation),
        lambda base: newest_arrived(base, relation),
        lambda: resume_stream(migration),
        lambda: pause_stream(migration, "somebody else is measured"),
    )


def _native_stream(lab: Lab, bounds: tuple[object, object]) -> tuple[Stream, int]:
    """An unpartitioned table that holds the quarter alone, default replica identity, no filter, all defaults."""
    urls = Databases(lab.servers.legacy_url(_PEER_DATABASE), lab.servers.base_url(_PEER_DATABASE))
    table = sql.Identifier(SPEC.table.schema, SPEC.table.name)
    with psycopg.connect(urls.legacy_url, autocommit=True) as legacy:
        outside = sql.SQL("DELETE FROM {} WHERE NOT ({})").format(table, in_range(SPEC.control_column, bounds))
        legacy.execute(outside)
        # As if it had never held more; the order of its rows stays.
        legacy.execute(sql.SQL("VACUUM (FULL, ANALYZE) {}").format(table))
        counted = legacy.execute(sql.SQL("SELECT count(*) FROM {}").format(table)).fetchone()
        legacy.execute("CREATE TABLE public.heartbeats (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, sent int)")
        legacy.execute(
            sql.SQL("CREATE PUBLICATION peer FOR TABLE {}, public.heartbeats"
                    " WITH (publish = 'insert, update, delete')").format(table)
        )  # fmt: skip
        conninfo = legacy_conninfo(legacy, urls.legacy_url, "peer")
    run_pipe(
        [client_program("pg_dump"), "--schema-only", "--no-publications", "--no-owner", "-d", urls.legacy_url],
        [client_program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-d", urls.base_url],
    )
    with psycopg.connect(urls.base_url, autocommit=True) as base:
        base.execute(sql.SQL("CREATE SUBSCRIPTION peer CONNECTION {} PUBLICATION peer").format(sql.Literal(conninfo)))
        unready = "SELECT 1 FROM pg_subscription_rel WHERE srsubstate <> 'r'"
        wait_until(lambda: not _rows(base, unready), "native: its initial copy does not end")
        base.execute("ANALYZE")
    stream = Stream(
        PEER,
        "CREATE SUBSCRIPTION, all defaults",
        urls,
        lambda legacy: int(
            require_row(
                legacy.execute("INSERT INTO public.heartbeats (sent) VALUES (1) RETURNING id").fetchone(), "a heartbeat"
            )[0]
        ),
        lambda base: int(
            require_row(base.execute("SELECT coalesce(max(id), 0) FROM public.heartbeats").fetchone(), "max")[0]
        ),
        lambda: _on_base(urls, "ALTER SUBSCRIPTION peer ENABLE"),
        lambda: _on_base(urls, "ALTER SUBSCRIPTION peer DISABLE"),
    )
    return stream, int(require_row(counted, "a count")[0])


_WORKERS = (
    "SELECT 1 FROM pg_stat_subscription s JOIN pg_subscription p ON p.oid = s.subid"
    " WHERE s.pid IS NOT NULL AND p.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def wait_until(is_so: Callable[[], object], complaint: str) -> None:
    """Look every few milliseconds; raises `TimeoutError` with the complaint after ten minutes."""
    deadline = time.monotonic() + _PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(complaint)
        time.sleep(0.01)


def _rows(connection: Connected, query: str) -> list[tuple[object, ...]]:
    return connection.execute(query.encode()).fetchall()


def _on_base(urls: Databases, statement: str) -> None:
    with urls.session("base", "benchmark") as base:
        base.execute(statement.encode())


def _migration(lab: Lab) -> Migration:
    return open_migration(
        MigrationSettings(
            _env_file=None,  # pyright: ignore[reportCallIssue]
            legacy_url=SecretStr(lab.servers.legacy_url(_OURS_DATABASE)),
            base_url=SecretStr(lab.servers.base_url(_OURS_DATABASE)),
            var=Path(lab.servers.var),
        )
    )


def _drop(lab: Lab, name: str) -> None:
    # The base's first: its subscription takes the slot along.
    lab.servers.drop_database("base", name)
    lab.servers.drop_database("legacy", name)
