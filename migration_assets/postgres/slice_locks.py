"""One worker a slice: a session's advisory lock on the base, which goes when its session goes."""

from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager, suppress

import psycopg
from psycopg import errors, sql

from migration_assets.domain.errors import SliceBusyError
from migration_assets.postgres.ledger import SLICE_LOCK_CLASS, SliceRecord, read_slice, read_slices
from migration_assets.postgres.other_sessions import lock_holder
from migration_assets.postgres.sessions import Connected


@contextmanager
def slice_lock(connection: Connected, record: SliceRecord) -> Generator[SliceRecord]:
    """Hold the slice's lock; waits as long as the session's `lock_timeout`, since a dead worker's goes in seconds.

    Yields:
        The slice as the ledger has it now: whoever held the lock before may have changed what `record` says.

    Raises:
        SliceBusyError: Another session holds it; says which.
    """
    with _locked(connection, record):
        yield read_slice(connection, record.relation, record.week) or record


@contextmanager
def slice_locks(connection: Connected, records: Iterable[SliceRecord]) -> Generator[list[SliceRecord]]:
    """Hold several, always taken in the same order, so that two who want the same ones wait instead of deadlocking.

    Args:
        connection: Whose session holds them.
        records: Slices of one table.

    Yields:
        The slices as the ledger has them now, oldest first.

    Raises:
        SliceBusyError: Somebody works on one of them; none is held then.
    """
    with ExitStack() as held:
        ordered = sorted(records, key=lambda record: record.lock_key)
        for record in ordered:
            held.enter_context(_locked(connection, record))
        known = {one.lock_key: one for one in read_slices(connection, ordered[0].relation)} if ordered else {}
        yield sorted((known.get(one.lock_key, one) for one in ordered), key=lambda record: record.week)


@contextmanager
def _locked(connection: Connected, record: SliceRecord) -> Generator[None]:
    key = [SLICE_LOCK_CLASS, record.lock_key]
    try:
        connection.execute("SELECT pg_advisory_lock(%s, %s)", key)
    except errors.LockNotAvailable:
        who = lock_holder(connection, SLICE_LOCK_CLASS, sql.Literal(record.lock_key))
        raise SliceBusyError(
            f"the slice is being worked on by {who}",
            where=record.week.key,
            state_left="nothing was changed by this run",
            next_step="wait for the other run, or end it, then run this slice again",
        ) from None
    try:
        yield
    finally:
        # A lost connection lost the lock by itself, and psycopg may not know yet that it is lost.
        with suppress(psycopg.OperationalError):
            connection.execute("SELECT pg_advisory_unlock(%s, %s)", key)
