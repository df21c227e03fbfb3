"""What each state of the machine does, up to the moment at which the target accepts writes. Every deed may be repeated.

Before the weeks are chosen that need no comparison, the base's server must have counted every change. A session hands
its counts over when it is idle outside a transaction, ten seconds later at the latest; one that goes from transaction
to transaction hands over nothing until that ends.
"""

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial

from psycopg import sql

from migration_assets.cutover.accounting import (
    find_unaccounted,
    look_again,
    note_accounted,
    require_accounted,
    weeks_of,
)
from migration_assets.cutover.comparing import compare_sides, to_compare
from migration_assets.cutover.estimate import require_time
from migration_assets.cutover.forward import begin_here, has_forward_slot, note_broken_keys, prepare_forward
from migration_assets.cutover.holds import fence_base, hold, mark_opening, may_open, open_side, prepare
from migration_assets.cutover.plan import CutoverPlan
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
from migration_assets.domain.states import CutoverError, CutoverKind, CutoverState
from migration_assets.domain.table_description import TableDescription
from migration_assets.ledger.cutovers import bar_stream, durably, note_compared, note_held, note_released
from migration_assets.ledger.definitions import files
from migration_assets.ledger.proofs import weeks_carried
from migration_assets.ledger.stream import StreamStatus, set_status
from migration_assets.ledger.stream_parts import notice_alterations
from migration_assets.postgres.activity import APPLICATION
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.retries import wait_until
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.quarters.base_table import require_root
from migration_assets.quarters.fences import gaps
from migration_assets.stream.buckets import same_table
from migration_assets.stream.heartbeats import has_arrived, reverse_arrived, send_heartbeat, send_reverse_marker
from migration_assets.stream.running import require_running
from migration_assets.stream.servers import count_markers_anew
from migration_assets.stream.subscription import apply_worker, disable

# Finds sessions that may still have changes that the server has not counted. Since the base is held, nobody writes
# there any more, so what a transaction keeps to itself was committed before that transaction began. Where the cut of
# every proof was taken later than that, the proofs include it. A cut is noted a moment after it was taken; the margin
# of ten minutes is far more than that moment.
# A role that may not see another's session sees NULL for its state and its kind: we wait for such a session. Not only
# clients write: a background worker may, and so may a WAL sender that runs statements, but none that streams. A session
# that made a temporary slot is not a streaming WAL sender yet. The worker of our own stream hands its counts over when
# it ends, and it ends before anything is compared.
_UNKNOWN = "of unknown state"
_UNCOUNTED = sql.SQL("""
SELECT format('backend %%s (%%s, %%s), %%s since %%s', a.pid, coalesce(a.usename::text, '?'),
              {application}, coalesce(a.state, {unknown}),
              coalesce(date_trunc('second', coalesce(a.xact_start, a.state_change))::text, 'an unknown time'))
FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
  AND coalesce(a.backend_type, '') NOT IN ('autovacuum worker', 'parallel worker')
  AND NOT EXISTS (SELECT FROM pg_replication_slots r WHERE r.active_pid = a.pid AND NOT r.temporary)
  AND NOT EXISTS (SELECT FROM pg_stat_subscription w JOIN migration.streams t ON t.subscription = w.subname
                  WHERE w.pid = a.pid AND t.relation = %(relation)s)
  AND coalesce(a.backend_start < %(held)s, true)
  AND coalesce(CASE WHEN a.state = 'idle'
                    THEN a.state_change <= %(held)s + interval '1.5 s'
                         AND a.state_change > clock_timestamp() - interval '11 s'
                    ELSE a.xact_start IS NULL OR a.xact_start > (
                        SELECT min(coalesce(c.taken_at, '-infinity')) - interval '10 min' FROM migration.slices s
                        LEFT JOIN migration.cuts c ON c.relation = s.relation AND c.marker = s.validated_marker
                        WHERE s.relation = %(relation)s AND s.validated_equal) END, true)
ORDER BY coalesce(a.xact_start, a.state_change)
""").format(application=APPLICATION, unknown=sql.Literal(_UNKNOWN))


def require_counted(base: Connected, plan: CutoverPlan, held_at: datetime) -> None:
    """Wait until every session has handed over its counts of changed rows; only the base refuses writes meanwhile.

    Args:
        base: In no transaction.
        plan: Which table, and how patient.
        held_at: Since when nobody writes to the base, by the base's own clock.

    Raises:
        CutoverError: A session stays in a transaction for longer than the patience; the error names it.
    """
    found: list[str] = []

    def counted() -> bool:
        rows = base.execute(_UNCOUNTED, {"held": held_at, "relation": plan.relation})
        found[:] = [str(row[0]) for row in rows]
        return not found

    if wait_until(counted, seconds=plan.patience_seconds):
        return
    role = require_row(base.execute("SELECT quote_ident(current_user)").fetchone(), "the role")[0]
    hidden = f"; where a state is unknown: GRANT pg_read_all_stats TO {role} shows it to our role"
    raise CutoverError(
        "which weeks of the base changed is not known: sessions there may have changed rows that the server has not"
        f" counted yet, as long as they stay in a transaction: {'; '.join(found)}",
        where=plan.relation,
        next_step="let these transactions end (or end them: SELECT pg_terminate_backend(pid)), or compare every week"
        f" (MIGRATION_CUTOVER_COMPARE_ALL=true); then run this again{hidden if _UNKNOWN in str(found) else ''}",
    )


_SHORTEST, _LONGEST = 0.001, 0.05


def _begun(work: Work) -> None:
    """Refuse everything that can be refused, then do what takes time and holds nobody."""
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
        # A repair or a decommissioning whose process died may have left the reverse stream disabled.
        let_reverse_run(work.legacy, work.reverse)
        if reverse_worker(work.legacy, work.reverse) is None:
            raise CutoverError(
                "the reverse stream's subscription is gone from the legacy",
                where=work.reverse.subscription,
                next_step="`migration-assets stream status` says how to make it again; then `migration-assets"
                " repair-legacy` over every quarter shows and repairs what differs; then run this again",
            )
        found = gaps(work.legacy, stream.spec.table)
        if found:
            raise CutoverError(
                f"the legacy can be written to although the base is in charge: {'; '.join(found)}",
                where=work.plan.relation,
                next_step="run `migration-assets hold-again`; `migration-assets repair-legacy` shows what was written"
                " there meanwhile: the base does not have it; then run this again",
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
        # Applications went on writing meanwhile.
        require_time(
            work.base, work.plan, work.kind, to_compare(work.base, work.legacy, work.plan, work.kind), besides=seconds
        )


def _account(work: Work, description: TableDescription) -> float:
    """Stop where rows would be left behind; how many seconds the look at the weeks that left the base took.

    The first call reads these weeks in full; it comes before writes are held.
    """
    weeks = weeks_of(work.base, work.plan)
    check = partial(work.deadline.check, "the look at weeks that left the base")
    found, seconds = look_again(work.legacy, work.plan, weeks, work.left, before_each=check)
    work.left.update(found)
    unaccounted = find_unaccounted(work.base, work.legacy, work.plan, work.kind, weeks, found.values(), description)
    require_accounted(work.plan, work.kind, unaccounted)
    return seconds


def _near(work: Work, seconds: float) -> None:
    """Let the slot read now what the base wrote since it began, and not while writes are held."""
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
        # While the ledger still knows the publication as it should be: what was proven before somebody altered it has
        # to be compared.
        notice_alterations(work.base, work.plan.relation, work.legacy)
        # While there is still a worker, which ends now.
        work.carried.update(weeks_carried(work.base, work.plan.relation))
    with durably(work.base):
        bar_stream(work.base, work.id, barred=True)
        set_status(work.base, work.plan.relation, StreamStatus.HELD, f"by cutover {work.id}, until it is rolled back")
        disable(work.base, work.forward.subscription)
    pid = worker.pid if worker else None
    rest(work.base, work.forward.subscription, pid, patience=work.deadline.remaining)


def _marker(work: Work) -> Callable[[], bool]:
    """Send a marker along the running stream; returns a function that says whether it has arrived."""
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
    """The table's description on the source and on the target."""
    table = work.plan.stream.spec.table
    legacy, base = require_table(work.legacy, table, "legacy"), require_table(work.base, table, "base")
    return (legacy, base) if work.kind is CutoverKind.CUTOVER else (base, legacy)


def _reversed(work: Work) -> None:
    if work.kind is CutoverKind.ROLLBACK:
        # The reverse stream is at rest since it was drained. It is dropped once the legacy accepts writes.
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
        # A partition that was opened meanwhile was not compared.
        if any(now.get(oid) != file for oid, file in compared.items()):
            raise CutoverError(
                f"the table was rewritten on the {side} after its rows were compared: by an ALTER TABLE, which no hold"
                " refuses",
                where=work.plan.relation,
                next_step="make the same change of the table on the other side; then run this again",
            )


def let_writes_in(work: Work) -> None:
    """Open the target for writes. Where this fails, only a look at the target tells whether it was opened."""
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
