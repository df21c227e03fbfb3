"""Whether a side refuses writes that it should accept, since when, and how to release it: for alerts and for people."""

import psycopg

from migration_assets.cutover.holds import (
    follow_hold,
    guard_base,
    hold,
    prepare,
    release,
)
from migration_assets.cutover.machine import settle
from migration_assets.cutover.plan import CutoverPlan
from migration_assets.cutover.reverse import reverse_names
from migration_assets.cutover.takeover import alone
from migration_assets.cutover.undoing import release_source
from migration_assets.cutover.work import forward_names
from migration_assets.cutover.writes import (
    HeldWrites,
    find_held,
    find_held_alone,
    read_writes,
)
from migration_assets.domain.cutover_state import CutoverError, CutoverKind, SideName
from migration_assets.ledger.cutover_facts import in_charge, read_cutover_facts
from migration_assets.ledger.cutovers import cutover_lock, note_released, unfinished_cutover
from migration_assets.postgres.server_messages import told
from migration_assets.quarters.fences import HOLD, gaps

__all__ = ["HeldWrites", "hold_again", "release_writes", "writes_held"]


def writes_held(plan: CutoverPlan) -> HeldWrites | None:
    """The hold on the side that writes belong to, or None where it accepts them.

    Raises:
        psycopg.OperationalError: The legacy cannot be reached, nor the base.
    """
    databases, spec = plan.stream.databases, plan.stream.spec
    try:
        with databases.session("base", "cutover:watch") as base:
            facts = read_cutover_facts(base, plan.relation)
            of_base = read_writes(base, spec)
    except psycopg.OperationalError as error:
        with databases.session("legacy", "cutover:watch") as legacy:
            return find_held_alone(read_writes(legacy, spec), told(error))
    if facts.in_charge == "base":
        return find_held(facts, of_base, None)
    with databases.session("legacy", "cutover:watch") as legacy:
        return find_held(facts, of_base, read_writes(legacy, spec))


def release_writes(plan: CutoverPlan) -> str:
    """Let writes go on after a cutover or rollback died: what is open stays open, else it is undone.

    Where the base cannot be reached, the legacy alone is released, if the base was never about to be opened; and the
    base alone, after a rollback that died, where the legacy cannot.

    Returns:
        What was done, one sentence.

    Raises:
        StreamError: The cutover's process lives; says how to end it.
        CutoverError: Only the other side knows whether it accepts writes, and it cannot be asked.
        psycopg.OperationalError: The legacy cannot be reached, and the base is not what is to be released.
    """
    try:
        with plan.stream.databases.session("base", "cutover:release") as base:
            known = read_cutover_facts(base, plan.relation).ledger
    except psycopg.OperationalError:
        return _release_legacy_alone(plan, "the base cannot be reached")
    if not known:
        return _release_legacy_alone(plan, "the base knows of no cutover")
    try:
        settled = settle(plan)
    except psycopg.OperationalError:
        released = _release_base_alone(plan)
        if released is None:
            raise
        return released
    if settled is not None:
        side = settled.kind.target if settled.opened_at else settled.kind.source
        how = "finished" if settled.opened_at else "undone"
        return f"{settled.kind} {settled.id} was {how}: the {side} accepts writes"
    with (
        plan.stream.databases.session("base", "cutover:release") as base,
        plan.stream.databases.session("legacy", "cutover:release") as legacy,
    ):
        charge = in_charge(base, plan.relation)
        side = legacy if charge == "legacy" else base
        writes = read_writes(side, plan.stream.spec)
        if not writes.refuses:
            return f"the {charge} accepts writes"
        if writes.hold is None:
            raise _unowned(plan, charge)
        release(side, plan.stream, writes.hold.owner, looked=True)
        follow_hold(base, plan.stream)
        return f"the {charge} was held by nobody that is known of; it accepts writes again"


def hold_again(plan: CutoverPlan) -> str:
    """While the base is in charge: the legacy refuses everybody's writes, and no TRUNCATE of the base is taken.

    For a hold that somebody took away, or that an earlier version of this program made.

    Returns:
        What was done, one sentence.

    Raises:
        StreamError: A cutover or rollback is at work.
        CutoverError: The legacy is in charge, or decommissioned; or a writer stayed open for too long; or a table that
            inherits lets writers past every trigger.
    """
    with (
        plan.stream.databases.session("base", "cutover:hold") as base,
        plan.stream.databases.session("legacy", "cutover:hold") as legacy,
        alone(plan, base, legacy),
    ):
        facts = read_cutover_facts(base, plan.relation)
        if facts.in_charge != "base" or facts.cutover is None or facts.decommissioned or facts.under_way:
            raise CutoverError(
                "the legacy was decommissioned" if facts.decommissioned
                else f"{facts.under_way.name} is not finished" if facts.under_way
                else "the legacy is in charge, and is to accept writes",
                where=plan.relation,
                state_left="nothing was changed",
                next_step="run `migration-assets release-writes`" if facts.under_way else "nothing",
            )  # fmt: skip
        names = reverse_names(forward_names(base, plan.relation))
        before = gaps(legacy, plan.stream.spec.table)
        hold(legacy, plan.stream, "legacy", facts.cutover, passes=names.subscription,
             patience_seconds=plan.patience_seconds)  # fmt: skip
        prepare(base)
        guard_base(base, plan.stream)
        left = gaps(legacy, plan.stream.spec.table)
    if left:
        raise CutoverError(
            f"no trigger keeps everybody from writing to the legacy: {'; '.join(left)}",
            where=plan.relation,
            state_left="who names the table itself is refused there",
            next_step="see whose table that is, move its rows to where they belong, and take it away from the legacy's"
            " (ALTER TABLE child NO INHERIT parent); then run this again",
        )
    done = "the legacy refuses writes, and the base every TRUNCATE"
    if not before:
        return done
    return (
        f"{done}. The legacy could be written to before ({'; '.join(before)}): `migration-assets repair-legacy` over"
        " every quarter shows what was"
    )


def _release_legacy_alone(plan: CutoverPlan, why: str) -> str:
    with plan.stream.databases.session("legacy", "cutover:release") as legacy:
        writes = read_writes(legacy, plan.stream.spec)
    if not writes.refuses:
        return f"the legacy accepts writes; {why}"
    hold = writes.hold
    if hold is None:
        raise _unowned(plan, "legacy")
    if hold.opening or not release_source(plan, CutoverKind.CUTOVER, hold.owner):
        raise CutoverError(
            f"the base accepts writes, or was about to, and {why}",
            where=plan.relation,
            state_left="the legacy goes on refusing writes: two sides that accept them could never be reconciled",
            next_step="bring that base back, then run this again",
        )
    return f"the legacy accepts writes again: the base was never opened; {why}: run this again when it is back"


def _release_base_alone(plan: CutoverPlan) -> str | None:
    """None where it is not held by a rollback, or cannot be reached itself."""
    why = "the legacy cannot be reached"
    with (
        plan.stream.databases.session("base", "cutover:release") as base,
        # Whoever was to open the legacy has it, and marks the base's hold before: he is dead, and never will.
        cutover_lock(base, plan.relation),
    ):
        left = unfinished_cutover(base, plan.relation)
        if left is None or left.kind is not CutoverKind.ROLLBACK:
            return None
        if not read_writes(base, plan.stream.spec).refuses:
            return f"the base accepts writes; {why}: run this again when it is back"
        if not release_source(plan, left.kind, left.id):
            raise CutoverError(
                f"the legacy accepts writes, or was about to, and {why}",
                where=plan.relation,
                state_left="the base goes on refusing writes: two sides that accept them could never be reconciled",
                next_step="bring that legacy back, then run this again",
            )
        # Now: whoever undoes the rest when the legacy is back would count the time until then.
        note_released(base, left.id, None, opened=False)
        follow_hold(base, plan.stream)
    return f"the base accepts writes again: the legacy was never opened; {why}: run this again when it is back"


def _unowned(plan: CutoverPlan, side: SideName) -> CutoverError:
    table = plan.stream.spec.table
    return CutoverError(
        f"the {side} refuses writes, and nobody noted why: its row in our table holds is gone",
        where=plan.relation,
        state_left="nothing was changed",
        next_step=f"see that the other side was never open for writes; then on the {side}: ALTER TABLE {table} DISABLE"
        f" TRIGGER {HOLD}",
    )
