"""Whoever takes over from a run ends its sessions first, on both sides: a process that was frozen may wake up late.

The base's lock says who is alive. A run that still holds writes after its timeout does not answer: its own watchdog
would have released them. Only then is it ended without being asked.
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager

from psycopg import errors

from migration_assets.domain.cutover_state import CutoverKind
from migration_assets.domain.errors import StreamError
from migration_assets.postgres.change_stream.records import read_stream, stream_lock
from migration_assets.postgres.cutover.facts import read_cutover_facts
from migration_assets.postgres.cutover.holds import is_open, is_overdue, read_hold
from migration_assets.postgres.cutover.plan import CutoverPlan
from migration_assets.postgres.cutover.records import CUTOVER_LOCK_CLASS, HOLDERS, cutover_lock
from migration_assets.postgres.sessions import Connected

_END_MS = 5_000
log = logging.getLogger(__name__)


@contextmanager
def alone(plan: CutoverPlan, base: Connected, legacy: Connected) -> Generator[None]:
    """Nobody else works on the cutover, on either side; one that does not answer any more is ended for it.

    Raises:
        StreamError: Somebody does; says who.
    """
    relation = plan.relation
    if _is_overdue(plan, base, legacy):
        pids = _end(base, relation)
        if pids:
            log.warning("a cutover or rollback held writes beyond its timeout: its session %s was ended", pids)
    with cutover_lock(base, relation):
        # Two bases may have the same legacy: the slot's name says which one it is.
        stream = read_stream(base, relation)
        key = stream.slot if stream is not None else relation
        _end(legacy, key)
        with stream_lock(legacy, key, lock_class=CUTOVER_LOCK_CLASS):
            yield


def _is_overdue(plan: CutoverPlan, base: Connected, legacy: Connected) -> bool:
    """Whether what is under way holds writes for longer than its own timeout allows."""
    left = read_cutover_facts(base, plan.relation).under_way
    if left is None or left.opened:
        return False
    source = base if CutoverKind(left.kind).source == "base" else legacy
    held = read_hold(source, plan.relation)
    return is_overdue(held, left.id, left.timeout_seconds) and not is_open(source, plan.stream)


def _end(connection: Connected, key: str) -> list[int]:
    """End whoever has the lock; their pids."""
    pids = [int(pid) for (pid,) in connection.execute(HOLDERS, {"lock": CUTOVER_LOCK_CLASS, "key": key}).fetchall()]
    try:
        for pid in pids:
            connection.execute("SELECT pg_terminate_backend(%s, %s)", [pid, _END_MS])
    except errors.InsufficientPrivilege:
        raise StreamError(
            f"the cutover's session is left over, backend {pids}, and our role may not end it",
            where=key,
            state_left="nothing was changed by this run",
            next_step=f"as its role, or a superuser: SELECT pg_terminate_backend({pids[0]}); then run this again",
        ) from None
    return pids
