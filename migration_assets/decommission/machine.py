"""Runs the decommissioning from where it is to its end: drained, fingerprinted, closed, severed, done.

Every step may be repeated. Until `closed` is in the ledger a failure lets the reverse stream go on, and a rollback is
possible; from then on it only goes forward, by whoever runs it again. The cutover's lock is held all the time.
"""

import logging
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager

import psycopg

from migration_assets.cutover.reverse import (
    drop_reverse,
    drop_reverse_on_base,
    let_reverse_run,
    reverse_names,
)
from migration_assets.cutover.reverse_cut import ReverseCut, end_reverse_cuts
from migration_assets.cutover.work import forward_names, long_session
from migration_assets.decommission.closing import close, former_grants, still_open
from migration_assets.decommission.final import (
    stop_stale,
    stopped_at_cut,
    stopped_stream,
    take_final,
)
from migration_assets.decommission.obstacles import find_obstacles
from migration_assets.decommission.plan import DecommissionPlan
from migration_assets.decommission.scope import other_sessions
from migration_assets.domain.cutover_state import CutoverError
from migration_assets.domain.decommission_state import DecommissionError, DecommissionState, Obstacle, Scope
from migration_assets.domain.errors import MigrationError
from migration_assets.ledger.cutovers import cutover_lock, durably
from migration_assets.ledger.decommissions import (
    DecommissionRecord,
    begin,
    call_off,
    current_cutover,
    note_closed,
    note_done,
    note_error,
    note_final,
    note_severed,
    read_decommission,
    require_decommission,
)
from migration_assets.ledger.stream import StreamLock, StreamNames, read_stream
from migration_assets.postgres.server_messages import named, told
from migration_assets.postgres.sessions import Connected
from migration_assets.stream.claims import claimed
from migration_assets.stream.servers import require_same_servers

log = logging.getLogger(__name__)
Told = Callable[[str], None]


def decommission(
    plan: DecommissionPlan,
    *,
    approved_by: str,
    note: str = "",
    scope: Scope,
    run_id: str | None = None,
    on_step: Told | None = None,
) -> DecommissionRecord:
    """Make the legacy inactive, or go on where a dead run stopped; one that is done is the result.

    Raises:
        DecommissionError: Something stands in the way, or it stopped; says what is left.
        StreamError: A cutover or another decommissioning is at work.
    """
    tell = on_step or log.info
    with _base_to_ourselves(plan) as base:
        record = read_decommission(base, plan.relation)
        if record is not None and record.state is DecommissionState.DONE:
            return record
        if record is not None and record.state is DecommissionState.SEVERED:
            # Also where the legacy is gone by now: else the slot would keep the base's WAL for nobody.
            drop_reverse_on_base(base, reverse_names(forward_names(base, plan.relation)))
        with writing_legacy(plan) as legacy, _claimed(base, legacy, plan):
            if record is None or not record.state.final:
                _require_free(base, legacy, plan, scope, approved_by)
                _prepare(base, legacy, plan, record, approved_by, note, scope, run_id, tell)
            _finish(base, legacy, plan, tell)
        return require_decommission(base, plan.relation)


def call_off_decommission(plan: DecommissionPlan) -> bool:
    """Give up one that died before it closed anything: the reverse stream goes on; whether there was one.

    Raises:
        DecommissionError: It has closed the legacy.
    """
    with _base_to_ourselves(plan) as base:
        record = read_decommission(base, plan.relation)
        if record is None:
            return False
        if record.state.final:
            raise DecommissionError(
                f"it is {record.state}: there is no way back",
                where=plan.relation,
                state_left="nothing was changed",
                next_step="run the decommissioning again: it goes on to its end",
            )
        with writing_legacy(plan) as legacy, _claimed(base, legacy, plan):
            let_reverse_run(legacy, reverse_names(forward_names(base, plan.relation)))
        return call_off(base, plan.relation)


@contextmanager
def _base_to_ourselves(plan: DecommissionPlan) -> Generator[Connected]:
    session = plan.cutover.stream.databases.session("base", "decommission", long_session())
    with session as base, cutover_lock(base, plan.relation):
        yield base


@contextmanager
def _claimed(base: Connected, legacy: Connected, plan: DecommissionPlan) -> Generator[None]:
    """As whoever cuts over or rolls back does: who has the base's lock next ends this session before he does anything.

    Raises:
        StreamError: A session of an earlier run is left over that our role may not end.
    """
    stream = read_stream(base, plan.relation)
    key = stream.slot if stream is not None else plan.relation
    with claimed(legacy, key, holder=base, lock=StreamLock.CUTOVER):
        yield


@contextmanager
def writing_legacy(plan: DecommissionPlan) -> Generator[Connected]:
    """A session on the legacy that may write, also in a database that we made read-only."""
    with plan.cutover.stream.databases.session("legacy", "decommission", long_session()) as legacy:
        legacy.execute("SET default_transaction_read_only = off")
        yield legacy


def _require_free(base: Connected, legacy: Connected, plan: DecommissionPlan, scope: Scope, approved_by: str) -> None:
    require_same_servers(base, plan.relation, legacy)
    found = find_obstacles(base, legacy, plan, scope)
    if not approved_by.strip():
        found.insert(0, nobody_approved())
    if found:
        raise refused(plan.relation, found)


def nobody_approved() -> Obstacle:
    """A point of no return wants a name."""
    return Obstacle("approved_by", "nobody approved it", "say who does: approved_by")


def refused(relation: str, found: list[Obstacle]) -> DecommissionError:
    """All obstacles as one error."""
    return DecommissionError(
        "something stands in the way: " + "; ".join(one.what for one in found),
        where=relation,
        state_left="nothing was changed; a rollback is possible as before",
        next_step="; ".join(dict.fromkeys(one.remedy for one in found)),
    )


def _prepare(
    base: Connected,
    legacy: Connected,
    plan: DecommissionPlan,
    before: DecommissionRecord | None,
    approved_by: str,
    note: str,
    scope: Scope,
    run_id: str | None,
    tell: Told,
) -> None:
    """The last fingerprints, while a rollback is still possible."""
    names = reverse_names(forward_names(base, plan.relation))
    stopped = stopped_stream(legacy, names)
    if (
        before is not None
        and before.state is DecommissionState.FINGERPRINTED
        and stopped is not None
        and (before.final.get("stream"), before.scope, before.approved_by) == (stopped, scope, approved_by)
    ):
        # Nothing has come to the legacy since a dead run took them.
        if plan.on_begin is not None:
            with durably(base):
                plan.on_begin(base)
        return
    cutover = current_cutover(base, plan.relation)
    if cutover is None:
        raise DecommissionError("the legacy is in charge", where=plan.relation)
    with durably(base):
        begin(base, plan.relation, cutover.id, approved_by=approved_by, note=note, scope=scope, run_id=run_id)
        if plan.on_begin is not None:
            plan.on_begin(base)
    record = require_decommission(base, plan.relation)
    try:
        tell("drain and stop the reverse stream")
        end_reverse_cuts(legacy, names)  # a dead run may have left it at a marker, or stopped it
        let_reverse_run(legacy, names)
        with _stopped(legacy, plan, names) as cut:
            tell("take the legacy's last fingerprints, and account for every row of it")
            final = take_final(base, legacy, plan, cut=cut, stopped=stopped_stream(legacy, names))
            note_final(base, record.id, final)
    except (psycopg.Error, MigrationError) as error:
        raise DecommissionError(
            f"it stopped before anything was closed: {told(error)}",
            where=plan.relation,
            state_left=_given_up(base, plan),
            next_step=getattr(error, "next_step", "") or "see the error, then run this again",
        ) from error
    except BaseException:
        _given_up(base, plan)
        raise


@contextmanager
def _stopped(legacy: Connected, plan: DecommissionPlan, names: StreamNames) -> Generator[ReverseCut | None]:
    """The reverse stream is stopped, at a cut; None where it is not whole, and that was accepted."""
    with ExitStack() as stack:
        try:
            cut = stack.enter_context(stopped_at_cut(plan, names))
        except CutoverError:
            if not plan.accept_stale:
                raise
            stop_stale(legacy, plan, names)
            cut = None
        yield cut


def _given_up(base: Connected, plan: DecommissionPlan) -> str:
    """Before the point of no return: as it was before, so that a rollback finds its stream running; what is left."""
    try:
        with writing_legacy(plan) as legacy:  # a new session: the other one may be what was lost
            let_reverse_run(legacy, reverse_names(forward_names(base, plan.relation)))
        call_off(base, plan.relation)
    except (psycopg.Error, MigrationError) as second:
        log.warning("the reverse stream could not be enabled again: %s", told(second))
        return "nothing was closed; the reverse stream may stand: run this again, roll back, or --call-off"
    return "nothing was closed; the reverse stream goes on, and a rollback is possible as before"


def _finish(base: Connected, legacy: Connected, plan: DecommissionPlan, tell: Told) -> None:
    """From the fingerprints to the end; any part of it may be done already."""
    record = require_decommission(base, plan.relation)
    scope = record.scope
    try:
        if record.state is DecommissionState.FINGERPRINTED:
            note_closed(base, record.id, former_grants(legacy, plan.spec, scope))
        if record.state in {DecommissionState.FINGERPRINTED, DecommissionState.CLOSED}:
            tell(f"close the legacy's {scope}")
            for who in close(legacy, plan.spec, scope):
                log.warning("a session on the legacy could not be ended: %s", who)
            note_severed(base, record.id)
        tell("take the reverse stream away")
        drop_reverse(base, legacy, reverse_names(forward_names(base, plan.relation)))
        left = still_open(legacy, plan.spec, scope)
        stay = [who for _, who in other_sessions(legacy)] if scope == "database" else []
        note_done(base, plan.relation, record.id, left={"still_open": left, "sessions_left": stay})
    except (psycopg.Error, MigrationError) as error:
        now = _state_after(base, plan, error)
        if now is not None and not now.state.final:
            raise
        raise DecommissionError(
            f"it stopped at {now.state if now else 'an unknown state'}: {told(error)}",
            where=plan.relation,
            state_left="the point of no return is behind; what was closed stays closed",
            next_step="see the error, then run this again: it goes on from there",
        ) from error


def _state_after(base: Connected, plan: DecommissionPlan, error: BaseException) -> DecommissionRecord | None:
    try:
        record = require_decommission(base, plan.relation)
        note_error(base, record.id, named(error))
    except (psycopg.Error, MigrationError):
        return None
    return record
