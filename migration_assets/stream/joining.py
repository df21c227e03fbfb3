"""Bring weeks under CDC: the first ones with a new slot, later ones at a cut of the running stream."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from migration_assets.domain.errors import StreamError
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.domain.states import SliceState
from migration_assets.domain.table_description import TableDescription
from migration_assets.ledger.definitions import require_all_rows
from migration_assets.ledger.proofs import time_held
from migration_assets.ledger.slices import SliceRecord, read_slices, slice_locks
from migration_assets.ledger.stream import (
    StreamLock,
    StreamRecord,
    StreamStatus,
    begin_stream,
    fresh_names,
    keep_at_rest,
    names_of,
    newest_marker,
    read_stream,
    rename_stream,
    set_status,
    stream_lock,
    stream_names,
)
from migration_assets.ledger.stream_parts import note_publication
from migration_assets.postgres.sessions import Connected, set_limits
from migration_assets.stream.buckets import same_table
from migration_assets.stream.claims import PublicationChange, claimed
from migration_assets.stream.cut import paused_stream
from migration_assets.stream.joining_ahead import (
    in_root,
    joins,
    require_few_deletions,
    require_leaves,
    require_small,
    true_up_joining,
)
from migration_assets.stream.legacy_side import (
    alter_filter,
    continue_markers,
    create_publication,
    drop_publication,
    prepare_legacy,
    published_filter,
    replica_identity,
    row_filter,
)
from migration_assets.stream.plan import SLICE_LOCK_MS, STREAM_LOCK_MS, StreamPlan
from migration_assets.stream.running import require_not_barred, require_running, require_stream
from migration_assets.stream.servers import look_at_servers, note_pair, require_same_servers
from migration_assets.stream.slots import (
    drop_slot,
    dropped_on_failure,
    has_failover_slots,
    remove_slot,
    true_slot,
)
from migration_assets.stream.subscription import (
    create_subscription,
    drop_subscription,
    enable,
    legacy_conninfo,
    try_subscription,
)
from migration_assets.stream.true_up import Joining, OnWeek, TruedUp
from migration_assets.stream.way import require_way


@dataclass(frozen=True)
class Joined:
    """A quarter that is under CDC now; None for all that was under CDC before.

    `how` is activated, joined, rebuilt, or already under CDC. `weeks` are those that were trued up, `lsn` is the
    position from which all are exact, `marker` that of the cut (None if a slot's own snapshot was used), `paused_ms`
    how long a running stream rested.
    """

    quarter: FiscalQuarter | None
    how: str
    marker: int | None
    lsn: str
    weeks: tuple[TruedUp, ...]
    paused_ms: float
    seconds: float


@dataclass(frozen=True)
class Mending:
    """Who had the stream begun anew, and whether a server changed since it began."""

    by: str
    changed: bool


def join_stream(
    plan: StreamPlan,
    quarter: FiscalQuarter | None,
    *,
    rebuild: bool = False,
    whole_root: bool = False,
    by: str | None = None,
    on_week: OnWeek | None = None,
) -> Joined:
    """Bring the quarter's 13 weeks under CDC, in the way that the stream's state requires; safe to repeat.

    The quarter's weeks join if they were copied, if they came back to the base, or if they were opened ahead of time
    and hold at most `join_rows` rows on the legacy: the true-up alone brings those. Retired weeks stay out.

    Without a quarter, the weeks are those that are under CDC already, and only a rebuild does anything for them. With
    `whole_root` they are all weeks with a leaf, whatever their size: after a rollback all are on both sides and equal.

    If there is no stream, or an earlier step on it was never finished, or `rebuild` is set, a new slot is created and
    every week that is or comes under CDC is trued up against its snapshot. That repairs any damage to a stream: a lost
    slot, a dropped subscription, an altered publication, a join that died, and a server that was replaced or went back
    in time. In the last case every row that is changed or deleted in the base is kept as a repair's before-image, and
    the servers are recorded anew in the name of `by`. In all other cases the quarter joins at a cut.

    Raises:
        DeletionError: Too many rows of a week would be deleted without confirmation.
        StreamError: A week is not copied yet and too large (lists which), or has no leaf; a person or a cutover holds
            the stream, or the base is in charge.
        TableSpecError: Row level security hides rows of a side from our role.
        SliceBusyError: Another step works on one of the weeks.
        CutError: Writers left no free moment for a cut.
        psycopg.OperationalError: The base's server does not reach the legacy; no slot is left there.
    """
    started = time.monotonic()
    label = quarter.key if quarter else "all"
    with ExitStack() as stack:
        base = stack.enter_context(plan.databases.session("base", f"{label}:join", plan.limits.stream_timeouts()))
        require_not_barred(base, plan.relation, mending=rebuild)
        # Two quarters that begin at once would each publish the weeks that they know of, without the other quarter's.
        stack.enter_context(stream_lock(base, plan.relation, lock=StreamLock.START))
        if quarter:
            records = _wanted(base, plan, quarter)
        else:
            records = in_root(base, plan) if whole_root else _under_cdc(base, plan)
        set_limits(base, lock=SLICE_LOCK_MS, whole_session=True)
        held = stack.enter_context(slice_locks(base, records))
        set_limits(base, lock=STREAM_LOCK_MS, whole_session=True)
        legacy = stack.enter_context(plan.databases.session("legacy", f"{label}:join"))
        description = same_table(plan, legacy, base)
        # Checked early: later it would fail in the middle, after the old stream was cleared away.
        require_all_rows(legacy, plan.spec.table, "legacy")
        require_all_rows(base, plan.spec.table, "base")
        # Checked before anything is cleared away: it decides which rows of the base have to be kept.
        changed = bool(look_at_servers(base, plan.relation, legacy))
        if changed and not rebuild:
            require_same_servers(base, plan.relation, legacy)
        stream = _unheld(base, plan, mending=rebuild and changed)
        unfinished = stream is None or stream.status in {StreamStatus.ACTIVATING, StreamStatus.JOINING}
        joining = [record for record in held if not record.under_cdc]
        require_leaves(base, plan.spec, held if unfinished or rebuild else joining)
        opened = [record.week for record in joining if record.state is SliceState.ABSENT and not whole_root]
        require_small(plan, legacy, description, opened)
        require_few_deletions(plan, base, legacy, description, opened)
        if stream is None or unfinished or rebuild:
            how = "rebuilt" if stream is not None and stream.exact_since_lsn else "activated"
            by = by or f"the rebuild of {label}" + (f", run {plan.run_id}" if plan.run_id else "")
            mending = Mending(by, changed)
            lsn, weeks = _activate(plan, base, legacy, description, held, how, on_week, mending)
            return Joined(quarter, how, None, lsn, tuple(weeks), 0.0, time.monotonic() - started)
        if not joining:
            with stream_lock(base, plan.relation, shared=True):
                require_running(base, plan.relation)
            at = stream.exact_since_marker, stream.exact_since_lsn or ""
            return Joined(quarter, "already under CDC", *at, (), 0.0, time.monotonic() - started)
        return _join(plan, base, legacy, description, held, joining, on_week, started)


def _unheld(base: Connected, plan: StreamPlan, *, mending: bool = False) -> StreamRecord | None:
    require_not_barred(base, plan.relation, mending=mending)
    stream = read_stream(base, plan.relation)
    if stream is not None and stream.status is StreamStatus.HELD and not mending:
        raise StreamError(
            f"a person holds the stream ({stream.reason})",
            where=plan.relation,
            state_left="nothing was changed",
            next_step="run `migration-assets stream resume`, then this again",
        )
    return stream


def _under_cdc(base: Connected, plan: StreamPlan) -> list[SliceRecord]:
    records = [record for record in read_slices(base, plan.relation) if record.under_cdc]
    if not records:
        raise StreamError(
            "no week is under CDC yet",
            where=plan.relation,
            state_left="nothing was changed",
            next_step="materialize change_stream for a quarter whose weeks are copied",
        )
    return records


def _wanted(base: Connected, plan: StreamPlan, quarter: FiscalQuarter) -> list[SliceRecord]:
    """Return the records of the quarter's weeks that are to join and of all weeks under CDC already."""
    records = read_slices(base, plan.relation)
    if not any(record.week.quarter == quarter for record in records):
        raise StreamError(
            "the quarter is not open in the base",
            where=quarter.key,
            state_left="nothing was changed",
            next_step=f"materialize quarter_partitions for {quarter.key}, then migrated_slice",
        )
    return [record for record in records if record.under_cdc or joins(record, quarter)]


def _activate(
    plan: StreamPlan,
    base: Connected,
    legacy: Connected,
    description: TableDescription,
    records: Sequence[SliceRecord],
    how: str,
    on_week: OnWeek | None,
    mending: Mending,
) -> tuple[str, list[TruedUp]]:
    """Create a new slot and true up all weeks at its snapshot; remains of an earlier attempt are cleared away first."""
    with ExitStack() as stack:
        stack.enter_context(stream_lock(base, plan.relation))
        existing = _unheld(base, plan, mending=mending.changed)  # a person may have put it on hold meanwhile
        names = names_of(existing) if existing else stream_names(base, plan.relation)
        # Before anything is changed, including a claim: a server that reaches a copy of the legacy would follow it.
        url = plan.legacy_url_for_base or plan.databases.legacy_url
        require_way(legacy, base, url, to="legacy")
        stack.enter_context(claimed(legacy, names.slot, holder=base))
        begin_stream(base, plan.relation, names, f"being {how}")
        drop_subscription(base, names.subscription)
        if mending.changed:
            remove_slot(legacy, names.slot)
            # A base that was thought dead, and still follows under the old name, must not read the new slot.
            with legacy.transaction():
                drop_publication(legacy, names.publication)
            names = fresh_names()
            rename_stream(base, plan.relation, names)
            stack.enter_context(claimed(legacy, names.slot, holder=base))
        else:
            # Even if we do not get as far as making a new one: an old slot keeps WAL.
            drop_slot(legacy, names.slot)
        # A short lock_timeout: everybody queues behind a lock that waits.
        set_limits(legacy, lock=plan.limits.cut_lock_timeout_ms, whole_session=True)
        # Before it is changed, since the next try would find our own.
        base.execute(
            "UPDATE migration.streams SET former_identity = coalesce(former_identity, %s) WHERE relation = %s",
            [replica_identity(legacy, plan.spec), plan.relation],
        )
        prepare_legacy(legacy, plan.spec, names.publication, patience_seconds=plan.limits.cut_patience_seconds)
        continue_markers(legacy, newest_marker(base))
        with legacy.transaction():
            drop_publication(legacy, names.publication)
            where = row_filter([r.week for r in records], description, plan.spec, plan.calendar)
            create_publication(legacy, names.publication, plan.spec, where)
        with true_slot(plan, legacy, names.slot) as slot:
            resting = require_stream(base, plan.relation)
            conninfo = legacy_conninfo(legacy, url, names.subscription)
            with dropped_on_failure(legacy, names.slot):
                # Tried out before the long true-up of every week.
                try_subscription(base, names, conninfo, binary=False, failover=has_failover_slots(legacy))
                moment = Joining(
                    plan, description, resting, slot.snapshot, slot.lsn, None, on_week, keep_images=mending.changed
                )
                weeks = true_up_joining(moment, records)
            with base.transaction():
                keep_at_rest(base, resting)
                base.execute(
                    "UPDATE migration.streams SET row_filter = %s, exact_since_marker = NULL, exact_since_lsn = %s,"
                    " exact_since = clock_timestamp() WHERE relation = %s",
                    [published_filter(legacy, names.publication, plan.spec), slot.lsn, plan.relation],
                )
                note_publication(base, legacy, plan.relation, names.publication)
                note_pair(base, legacy, plan.relation, mending.by)
                set_status(base, plan.relation, StreamStatus.LIVE)
                create_subscription(
                    base, names, conninfo, binary=description.binary_copy, failover=has_failover_slots(legacy)
                )
        return slot.lsn, weeks


def _join(
    plan: StreamPlan,
    base: Connected,
    legacy: Connected,
    description: TableDescription,
    held: Sequence[SliceRecord],
    joining: Sequence[SliceRecord],
    on_week: OnWeek | None,
    started: float,
) -> Joined:
    where = row_filter([record.week for record in held], description, plan.spec, plan.calendar)
    quarter = joining[0].week.quarter
    stream = require_stream(base, plan.relation)
    with paused_stream(
        plan,
        f"{quarter.key}:join",
        in_lock=PublicationChange(
            stream.slot, base, lambda locker: alter_filter(locker, stream.publication, plan.spec, where)
        ),
        as_join=True,
    ) as pause:
        cut = pause.record
        moment = Joining(plan, description, pause.stream, pause.legacy_snapshot, cut.lsn, cut.marker, on_week)
        weeks = true_up_joining(moment, joining)
        with base.transaction():
            keep_at_rest(base, pause.stream)
            base.execute(
                "UPDATE migration.streams SET row_filter = %s, exact_since_marker = %s, exact_since_lsn = %s,"
                " exact_since = clock_timestamp() WHERE relation = %s",
                # Read in another session than the pause's, whose snapshot is older than the publication's change.
                [published_filter(legacy, stream.publication, plan.spec), cut.marker, cut.lsn, plan.relation],
            )
            note_publication(base, legacy, plan.relation, stream.publication)
            set_status(base, plan.relation, StreamStatus.LIVE)
            enable(base, stream.subscription)
    paused_ms = time_held(base, plan.relation, cut).apply_held_ms
    return Joined(quarter, "joined", cut.marker, cut.lsn, tuple(weeks), paused_ms, time.monotonic() - started)
