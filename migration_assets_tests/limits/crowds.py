"""Servers with small limits, and crowds that use up what they have."""

from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager

import psycopg
import pytest

from migration_assets.postgres.sessions import Connected, Side
from migration_assets_tests.ground import Ground, wait_for

SMALL = {
    "max_connections": "24", "max_locks_per_transaction": "10", "max_prepared_transactions": "0",
    "max_worker_processes": "12", "max_wal_senders": "6", "max_logical_replication_workers": "6",
}  # fmt: skip


@contextmanager
def connections(ground: Ground, side: Side, free: int) -> Generator[Connected]:
    """So many more sessions may be opened on that side, and no more; one of the crowd's."""
    with ExitStack() as stack:
        held = [stack.enter_context(closing(one)) for one in _all_there_are(ground.databases.url(side))]
        for session in held[:free]:
            session.close()
        left = (
            "SELECT current_setting('max_connections')::integer - count(*) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend'"
        )
        wait_for(lambda: held[-1].execute(left).fetchone() == (free,), "they are gone")
        yield held[-1]


def _all_there_are(url: str) -> list[Connected]:
    found: list[Connected] = []
    while True:
        try:
            found.append(psycopg.connect(url, autocommit=True))
        except psycopg.OperationalError as error:
            if "too many clients" not in str(error):
                raise
            return found


@contextmanager
def locks(ground: Ground, side: Side, free: int) -> Generator[Connected]:
    """The lock table of that side has room for so many locks, and no more; the session that has the others."""
    with psycopg.connect(ground.databases.url(side), autocommit=True) as session:
        with pytest.raises(psycopg.errors.OutOfMemory):
            session.execute("SELECT count(pg_advisory_lock(4711, n)) FROM generate_series(1, 1000000) n")
        session.execute("SELECT count(pg_advisory_unlock(4711, n)) FROM generate_series(1, %s) n", [free])
        yield session
