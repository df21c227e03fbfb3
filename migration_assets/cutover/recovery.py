"""Begins the stream of the following side anew after a failover, a restore or a move of a server.

While the base is in charge that is the reverse stream: the legacy's rows become those of the base in the new slot's
snapshot, in one transaction; rows that only the legacy had are kept as a repair's images. The same call can be repeated
after any failure.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from migration_assets.cutover.holds import hold
from migration_assets.cutover.legacy_repair import LegacyRepaired, repair_at
from migration_assets.cutover.legacy_writing import both_sides
from migration_assets.cutover.plan import CutoverPlan, cutover_plan
from migration_assets.cutover.reverse import (
    drop_reverse,
    publish_reverse,
    reverse_names,
    reverse_worker,
    subscribe_reverse,
)
from migration_assets.cutover.reverse_cut import ReverseCut
from migration_assets.cutover.work import forward_names
from migration_assets.domain.errors import StreamError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.states import CutoverError
from migration_assets.ledger.charge import is_base_in_charge, read_cutover_facts
from migration_assets.ledger.definitions import filenodes
from migration_assets.ledger.slices import SliceRecord, read_slices
from migration_assets.ledger.steps import run_step
from migration_assets.ledger.stream import fresh_names, rename_stream
from migration_assets.postgres.sessions import Connected
from migration_assets.postgres.snapshots import base_tables, in_snapshot
from migration_assets.quarters.runway import attached_leaves, read_partitions
from migration_assets.runtime import Migration
from migration_assets.stream import joining
from migration_assets.stream.buckets import same_table
from migration_assets.stream.joining import Joined
from migration_assets.stream.plan import StreamPlan
from migration_assets.stream.running import require_not_barred
from migration_assets.stream.servers import look_at_servers, newest_sent, note_pair
from migration_assets.stream.slots import exported_slot, remove_slot
from migration_assets.stream.subscription import drop_subscription
from migration_assets.stream.true_up import OnWeek

_PURPOSE = "recover"


@dataclass(frozen=True)
class ReverseRecovered:
    """The legacy follows the base again from `lsn` on; `weeks` has the result of every week with a leaf."""

    weeks: tuple[LegacyRepaired, ...]
    lsn: str


def recover_reverse(plan: CutoverPlan, by: str) -> ReverseRecovered | None:
    """Begin the reverse stream anew, and make the legacy's rows those of the base.

    Args:
        plan: Which table.
        by: The person who says that these are the servers from now on.

    Returns:
        What was done; None where both servers are the known ones and the reverse stream can go on as it is.

    Raises:
        CutoverError: The legacy is in charge or decommissioned, or something on it changes rows as they are written.
        DeletionError: Many rows of a week would be deleted on the legacy, and nobody confirmed that.
        SliceBusyError, StreamError: Another process works on a week, on the stream or on a cutover; or the slot cannot
            begin.
    """
    stream = plan.stream

    def in_root(base: Connected, _: Connected) -> list[SliceRecord]:
        leaves = attached_leaves(stream.spec.table, read_partitions(base, stream.spec.table))
        return [record for record in read_slices(base, plan.relation) if record.week in leaves]

    with both_sides(plan, in_root, mending=True) as (base, legacy, records):
        if not look_at_servers(base, plan.relation, legacy) and _may_go_on(base, legacy, plan):
            return None
        description = same_table(stream, legacy, base)
        former = reverse_names(forward_names(base, plan.relation))
        # First our own reader, which would come back to the slot as soon as it is ended.
        drop_subscription(legacy, former.subscription)
        remove_slot(base, former.slot)
        drop_reverse(base, legacy, former)
        # A legacy that was thought dead, and still follows under the old name, must not read the new slot.
        forward = fresh_names()
        rename_stream(base, plan.relation, forward)
        names = reverse_names(forward)
        owner = read_cutover_facts(base, plan.relation).cutover or 0
        # The hold also lets the new subscription's apply worker pass.
        hold(legacy, stream, "legacy", owner, passes=names.subscription, patience_seconds=plan.patience_seconds)
        publish_reverse(base, legacy, plan, names)
        url = stream.databases.base_url
        tables = base_tables(base, stream.spec, [record.week for record in records])
        before = [filenodes(base, table) for table in tables]
        with (
            exported_slot(url, base, names.slot, patience_seconds=plan.patience_seconds) as slot,
            stream.databases.session("base", f"{_PURPOSE}:snapshot", stream.limits.timeouts()) as reader,
            stream.databases.session("legacy", f"{_PURPOSE}:rows", stream.limits.timeouts()) as rows,
            in_snapshot(reader, slot.snapshot, tables),
        ):
            if [filenodes(reader, table) for table in tables] != before:
                raise _rewritten(plan)
            cut = ReverseCut(newest_sent(base, "base"), slot.lsn, reader, rows)
            weeks = repair_at(plan, base, cut, description, records)
        subscribe_reverse(base, legacy, plan, names, description)
        with base.transaction():
            base.execute("SET LOCAL synchronous_commit = on")
            note_pair(base, legacy, plan.relation, by)
    return ReverseRecovered(tuple(weeks), slot.lsn)


def _rewritten(plan: CutoverPlan) -> CutoverError:
    return CutoverError(
        "a table of the base was rewritten while the slot was made: the slot's snapshot would show the table empty",
        where=plan.relation,
        state_left="the base is in charge and accepts writes; the legacy is as it was, and does not follow yet",
        next_step="let the ALTER TABLE, VACUUM FULL or CLUSTER on the base end, then run this again",
    )


def _may_go_on(base: Connected, legacy: Connected, plan: CutoverPlan) -> bool:
    """Whether slot and subscription exist, and all WAL that the slot needs."""
    names = reverse_names(forward_names(base, plan.relation))
    kept = base.execute(
        "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND wal_status IS DISTINCT FROM 'lost'", [names.slot]
    )
    return kept.fetchone() is not None and reverse_worker(legacy, names) is not None


log = logging.getLogger(__name__)


def recover_stream(
    migration: Migration,
    by: str,
    *,
    run_id: str | None = None,
    on_week: OnWeek | None = None,
    confirmed_deletes: Mapping[FiscalWeek, int] | None = None,
) -> Joined | ReverseRecovered | None:
    """After a failover, a restore or a move of a server: make a new slot, true up every week, note the servers anew.

    The side that follows is changed. Rows that it has and the side in charge has not are kept as a repair's images.

    Args:
        migration: Which migration.
        by: The person who says that these are the servers from now on.
        run_id: Noted in the ledger.
        on_week: Called with every week that is done.
        confirmed_deletes: How many rows of a week a person allows to be deleted.

    Returns:
        What was done. None where both servers are the known ones and, while the base is in charge, the reverse stream's
        slot and subscription are there.

    Raises:
        StreamError: `by` is empty; or as `joining.join_stream`.
    """
    relation = migration.spec.relation
    if not by.strip():
        raise StreamError(
            "nobody says that these are the servers from now on",
            where=relation,
            state_left="nothing was changed",
            next_step="run it with --by NAME",
        )
    plan = StreamPlan.of(migration, run_id, confirmed_deletes)

    def once() -> Joined | ReverseRecovered | None:
        with migration.databases.session("base", "recover") as base:
            if is_base_in_charge(base, relation):
                return recover_reverse(replace(cutover_plan(migration), stream=plan), by.strip())
            require_not_barred(base, relation, mending=True)
            with migration.databases.session("legacy", "recover") as legacy:
                if not look_at_servers(base, relation, legacy):
                    return None
        return joining.join_stream(plan, None, rebuild=True, by=by.strip(), on_week=on_week)

    return run_step(migration, "recovery of the change stream", once)
