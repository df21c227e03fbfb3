"""Whoever takes over from a run ends its sessions first, on both sides: a process that was frozen may wake up late.

The base's lock says who is alive. A run that still holds writes after its timeout does not answer: its own watchdog
would have released them. Only then is it ended without being asked.
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager

from migration_assets.cutover.holds import is_open, is_overdue, read_hold
from migration_assets.cutover.plan import CutoverPlan
from migration_assets.cutover.reverse import reverse_names
from migration_assets.cutover.reverse_cut import end_reverse_cuts
from migration_assets.domain.cutover_state import CutoverKind
from migration_assets.ledger.cutover_facts import read_cutover_facts
from migration_assets.ledger.cutovers import cutover_lock
from migration_assets.ledger.session_locks import has_session_locks
from migration_assets.ledger.stream import StreamLock, names_of, read_stream
from migration_assets.postgres.sessions import Connected
from migration_assets.stream.claims import claimed, end_holders

log = logging.getLogger(__name__)


@contextmanager
def alone(plan: CutoverPlan, base: Connected, legacy: Connected) -> Generator[None]:
    """Nobody else works on the cutover, on either side; one that does not answer any more is ended for it.

    Raises:
        StreamError: Somebody does; says who.
    """
    relation = plan.relation
    limit = _overdue_after(plan, base, legacy)
    if limit is not None:
        # Who came later is at work on what that one left.
        pids = end_holders(base, StreamLock.CUTOVER.named(relation), older_than_seconds=limit)
        if pids:
            log.warning("a cutover or rollback held writes beyond its timeout: its session %s was ended", pids)
    with cutover_lock(base, relation):
        stream = read_stream(base, relation)
        if stream is None and not has_session_locks(legacy):
            # No run of ours ever worked on that legacy, or it was cleaned: whoever only finds that leaves it so.
            yield
            return
        # Two bases may have the same legacy: the slot's name says which one it is.
        key = stream.slot if stream is not None else relation
        with claimed(legacy, key, holder=base, lock=StreamLock.CUTOVER):
            if stream is not None:
                end_reverse_cuts(legacy, reverse_names(names_of(stream)))
            yield


def _overdue_after(plan: CutoverPlan, base: Connected, legacy: Connected) -> float | None:
    """Its own timeout, seconds, where what is under way holds writes for longer than that allows; else None."""
    left = read_cutover_facts(base, plan.relation).under_way
    if left is None or left.opened:
        return None
    source = base if CutoverKind(left.kind).source == "base" else legacy
    held = read_hold(source, plan.relation)
    overdue = is_overdue(held, left.id, left.timeout_seconds) and not is_open(source, plan.stream)
    return left.timeout_seconds if overdue else None
