"""How long a proof that a quarter is equal takes: ours, `pgcopydb compare data`, its statement, and fetching all rows.

Nothing is written meanwhile: ours does not need that, but all the others do.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from benchmarks import pgcopydb
from benchmarks.clients import ClientFailedError, run_client
from benchmarks.lab import client_program
from benchmarks.lab_names import SPEC
from benchmarks.streams import QUARTER, Ground
from benchmarks.writer_stalls import legacy_rows
from migration_assets.copying.weeks import validate_week
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.postgres.fingerprints import in_range
from migration_assets.postgres.sessions import Side, require_row
from migration_assets.proof.reconciliation import reconcile_quarter

_COMPARES_SINCE = (0, 13)


@dataclass(frozen=True)
class Proofs:
    """Seconds of every run of every contender; rows of the quarter, and of the week that `naive week` compared."""

    rows: int
    week: str
    week_rows: int
    seconds: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    skipped: dict[str, str] = field(default_factory=dict[str, str])


def measure_proofs(ground: Ground, *, runs: int) -> Proofs:
    """All contenders, `runs` times in turn; every one must find both sides equal."""
    week = max(ground.migration.calendar.weeks_of(QUARTER), key=lambda week: legacy_rows(ground, week))
    contenders = {
        "weeks": lambda: _validate(ground, ground.migration.calendar.weeks_of(QUARTER)),
        "quarter": lambda: _reconcile(ground),
        "statement": lambda: _compare_statement(ground),
        "week": lambda: _validate(ground, [week]),
        "naive week": lambda: _fetch_and_compare(ground, week),
    }
    proofs = Proofs(ground.rows, week.key, legacy_rows(ground, week))
    missing = _why_not()
    if missing:
        proofs.skipped["program"] = missing
    else:
        contenders["program"] = lambda: _compare_program(ground)
    _settle(ground)
    ground.ours.let_go()
    try:
        for turn in range(runs + 1):
            for name in contenders if turn % 2 else reversed(contenders):
                began = time.monotonic()
                contenders[name]()
                if turn:  # the first round warms up
                    proofs.seconds.setdefault(name, []).append(time.monotonic() - began)
    finally:
        ground.ours.rest()
    return proofs


def _why_not() -> str | None:
    skip = pgcopydb.contender().skip
    if skip is not None:
        return skip
    if pgcopydb.version() < _COMPARES_SINCE:
        return (
            f"pgcopydb {pgcopydb.version_text()} has no `compare data`, which came with 0.13; its statement ran instead"
        )
    return None


def _settle(ground: Ground) -> None:
    """Whoever reads first would pay for the hint bits of all that was changed before."""
    for url in (ground.peer.databases.legacy_url, ground.peer.databases.base_url):
        with psycopg.connect(url) as connection:
            # The stream was stopped between two heartbeats, and pgcopydb compares all tables that there are.
            connection.execute("TRUNCATE public.heartbeats")
    for stream in (ground.ours, ground.peer):
        for url in (stream.databases.legacy_url, stream.databases.base_url):
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(sql.SQL("VACUUM ANALYZE {}").format(_table()))
                connection.execute("CHECKPOINT")


def _validate(ground: Ground, weeks: Sequence[FiscalWeek]) -> None:
    for week in weeks:
        validate_week(ground.migration, week)


def _reconcile(ground: Ground) -> None:
    done = reconcile_quarter(ground.migration, QUARTER)
    if not done.equal:
        raise ClientFailedError(f"our stream lost or changed rows of {QUARTER.key}")


def _compare_statement(ground: Ground) -> None:
    """What `pgcopydb compare data` sends to both sides at once (its documentation has it), without its start-up."""
    columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in ground.lab.description.columns)
    query = sql.SQL(
        "SELECT count(1), encode(sha256(format('%s-%s', sum(hashtext(({columns})::text)::bigint), count(1))::bytea),"
        " 'hex') FROM ONLY {table}"
    ).format(columns=columns, table=_table())
    if len({*_on_both_peers(ground, query)}) != 1:
        raise ClientFailedError("the native subscription lost or changed rows")


def _on_both_peers(ground: Ground, query: sql.Composed) -> list[tuple[Any, ...]]:
    def one(side: Side) -> tuple[Any, ...]:
        with psycopg.connect(ground.peer.databases.url(side), autocommit=True) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            return require_row(connection.execute(query).fetchone(), "a checksum")

    sides: tuple[Side, Side] = ("legacy", "base")
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, sides))


def _compare_program(ground: Ground) -> None:
    tools = Path(client_program("pg_dump")).parent
    urls = ground.peer.databases
    with tempfile.TemporaryDirectory(prefix="pgcopydb-") as folder:
        run_client(
            ["pgcopydb", "compare", "data", "--source", urls.legacy_url, "--target", urls.base_url, "--dir", folder],
            {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "PG_CONFIG": str(tools / "pg_config")},
        )


def _fetch_and_compare(ground: Ground, week: FiscalWeek) -> None:
    """Every row of one week through a client on both sides, as most hand-made checks do; holds all of them."""
    kind = ground.lab.description.control_kind(SPEC.control_column)
    query = sql.SQL("SELECT {columns} FROM {table} WHERE {where} ORDER BY id").format(
        columns=sql.SQL(", ").join(sql.Identifier(column.name) for column in ground.lab.description.columns),
        table=_table(),
        where=in_range(SPEC.control_column, ground.migration.calendar.bound_values(week, kind)),
    )
    rows: dict[Side, list[tuple[Any, ...]]] = {}
    for side in ("legacy", "base"):
        with ground.migration.databases.session(side, "benchmark:naive") as connection:
            rows[side] = connection.execute(query).fetchall()
    if rows["legacy"] != rows["base"]:
        raise ClientFailedError(f"our stream lost or changed rows of {week.key}")


def _table() -> sql.Identifier:
    return sql.Identifier(SPEC.table.schema, SPEC.table.name)
