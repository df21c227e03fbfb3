"""Undoes a cutover or rollback whose target never accepted a write, and takes over from a run that does not answer.

A run that takes over ends the sessions of the earlier run first, on both sides: a process that was frozen may wake up
late. The base's lock says which run is alive. A run that still holds writes after its timeout does not answer, since
its own watchdog would have released them; only then is it ended without being asked.
"""

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager

import psycopg

from migration_assets.cutover.forward import drop_forward
from migration_assets.cutover.holds import follow_hold, is_open, is_overdue, may_open, read_hold, release
from migration_assets.cutover.plan import CutoverPlan
from migration_assets.cutover.reverse import drop_reverse, let_reverse_run, reverse_names
from migration_assets.cutover.reverse_cut import end_reverse_cuts
from migration_assets.cutover.work import KeptSession, Work
from migration_assets.domain.errors import MigrationError
from migration_assets.domain.states import CutoverError, CutoverKind, CutoverState
from migration_assets.ledger.charge import read_cutover_facts
from migration_assets.ledger.cutovers import (
    bar_stream,
    cutover_lock,
    durably,
    enter,
    finish,
    note_released,
    read_cutover,
)
from migration_assets.ledger.session_locks import has_session_locks
from migration_assets.ledger.stream import StreamLock, StreamStatus, names_of, read_stream
from migration_assets.postgres.server_messages import advice_on_limit, named, on_side, told
from migration_assets.postgres.sessions import Connected, Timeouts
from migration_assets.stream.claims import claimed, end_holders
from migration_assets.stream.running import go_on, require_stream

log = logging.getLogger(__name__)


class UnfinishedError(CutoverError):
    """The cutover stopped and could not be undone with the sessions that it had; new sessions may succeed."""


def was_opened(work: Work) -> bool:
    """Whether the target accepts writes, or did. The servers are asked: what a dead process meant to do does not count.

    Raises:
        psycopg.Error: A server cannot be asked.
    """
    if read_cutover(work.base, work.id).opened_at is not None:
        return True
    held = read_hold(work.source, work.plan.relation)
    if held is None or held.owner != work.id or not held.opening:
        return False
    return is_open(work.target, work.plan.stream)


@contextmanager
def releasing_session(plan: CutoverPlan, kind: CutoverKind) -> Generator[Connected]:
    """Open a session on the source for releasing its writes."""
    timeouts = Timeouts(lock=plan.stream.limits.cut_lock_timeout_ms, statement=20_000, idle_in_transaction=10_000)
    with plan.stream.databases.session(kind.source, "cutover:release", timeouts) as source:
        yield source


def release_source(
    plan: CutoverPlan, kind: CutoverKind, cutover: int, *, looked: bool = False, spare: Sequence[KeptSession] = ()
) -> bool:
    """Release the source's writes, in a session of its own; returns whether this cutover held them.

    It needs that side alone, neither the ledger nor the other server. Where that side takes no further session, one of
    `spare` is used.
    """

    def once(source: Connected) -> bool:
        return release(source, plan.stream, cutover, looked=looked)

    return _on_source(plan, kind, once, spare)


def _on_source(
    plan: CutoverPlan, kind: CutoverKind, call: Callable[[Connected], bool], spare: Sequence[KeptSession]
) -> bool:
    with ExitStack() as stack:
        try:
            source = stack.enter_context(releasing_session(plan, kind))
        except (psycopg.OperationalError, MigrationError) as error:
            # Whatever keeps new sessions out: one that is open already is not affected.
            refused = error
        else:
            try:
                return call(source)
            except psycopg.OperationalError as error:
                if advice_on_limit(error) is None:
                    raise
                refused = error
    for kept in spare:
        log.warning("the %s takes no further session (%s): its writes are released by one that is open", kind.source,
                    told(refused))  # fmt: skip
        try:
            with kept.alone:
                return call(kept.session)
        except psycopg.OperationalError as error:
            log.warning("that session could not release them either: %s", told(error))
    raise refused


def _spare(work: Work) -> list[KeptSession]:
    """The sessions that the steps' thread may use: also its own on the source, if the kept one was ended."""
    return [*([work.kept] if work.kept else []), KeptSession(work.source)]


def undo(work: Work, outcome: str, error: BaseException | None = None) -> None:
    """Undo a cutover whose target was never opened: release writes, then the rest in reverse order. Safe to repeat.

    Raises:
        CutoverError: The target was opened after all.
        psycopg.Error: A server is away; the next run goes on from here.
    """
    work.tell(CutoverState.UNDOING)
    held = read_hold(work.source, work.plan.relation)
    looked = False
    if held is not None and held.owner == work.id and held.opening:
        # A run that was about to open the target, and may wake up late, loses the right first; then the target is
        # looked at.
        may_open(work.target, work.plan.stream, None)
        if was_opened(work):
            raise CutoverError("the other side accepts writes already", where=work.plan.relation)
        looked = True
    downtime = work.deadline.elapsed_ms if work.deadline.started else None
    released = release_source(work.plan, work.kind, work.id, looked=looked, spare=_spare(work))
    work.deadline.stop()
    text = named(error) if error is not None else None
    now = read_cutover(work.base, work.id)
    enter(work.base, work.id, CutoverState.UNDOING, error=text)
    if released or now.held_at is not None:
        note_released(work.base, work.id, downtime, opened=False)
    if work.kind is CutoverKind.CUTOVER:
        drop_reverse(work.base, work.legacy, work.reverse)
        with work.base.transaction():
            bar_stream(work.base, work.id, barred=False)
            stream = require_stream(work.base, work.plan.relation)
            if now.stream_barred and stream.status is StreamStatus.HELD:
                go_on(work.base, stream)
        # As it was found: a base that refused writes before, after a rollback, goes on doing so.
        release(work.base, work.plan.stream, work.id, looked=True)
    else:
        let_reverse_run(work.legacy, work.reverse)
        drop_forward(work)
    may_open(work.target, work.plan.stream, None)
    follow_hold(work.base, work.plan.stream)
    with durably(work.base):
        enter(work.base, work.id, CutoverState.UNDONE)
        finish(work.base, work.id, outcome)
    work.tell(CutoverState.UNDONE)


def give_up(work: Work, error: BaseException) -> CutoverError:
    """Undo the run after a failure; returns the error to raise, which says where it stopped and what state is left."""
    state, kind = None, CutoverError
    try:
        state = read_cutover(work.base, work.id).state
        undo(work, "aborted", error)
        left = f"writes go on on the {work.kind.source}; everything else was undone"
        advice = advice_on_limit(error) if isinstance(error, psycopg.Error) else None
        next_step = getattr(error, "next_step", "") or f"{advice or 'see the error'}, then run this again"
    except (psycopg.Error, CutoverError) as second:
        log.warning("the %s could not be undone completely (%s)", work.kind, told(second))
        kind = UnfinishedError
        left, next_step = _released_only(work)
    what = error.what if isinstance(error, CutoverError) else f"{type(error).__name__}{on_side(error)}: {told(error)}"
    return kind(
        f"the {work.kind} stopped at {state or 'an unknown state'}: {what}",
        where=work.plan.relation,
        state_left=left,
        next_step=next_step,
    )


def _released_only(work: Work) -> tuple[str, str]:
    """Release at least the writes, which needs the source alone."""
    again = "run `migration-assets release-writes` (or this again) when both servers answer"
    try:
        release_source(work.plan, work.kind, work.id, spare=_spare(work))
        free = _on_source(work.plan, work.kind, lambda source: is_open(source, work.plan.stream), _spare(work))
    except (psycopg.Error, CutoverError) as error:
        return f"the {work.kind.source} could not be asked to release its writes ({told(error)})", again
    work.deadline.stop()
    if free:
        return f"writes go on on the {work.kind.source}; the rest is not undone yet", again
    return (
        f"the {work.kind.source} refuses writes: it is not known whether the {work.kind.target} accepts them already",
        again,
    )


@contextmanager
def alone(plan: CutoverPlan, base: Connected, legacy: Connected) -> Generator[None]:
    """Be the only process that works on the cutover, on either side; a run that does not answer any more is ended.

    Raises:
        StreamError: Another process works on it; the error says which one.
    """
    relation = plan.relation
    limit = _overdue_after(plan, base, legacy)
    if limit is not None:
        # A later run is at work on what that one left.
        pids = end_holders(base, StreamLock.CUTOVER.named(relation), older_than_seconds=limit)
        if pids:
            log.warning("a cutover or rollback held writes beyond its timeout: its session %s was ended", pids)
    with cutover_lock(base, relation):
        stream = read_stream(base, relation)
        if stream is None and not has_session_locks(legacy):
            # No run of ours ever worked on that legacy, or it was cleaned: then it is left as it is.
            yield
            return
        # Two bases may have the same legacy: the slot's name is different for each.
        key = stream.slot if stream is not None else relation
        with claimed(legacy, key, holder=base, lock=StreamLock.CUTOVER):
            if stream is not None:
                end_reverse_cuts(legacy, reverse_names(names_of(stream)))
            yield


def _overdue_after(plan: CutoverPlan, base: Connected, legacy: Connected) -> float | None:
    """The timeout, in seconds, of the run under way, where it has held writes for longer than that; else None."""
    left = read_cutover_facts(base, plan.relation).under_way
    if left is None or left.opened:
        return None
    source = base if CutoverKind(left.kind).source == "base" else legacy
    held = read_hold(source, plan.relation)
    overdue = is_overdue(held, left.id, left.timeout_seconds) and not is_open(source, plan.stream)
    return left.timeout_seconds if overdue else None
