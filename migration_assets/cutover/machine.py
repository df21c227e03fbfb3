"""Runs a cutover or a rollback from its first state to its last; finishes or undoes one whose process died."""

import logging
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import psycopg

from migration_assets.cutover.comparing import revalidate
from migration_assets.cutover.forward import follow_again, note_broken_keys
from migration_assets.cutover.holds import follow_hold
from migration_assets.cutover.plan import CutoverPlan
from migration_assets.cutover.reverse import drop_reverse, let_reverse_run, reverse_names
from migration_assets.cutover.stages import STAGES, let_writes_in
from migration_assets.cutover.undoing import (
    UnfinishedError,
    alone,
    give_up,
    release_source,
    releasing_session,
    undo,
    was_opened,
)
from migration_assets.cutover.work import Deadline, KeptSession, Work, forward_names, long_session, stream_to_ourselves
from migration_assets.domain.errors import MigrationError
from migration_assets.domain.states import BEFORE_OPEN, CutoverError, CutoverKind, CutoverState
from migration_assets.ledger.charge import in_charge
from migration_assets.ledger.cutovers import (
    CutoverRecord,
    bar_stream,
    begin,
    enter,
    finish,
    note_released,
    read_cutover,
    unfinished_cutover,
)
from migration_assets.ledger.decommissions import call_off, read_decommission
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.ledger.stream import begin_stream, stream_lock
from migration_assets.postgres.retries import retry_transient
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected
from migration_assets.stream.joining import join_stream
from migration_assets.stream.legacy_side import drop_publication
from migration_assets.stream.servers import require_same_servers
from migration_assets.stream.slots import drop_slot
from migration_assets.stream.subscription import drop_subscription


def require_not_decommissioned(base: Connected, relation: str) -> None:
    """Refuse after a decommissioning. It is asked before the legacy is, which may be gone altogether.

    Raises:
        CutoverError: The legacy was decommissioned, or a decommissioning is so far that it can only go forward.
    """
    ensure_ledger(base)
    record = read_decommission(base, relation)
    if record is not None and record.state.final:
        raise CutoverError(
            f"the legacy was decommissioned, approved by {record.approved_by}: there is no way back",
            where=relation,
            state_left="the base is in charge; nothing was changed",
            next_step="nothing; the legacy's data is where it was, and a DBA can open the legacy for reading:"
            " `migration-assets decommission` prints the statements",
        )


def give_way(base: Connected, legacy: Connected, relation: str, kind: CutoverKind) -> None:
    """Let a rollback call off a decommissioning that died before it closed anything; under the cutover's lock.

    Raises:
        CutoverError: The decommissioning has closed the legacy already.
    """
    require_not_decommissioned(base, relation)
    if kind is CutoverKind.ROLLBACK and read_decommission(base, relation) is not None:
        # The stream first: the next run sees a row that is left.
        let_reverse_run(legacy, reverse_names(forward_names(base, relation)))
        call_off(base, relation)


log = logging.getLogger(__name__)


def cut_over(plan: CutoverPlan, *, approved_by: str, rehearse: bool = True) -> CutoverRecord:
    """Move the writes to the base; or, as a rehearsal, do everything but that and go back.

    A cutover or rollback whose process died is finished or undone first. If that finishes a cutover, its record is
    returned and no second one begins.

    Args:
        plan: Which table, and how patient and careful the run is.
        approved_by: The person who approved it; kept in the ledger.
        rehearse: Hold writes, drain, compare and start the reverse stream, then undo all of it.

    Returns:
        The ledger's record of the cutover.

    Raises:
        CutoverError: It stopped. The error names the state it stopped at and the side that accepts writes.
        StreamError, SliceBusyError: Another process works on the stream or on a week, or the stream does not run.
    """
    return _run(plan, CutoverKind.CUTOVER, approved_by=approved_by, rehearse=rehearse)


def roll_back(plan: CutoverPlan, *, approved_by: str) -> CutoverRecord:
    """Move the writes back to the legacy, with everything that was written to the base; then the base follows again.

    Where only the switch of the applications failed, the rollback still counts as done and the record's `error` says
    so: going back to the base would not help.

    Args:
        plan: Which table, and how patient and careful the run is.
        approved_by: The person who approved it; kept in the ledger.

    Returns:
        The ledger's record of the rollback.

    Raises:
        CutoverError: It stopped. The error names the state it stopped at and the side that accepts writes.
    """
    return _run(plan, CutoverKind.ROLLBACK, approved_by=approved_by, rehearse=False)


def settle(plan: CutoverPlan) -> CutoverRecord | None:
    """Finish or undo a cutover or rollback whose process died or does not answer.

    Returns:
        The ledger's record of it, or None where none is unfinished.

    Raises:
        StreamError: Its process is alive, and its timeout is not over.
        psycopg.Error: A server cannot be reached.
    """
    with _sessions(plan) as (base, legacy), alone(plan, base, legacy):
        return _settle(plan, base, legacy)


def _settle(plan: CutoverPlan, base: Connected, legacy: Connected) -> CutoverRecord | None:
    left = unfinished_cutover(base, plan.relation)
    if left is None:
        return None
    source = legacy if left.kind is CutoverKind.CUTOVER else base
    work = _work(plan, left.id, left.kind, base, legacy, KeptSession(source))
    if was_opened(work):
        log.warning("%s %d was left at %s with the %s open; it is finished now", left.kind, left.id, left.state,
                    left.kind.target)  # fmt: skip
        note_released(base, left.id, None, opened=True)
        return _finish(work)
    log.warning("%s %d was left at %s; it is undone now", left.kind, left.id, left.state)
    with stream_lock(base, plan.relation):
        undo(work, "aborted", CutoverError("its process died"))
    return read_cutover(base, left.id)


def _run(plan: CutoverPlan, kind: CutoverKind, *, approved_by: str, rehearse: bool) -> CutoverRecord:
    if not approved_by.strip():
        raise CutoverError("nobody approved it", where=plan.relation, next_step="say who does: approved_by")
    try:
        return _run_once(plan, kind, approved_by=approved_by, rehearse=rehearse)
    except UnfinishedError as error:
        # A server was lost for a while, with the sessions: new sessions may undo what those could not.
        left = _settle_later(plan)
        if left is None:
            raise
        if left.opened_at is not None and left.kind is kind:
            return left
        raise CutoverError(
            error.what,
            where=plan.relation,
            state_left=f"writes go on on the {kind.source}; everything else was undone",
            next_step="see the error, then run this again",
        ) from error


def _settle_later(plan: CutoverPlan) -> CutoverRecord | None:
    """Settle it and return what became of it; None where it cannot be settled now."""
    try:
        return retry_transient(
            lambda: settle(plan), what="settling the cutover", attempts=plan.stream.limits.attempts, log=log
        )
    except (psycopg.Error, MigrationError) as error:
        log.warning("the cutover could not be settled: %s", told(error))
        return None


def _run_once(plan: CutoverPlan, kind: CutoverKind, *, approved_by: str, rehearse: bool) -> CutoverRecord:
    with _sessions(plan) as (base, legacy), alone(plan, base, legacy):
        give_way(base, legacy, plan.relation, kind)
        settled = _settle(plan, base, legacy)
        charge = in_charge(base, plan.relation)
        if charge != kind.source:
            if settled is not None and settled.kind is kind and not rehearse:
                return settled
            raise CutoverError(
                f"the {charge} is in charge already",
                where=plan.relation,
                state_left="nothing was changed",
                next_step="nothing; to move the writes away from there, run the other direction",
            )
        require_same_servers(base, plan.relation, legacy)
        if kind is CutoverKind.CUTOVER and not plan.compare_all:
            revalidate(plan, base, legacy)
        work = _through(plan, kind, base, legacy, approved_by=approved_by, rehearse=rehearse)
        if rehearse:
            return read_cutover(base, work.id)
        try:
            return _finish(work)
        except psycopg.Error as error:
            raise UnfinishedError(
                f"the {kind.target} is open, and a server was lost before the {kind} was done: {told(error)}",
                where=plan.relation,
                state_left=f"the {kind.target} accepts writes",
                next_step="run this again: it finishes what is left, and calls the hook again",
            ) from error


def _through(
    plan: CutoverPlan, kind: CutoverKind, base: Connected, legacy: Connected, *, approved_by: str, rehearse: bool
) -> Work:
    """Go through all states until the target is open; a rehearsal is undone after the last state before that."""
    with ExitStack() as stack:
        stack.enter_context(stream_to_ourselves(base, plan))
        kept = KeptSession(stack.enter_context(releasing_session(plan, kind)))
        cutover = begin(
            base,
            plan.relation,
            kind,
            rehearse=rehearse,
            approved_by=approved_by,
            run_id=plan.stream.run_id,
            timeout_seconds=plan.timeout_seconds,
            on_begin=plan.on_begin,
        )
        work = _work(plan, cutover, kind, base, legacy, kept)
        stack.callback(work.deadline.stop)
        stack.enter_context(work.deadline.watched(base))
        stack.enter_context(work.deadline.watched(legacy))
        try:
            for state in BEFORE_OPEN:
                if state is not CutoverState.BEGUN:
                    enter(base, cutover, state)
                work.tell(state)
                STAGES[state](work)
            if rehearse:
                undo(work, "rehearsed")
                return work
            enter(base, cutover, CutoverState.OPEN)
            work.tell(CutoverState.OPEN)
            let_writes_in(work)
        except BaseException as error:
            if not _is_open(work):
                raise give_up(work, error) from error
            log.warning("an error came after the %s was opened (%s): the %s goes on", kind.target, told(error), kind)
        return work


def _is_open(work: Work) -> bool:
    try:
        opened = was_opened(work)
        if opened:
            note_released(work.base, work.id, work.deadline.elapsed_ms, opened=True)
    except psycopg.Error:
        # Not known. That is safe: `give_up` never releases a hold that is marked as opening.
        return False
    return opened


def _finish(work: Work) -> CutoverRecord:
    """Finish a run whose target is open: switch the applications, then remove or rebuild the other stream.

    From here the run only goes forward. It is safe to repeat.
    """
    plan, base = work.plan, work.base
    state = read_cutover(base, work.id).state
    if state in BEFORE_OPEN:
        # A dead process had opened the target without noting that it was about to.
        for skipped in (*BEFORE_OPEN[BEFORE_OPEN.index(state) + 1 :], CutoverState.OPEN):
            enter(base, work.id, skipped)
    if read_cutover(base, work.id).state is not CutoverState.DONE:
        enter(base, work.id, CutoverState.SWITCHED)
        work.tell(CutoverState.SWITCHED)
        failed = _switch(work)
        if failed is not None and work.kind is CutoverKind.CUTOVER:
            return _go_back(work, failed)
        enter(base, work.id, CutoverState.DONE, error=failed)
    # Not earlier, since applications wait for the switch.
    follow_hold(base, plan.stream)
    work.tell(CutoverState.DONE)
    if work.kind is CutoverKind.CUTOVER:
        drop_subscription(base, work.forward.subscription)
        drop_slot(work.legacy, work.forward.slot)
        drop_publication(work.legacy, work.forward.publication)
    else:
        drop_reverse(base, work.legacy, work.reverse)
        if not follow_again(work):
            with base.transaction():
                bar_stream(base, work.id, barred=False)
                begin_stream(base, plan.relation, work.forward, "being rebuilt after a rollback")
            # Also the quarters that were opened while the base was in charge: their rows are on both sides.
            join_stream(plan.stream, None, rebuild=True, whole_root=True)
        note_broken_keys(work, after=True)
    finish(base, work.id, "succeeded")
    return read_cutover(base, work.id)


def _switch(work: Work) -> str | None:
    """Call the team's own switch; returns what went wrong."""
    if work.plan.switch is None:
        return None
    try:
        work.plan.switch(work.kind.target, work.id)
    except Exception as error:  # noqa: BLE001 - the team's own code may raise anything
        return str(error) if isinstance(error, CutoverError) else f"the hook failed: {type(error).__name__}"
    return None


def _go_back(work: Work, failed: str) -> CutoverRecord:
    """Move everything back to the legacy, with what was written to the base, since the applications could not be told.

    Raises:
        CutoverError: Always. It says whether the way back succeeded.
    """
    base = work.base
    base.execute("UPDATE migration.cutovers SET error = %s WHERE id = %s", [failed, work.id])
    finish(base, work.id, "aborted")
    approved_by = read_cutover(base, work.id).approved_by
    try:
        # It needs no confirmation: it is a part of the cutover that failed.
        plan = replace(work.plan, on_begin=None)
        back = _through(plan, CutoverKind.ROLLBACK, base, work.legacy, approved_by=approved_by, rehearse=False)
        _finish(back)
    except (CutoverError, psycopg.Error) as error:
        raise CutoverError(
            f"the applications could not be switched ({failed}), and the way back failed: {told(error)}",
            where=work.plan.relation,
            state_left=getattr(error, "state_left", "") or "see `writes_held`",
            next_step="repair the hook and run it by hand, or run the rollback",
        ) from error
    raise CutoverError(
        f"the applications could not be switched: {failed}",
        where=work.plan.relation,
        state_left="writes go on on the legacy, with all that was written to the base; the base follows again",
        next_step="repair the hook, then run this again",
    )


def _work(
    plan: CutoverPlan, cutover: int, kind: CutoverKind, base: Connected, legacy: Connected, kept: KeptSession
) -> Work:
    deadline = Deadline(plan.timeout_seconds, lambda: release_source(plan, kind, cutover, spare=[kept]))
    return Work(plan, cutover, kind, base, legacy, forward_names(base, plan.relation), deadline, kept=kept)


@contextmanager
def _sessions(plan: CutoverPlan) -> Generator[tuple[Connected, Connected]]:
    with plan.stream.databases.session("base", "cutover", long_session()) as base:
        require_not_decommissioned(base, plan.relation)
        with plan.stream.databases.session("legacy", "cutover", long_session()) as legacy:
            yield base, legacy
