"""One worker a slice: a lock on the base, which goes when its session goes."""

from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, ExitStack, contextmanager

from migration_assets.domain.errors import SliceBusyError
from migration_assets.ledger.session_locks import session_lock
from migration_assets.ledger.slices import SliceRecord, read_slice, read_slices
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


def _locked(connection: Connected, record: SliceRecord) -> AbstractContextManager[None]:
    def refuse(who: str) -> SliceBusyError:
        return SliceBusyError(
            f"the slice is being worked on by {who}",
            where=record.week.key,
            state_left="nothing was changed by this run",
            next_step="wait for the other run, or end it, then run this slice again",
        )

    return session_lock(connection, f"slice {record.lock_key}", refuse)
