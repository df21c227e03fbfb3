"""Whoever takes over from a run ends its sessions first, on both sides: a process that was frozen may wake up late.

The base's lock says who is alive. A run that still holds writes after its timeout does not answer: its own watchdog
would have released them. Only then is it ended without being asked.
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager

from psycopg import errors

from migration_assets.domain.errors import StreamError
from migration_assets.postgres.change_stream.records import read_stream, stream_lock
from migration_assets.postgres.cutover.holds import Hold, read_hold, refuses_writes
from migration_assets.postgres.cutover.plan import CutoverPlan
from migration_assets.postgres.cutover.records import (
    CUTOVER_LOCK_CLASS,
    CutoverRecord,
    cutover_lock,
    unfinished_cutover,
)
from migration_assets.postgres.sessions import Connected, require_row

_GRACE_SECONDS = 5.0
_END_MS = 5_000
_HOLDERS = (
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid = %s"
    " AND objid::bigint = hashtext(%s)::bigint & 4294967295 AND pid <> pg_backend_pid()"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
log = logging.getLogger(__name__)


@contextmanager
def alone(plan: CutoverPlan, base: Connected, legacy: Connected) -> Generator[None]:
    """Nobody else works on the cutover, on either side; one that does not answer any more is ended for it.

    Raises:
        StreamError: Somebody does; says who.
    """
    relation = plan.relation
    left = unfinished_cutover(base, relation)
    if left is not None and is_overdue(plan, left, base, legacy):
        pids = _end(base, relation)
        if pids:
            log.warning("%s %d held writes beyond its timeout: its session %s was ended", left.kind, left.id, pids)
    with cutover_lock(base, relation):
        # Two bases may have the same legacy: the slot's name says which one it is.
        stream = read_stream(base, relation)
        key = stream.slot if stream is not None else relation
        _end(legacy, key)
        with stream_lock(legacy, key, lock_class=CUTOVER_LOCK_CLASS):
            yield


def is_locked(base: Connected, relation: str) -> bool:
    """Whether some session works on the cutover; also where its process does not answer."""
    row = base.execute(f"SELECT EXISTS ({_HOLDERS})".encode(), [CUTOVER_LOCK_CLASS, relation]).fetchone()
    return bool(require_row(row, "EXISTS")[0])


def is_overdue(plan: CutoverPlan, left: CutoverRecord, base: Connected, legacy: Connected) -> bool:
    """Whether it holds writes for longer than its own timeout allows, by that side's clock."""
    source = base if left.kind.source == "base" else legacy
    held = read_hold(source, plan.relation)
    return hold_is_overdue(plan, left, held) and refuses_writes(source, plan.stream)


def hold_is_overdue(plan: CutoverPlan, left: CutoverRecord | None, held: Hold | None) -> bool:
    """The same, of a hold that was read."""
    if left is None or held is None or held.owner != left.id or left.opened_at is not None:
        return False
    timeout = float(left.timeline.get("begun", {}).get("timeout_seconds", plan.timeout_seconds))
    return held.age_seconds > timeout + _GRACE_SECONDS


def _end(connection: Connected, key: str) -> list[int]:
    """End whoever has the lock; their pids."""
    pids = [int(pid) for (pid,) in connection.execute(_HOLDERS, [CUTOVER_LOCK_CLASS, key]).fetchall()]
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
