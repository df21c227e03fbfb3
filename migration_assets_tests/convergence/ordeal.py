"""One seed from an empty base to the final comparison."""

import secrets
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

import psycopg
from psycopg import sql

from migration_assets.embedded.servers import EmbeddedServers
from migration_assets_tests.convergence.comparison import drain, require_converged
from migration_assets_tests.convergence.controller import Controller
from migration_assets_tests.convergence.table import create_table, migration_of
from migration_assets_tests.convergence.workload import writing


@dataclass(frozen=True)
class Outcome:
    """What one seed did; waits are what a lonely writer on the legacy waited for one UPDATE."""

    seed: int
    seconds: float
    transactions: int
    damages: int
    rows: int
    drained: float
    wait_p99: float
    wait_max: float

    def __str__(self) -> str:
        return (
            f"seed {self.seed:>10}: equal; {self.rows:,} rows compared, {self.transactions:,} transactions,"
            f" {self.damages} damages found, drained in {self.drained:.2f} s,"
            f" writer's wait p99 {self.wait_p99:.0f} ms max {self.wait_max:.0f} ms, {self.seconds:.1f} s"
        )


@contextmanager
def fresh_databases(pair: EmbeddedServers) -> Generator[tuple[str, str]]:
    """An empty database on each server: the legacy's URL and the base's."""
    name = f"ordeal_{secrets.token_hex(6)}"
    pair.recreate_database("legacy", name)
    pair.recreate_database("base", name)
    try:
        yield pair.legacy_url(name), pair.base_url(name)
    finally:
        pair.drop_database("base", name)  # first: its subscriptions take their slots on the legacy with them
        pair.drop_database("legacy", name)


def run_seed(pair: EmbeddedServers, seed: int, steps: int) -> Outcome:
    """Run one seed on databases of its own.

    Raises:
        AssertionError: Whatever went wrong, with the seed and the journal in its text.
    """
    with fresh_databases(pair) as (legacy_url, base_url):
        random = Random(seed)
        _shrink_decoding_memory(legacy_url, random)
        create_table(legacy_url, random)
        controller = Controller(migration_of(legacy_url, base_url), random=random)
        began = time.monotonic()
        try:
            controller.prepare()
            with writing(legacy_url, seed) as traffic:
                controller.run(steps)
            drained = drain(controller.migration)
            rows = require_converged(controller.migration)
            controller.require_untouched()
        except Exception as error:
            journal = "\n".join(controller.journal.lines)
            raise AssertionError(f"seed {seed} ({steps} steps): {error!r}\n{error}\n{journal}") from error
    waits = sorted(traffic.waits)
    return Outcome(
        seed,
        time.monotonic() - began,
        traffic.transactions,
        controller.found,
        rows,
        drained,
        waits[len(waits) * 99 // 100],
        waits[-1],
    )


def _shrink_decoding_memory(url: str, random: Random) -> None:
    """Half of the time transactions of some hundred rows are streamed before they end, as huge ones always are."""
    if random.random() < 0.5:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET logical_decoding_work_mem = '64kB'").format(
                    sql.Identifier(connection.info.dbname)
                )
            )
