"""What each state of the machine does, up to the moment that the target accepts writes. Every deed may be repeated."""

import time
from collections.abc import Callable, Mapping
from functools import partial

from migration_assets.cutover.accounting import (
    find_unaccounted,
    look_again,
    require_accounted,
    weeks_of,
)
from migration_assets.cutover.broken_keys import note_broken_keys
from migration_assets.cutover.comparing import compare_sides, to_compare
from migration_assets.cutover.counted import require_counted
from migration_assets.cutover.early import note_accounted
from migration_assets.cutover.estimate import require_time
from migration_assets.cutover.forward import begin_here, has_forward_slot, prepare_forward
from migration_assets.cutover.holds import (
    fence_base,
    hold,
    mark_opening,
    may_open,
    open_side,
    prepare,
)
from migration_assets.cutover.reverse import (
    come_near,
    let_reverse_run,
    prepare_reverse,
    rest,
    reverse_worker,
    start_reverse,
    stop_reverse,
)
from migration_assets.cutover.sequences import advance_sequences, require_counterparts
from migration_assets.cutover.work import Work
from migration_assets.domain.cutover_state import CutoverError, CutoverKind, CutoverState
from migration_assets.domain.table_description import TableDescription
from migration_assets.ledger.cutovers import (
    bar_stream,
    durably,
    note_compared,
    note_held,
    note_released,
)
from migration_assets.ledger.cuts import weeks_carried
from migration_assets.ledger.definitions import files
from migration_assets.ledger.stream import StreamStatus, set_status
from migration_assets.ledger.stream_parts import notice_alterations
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.retries import wait_until
from migration_assets.quarters.base_table import require_root
from migration_assets.quarters.fences import gaps
from migration_assets.stream.heartbeats import has_arrived, reverse_arrived, send_heartbeat, send_reverse_marker
from migration_assets.stream.running import require_running
from migration_assets.stream.servers import count_markers_anew
from migration_assets.stream.slice_rows import same_table
from migration_assets.stream.subscription import apply_worker, disable

_SHORTEST, _LONGEST = 0.001, 0.05


def _begun(work: Work) -> None:
    """Everything that can be refused is refused here; then what takes time and holds nobody."""
    stream = work.plan.stream
    description = same_table(stream, work.legacy, work.base)
    require_counterparts(work.target, stream.spec.table, *_described(work))
    require_time(work.base, work.plan, work.kind, to_compare(work.base, work.legacy, work.plan, work.kind))
    _account(work, description)
    if work.kind is CutoverKind.CUTOVER:
        note_accounted(work.base, work.legacy, work.plan)
        require_running(work.base, work.plan.relation)
        held_at = hold(work.base, stream, "base", work.id, patience_seconds=work.plan.patience_seconds)
        prepare_reverse(work.base, work.legacy, work.plan, work.reverse)
        if not work.plan.compare_all:
            require_counted(work.base, work.plan, held_at)
    else:
        # A repair or a decommissioning whose process died may have left it at rest.
        let_reverse_run(work.legacy, work.reverse)
        if reverse_worker(work.legacy, work.reverse) is None:
            raise CutoverError(
                "the reverse stream's subscription is gone from the legacy",
                where=work.reverse.subscription,
                next_step="`migration-assets stream status` says how to make it again; then `migration-assets"
                " repair-legacy` over every quarter shows and mends what differs; then run this again",
            )
        found = gaps(work.legacy, stream.spec.table)
        if found:
            raise CutoverError(
                f"the legacy can be written to although the base is in charge: {'; '.join(found)}",
                where=work.plan.relation,
                next_step="run `migration-assets hold-again`; `migration-assets repair-legacy` shows what was written"
                " there meanwhile, and reached nobody; then run this again",
            )
        prepare(work.base)
        fence_base(work.base, stream, patience_seconds=work.plan.patience_seconds)
        prepare_forward(work)
        note_broken_keys(work, after=False)
    may_open(work.target, stream, work.id)


def _waiting(work: Work) -> None:
    give_up = time.monotonic() + work.plan.patience_seconds
    description = require_table(work.legacy, work.plan.stream.spec.table, "legacy")
    while True:
        seconds = _account(work, description)
        arrived = _marker(work)
        if wait_until(arrived, seconds=work.plan.lag_seconds):
            break
        if time.monotonic() >= give_up:
            raise CutoverError(
                f"the lag stayed over {work.plan.lag_seconds:g} s for {work.plan.patience_seconds:g} s",
                where=work.plan.relation,
                next_step="`migration-assets stream status` says why; run this again when it is small",
            )
    _near(work, work.plan.patience_seconds)
    if not work.plan.compare_all or work.left:
        # Applications went on writing.
        require_time(
            work.base, work.plan, work.kind, to_compare(work.base, work.legacy, work.plan, work.kind), besides=seconds
        )


def _account(work: Work, description: TableDescription) -> float:
    """Stop where rows would be left behind; how long the weeks that left the base were looked at, in seconds.

    The first time, when nobody is held, these are read in full.
    """
    weeks = weeks_of(work.base, work.plan)
    check = partial(work.deadline.check, "the look at weeks that left the base")
    found, seconds = look_again(work.legacy, work.plan, weeks, work.left, before_each=check)
    work.left.update(found)
    unaccounted = find_unaccounted(work.base, work.legacy, work.plan, work.kind, weeks, found.values(), description)
    require_accounted(work.plan, work.kind, unaccounted)
    return seconds


def _near(work: Work, seconds: float) -> None:
    """What the base wrote since its slot began is read now, not while writes are held."""
    if work.kind is CutoverKind.CUTOVER:
        come_near(work.base, work.reverse, patience_seconds=seconds)
    elif has_forward_slot(work):
        come_near(work.legacy, work.forward, patience_seconds=seconds)


def _held(work: Work) -> None:
    side = work.kind.source
    if work.kept is not None:
        work.kept.require_alive(side)
    hold(
        work.source,
        work.plan.stream,
        side,
        work.id,
        passes=work.reverse.subscription,
        patience_seconds=work.plan.patience_seconds,
        take_over=True,
        before_each_try=lambda: _near(work, 5.0),
    )
    work.deadline.start()
    note_held(work.base, work.id)


def _drained(work: Work) -> None:
    arrived = _marker(work)
    pause = _SHORTEST
    while not arrived():
        work.deadline.check("draining the stream")
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST)
    if work.kind is CutoverKind.ROLLBACK:
        stop_reverse(work.legacy, work.reverse, patience=work.deadline.remaining)
        return
    worker = apply_worker(work.base, work.forward.subscription)
    if not work.plan.compare_all:
        # While the ledger still knows what the publication is to be: what was proven before it was altered is compared.
        notice_alterations(work.base, work.plan.relation, work.legacy)
        # While there is a worker; it ends now.
        work.carried.update(weeks_carried(work.base, work.plan.relation))
    with durably(work.base):
        bar_stream(work.base, work.id, barred=True)
        set_status(work.base, work.plan.relation, StreamStatus.HELD, f"by cutover {work.id}, until it is rolled back")
        disable(work.base, work.forward.subscription)
    pid = worker.pid if worker else None
    rest(work.base, work.forward.subscription, pid, patience=work.deadline.remaining)


def _marker(work: Work) -> Callable[[], bool]:
    """Send a marker along the stream that runs; whether it has arrived."""
    relation = work.plan.relation
    if work.kind is CutoverKind.CUTOVER:
        marker = send_heartbeat(work.legacy, relation)
        return lambda: has_arrived(work.base, relation, marker)
    marker = send_reverse_marker(work.base, relation)
    return lambda: reverse_arrived(work.legacy, relation, marker)


def _compared(work: Work) -> None:
    table = work.plan.stream.spec.table
    description = require_table(work.legacy, table, "legacy")
    with work.deadline.bounding(work.base, work.legacy, what="the look for rows that would be left behind"):
        _account(work, description)
    work.files["legacy"], work.files["base"] = files(work.legacy, table), files(work.base, table)
    done = compare_sides(
        work.plan, work.kind, work.base, work.legacy, description, None, work.deadline, carried=work.carried
    )
    note_compared(work.base, work.id, done.weeks, done.rows)
    work.unfollowed[:] = done.unfollowed


def _sequences(work: Work) -> None:
    spec = work.plan.stream.spec
    work.deadline.check("the comparison")
    both = _described(work)
    legacy, base = both if work.kind is CutoverKind.CUTOVER else both[::-1]
    require_root(work.base, base, legacy, spec)
    advance_sequences(work.source, work.target, spec.table, *both, margin=work.plan.sequence_margin)


def _described(work: Work) -> tuple[TableDescription, TableDescription]:
    """The table as the source has it, and as the target."""
    table = work.plan.stream.spec.table
    legacy, base = require_table(work.legacy, table, "legacy"), require_table(work.base, table, "base")
    return (legacy, base) if work.kind is CutoverKind.CUTOVER else (base, legacy)


def _reversed(work: Work) -> None:
    if work.kind is CutoverKind.ROLLBACK:
        # The reverse stream rests since it was drained, and is dropped once the legacy accepts writes.
        begin_here(work)
        return
    description = require_table(work.legacy, work.plan.stream.spec.table, "legacy")
    count_markers_anew(work.base, work.base, work.plan.relation, "base")
    start_reverse(work.base, work.legacy, work.plan, work.reverse, description)
    marker = send_reverse_marker(work.base, work.plan.relation)
    pause = _SHORTEST
    while not reverse_arrived(work.legacy, work.plan.relation, marker):
        work.deadline.check("the reverse stream's first marker")
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST)


def _require_not_rewritten(work: Work) -> None:
    for side, compared in work.files.items():
        now = files(work.base if side == "base" else work.legacy, work.plan.stream.spec.table)
        # A partition that was opened meanwhile is none of those that were compared.
        if any(now.get(oid) != file for oid, file in compared.items()):
            raise CutoverError(
                f"the table was rewritten on the {side} after its rows were compared: by an ALTER TABLE, which no hold"
                " refuses",
                where=work.plan.relation,
                next_step="make the same change on the other side; then run this again",
            )


def let_writes_in(work: Work) -> None:
    """Open the target. Where this fails, only a look at the target tells whether it did."""
    work.deadline.check("the steps before the opening")
    _require_not_rewritten(work)
    mark_opening(work.source, work.plan.stream, work.id)
    if work.kind is CutoverKind.CUTOVER:
        with durably(work.base):
            note_released(work.base, work.id, None, opened=True)
            open_side(work.base, work.plan.stream, work.id)
    else:
        open_side(work.legacy, work.plan.stream, work.id)
        note_released(work.base, work.id, work.deadline.elapsed_ms, opened=True)
    work.deadline.stop()


STAGES: Mapping[CutoverState, Callable[[Work], None]] = {
    CutoverState.BEGUN: _begun,
    CutoverState.WAITING: _waiting,
    CutoverState.HELD: _held,
    CutoverState.DRAINED: _drained,
    CutoverState.COMPARED: _compared,
    CutoverState.SEQUENCES: _sequences,
    CutoverState.REVERSED: _reversed,
}
