"""Whether each side accepts writes, since when it refuses them, and how to release it: for alerts and for people."""

from dataclasses import dataclass
from datetime import datetime

import psycopg

from migration_assets.cutover.holds import Hold, follow_hold, guard_base, hold, is_overdue, prepare, read_hold, release
from migration_assets.cutover.machine import settle
from migration_assets.cutover.plan import CutoverPlan
from migration_assets.cutover.reverse import reverse_names
from migration_assets.cutover.undoing import alone, release_source
from migration_assets.cutover.work import forward_names
from migration_assets.domain.states import CutoverError, CutoverKind, SideName
from migration_assets.domain.table_spec import TableSpec
from migration_assets.ledger.charge import CutoverFacts, in_charge, read_cutover_facts
from migration_assets.ledger.cutovers import cutover_lock, note_released, unfinished_cutover
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.quarters.fences import HOLD, gaps, is_held

_RELEASE = "`migration-assets release-writes` (or the same cutover or rollback again) finishes or undoes it"


@dataclass(frozen=True)
class HeldWrites:
    """The state in which no side is known to accept writes.

    Attributes:
        side: The side that should accept writes.
        since: When the hold began, by that side's own clock; None where that is not known.
        cutover: The id of the cutover or rollback that holds them, where it is known.
        alive: Whether the process that holds them works; None: not known. A process that still holds them after its
            timeout counts as dead.
        what: The finding, one sentence.
        next_step: What to do.
        seconds: For how long writes have been held.
    """

    side: SideName
    since: datetime | None
    cutover: int | None
    alive: bool | None
    what: str
    next_step: str
    seconds: float | None = None


@dataclass(frozen=True)
class SideWrites:
    """Whether one side accepts writes at one moment, by its own clock.

    Attributes:
        exists: Whether the table exists.
        refuses: Whether an ordinary write to the table is refused.
        gaps: By what ways writes still get past the hold; empty for a hold without gaps.
        hold: The row that the side keeps about its hold; None where there is none.
        seconds: For how long writes have been held.
    """

    exists: bool
    refuses: bool
    gaps: tuple[str, ...]
    hold: Hold | None
    seconds: float | None


def read_writes(connection: Connected, spec: TableSpec) -> SideWrites:
    """Look at one side; needs no right but to read the catalogue, and changes nothing."""
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL, clock_timestamp()", [str(spec.table)]).fetchone()
    exists, now = require_row(row, "the table")
    refuses = is_held(connection, spec.table)
    hold = read_hold(connection, spec.relation) if refuses else None
    seconds = (now - hold.held_at).total_seconds() if hold else None
    return SideWrites(exists, refuses, gaps(connection, spec.table), hold, seconds)


def find_held(facts: CutoverFacts, base: SideWrites, legacy: SideWrites | None) -> HeldWrites | None:
    """Describe what is wrong with the side in charge; `legacy` is None where it could not be asked."""
    writes = base if facts.in_charge == "base" else legacy
    if writes is None or not writes.refuses:
        return None
    side, left = facts.in_charge, facts.under_way
    if left is not None and left.alive and not left.opened and is_overdue(writes.hold, left.id, left.timeout_seconds):
        return _held(side, writes, False, f"{left.name} does not answer, and its timeout is over", _RELEASE)
    if left is not None and left.alive:
        return _held(side, writes, True, "a cutover or rollback is at work", "wait: it ends within its timeout")
    if left is not None:
        return _held(side, writes, False, f"the process of {left.name} died, at {left.state}", _RELEASE)
    if writes.hold is None:
        return _held(
            side, writes, None, "its hold is there, and nobody noted why", f"ALTER TABLE … DISABLE TRIGGER {HOLD}"
        )
    return _held(side, writes, False, "no cutover is under way", _RELEASE)


def find_held_alone(legacy: SideWrites, error: str) -> HeldWrites | None:
    """Describe it where the base cannot be asked."""
    if not legacy.refuses:
        return None
    opening = legacy.hold is not None and legacy.hold.opening
    return _held(
        "legacy",
        legacy,
        None,
        f"the base cannot be reached ({error})",
        "bring the base back: it accepts writes, or was about to"
        if opening
        else "`migration-assets release-writes` lets the legacy go on: the base was never opened",
    )


def _held(side: SideName, writes: SideWrites, alive: bool | None, why: str, next_step: str) -> HeldWrites:
    hold = writes.hold
    since = f" since {hold.held_at:%H:%M:%S %Z}" if hold else ""
    what = f"the {side} refuses writes{since}: {why}"
    return HeldWrites(
        side, hold.held_at if hold else None, hold.owner if hold else None, alive, what, next_step, writes.seconds
    )


__all__ = ["HeldWrites", "hold_again", "release_writes", "writes_held"]


def writes_held(plan: CutoverPlan) -> HeldWrites | None:
    """The hold on the side in charge, or None where that side accepts writes.

    Raises:
        psycopg.OperationalError: Neither the base nor the legacy can be reached; or the legacy is in charge and cannot.
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
    """Let writes go on after a cutover or rollback died.

    A run whose target was opened is finished; any other is undone. Where the base cannot be reached, the legacy alone
    is released, unless the base may have been opened. Where the legacy cannot be reached, the base alone is released
    after a rollback that died, unless the legacy may have been opened.

    Returns:
        What was done, one sentence.

    Raises:
        StreamError: The cutover's process is alive; the error says how to end it.
        CutoverError: The other side may accept writes, and it cannot be asked.
        psycopg.OperationalError: The legacy cannot be reached, and it is not the base that has to be released.
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
        return f"the {charge} refused writes although no cutover or rollback was under way; it accepts them again"


def hold_again(plan: CutoverPlan) -> str:
    """Make the legacy refuse all writes again, and the base every TRUNCATE, while the base is in charge.

    This renews a hold that was removed by hand, or that was made by an earlier version of this program.

    Returns:
        What was done, one sentence.

    Raises:
        StreamError: A cutover or rollback is at work.
        CutoverError: The legacy is in charge, or decommissioned; or a writer's transaction stayed open for too long; or
            a table that inherits from the legacy's lets writers past every trigger.
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
                else "the legacy is in charge, and has to accept writes",
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
            f"no trigger can keep all writers from the legacy: {'; '.join(left)}",
            where=plan.relation,
            state_left="writes that name the legacy's table itself are refused",
            next_step="find out whose table that is, move its rows to where they belong, and detach it from the"
            " legacy's table (ALTER TABLE child NO INHERIT parent); then run this again",
        )
    done = "the legacy refuses writes, and the base every TRUNCATE"
    if not before:
        return done
    return (
        f"{done}. Before, writes could reach the legacy ({'; '.join(before)}): `migration-assets repair-legacy` over"
        " every quarter shows what was written"
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
    """Release the base; None where no rollback holds it, or it cannot be reached."""
    why = "the legacy cannot be reached"
    with (
        plan.stream.databases.session("base", "cutover:release") as base,
        # The run that was to open the legacy would have marked the base's hold before. It is dead, and never will.
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
        # Now, since the run that undoes the rest when the legacy is back would count the time until then.
        note_released(base, left.id, None, opened=False)
        follow_hold(base, plan.stream)
    return f"the base accepts writes again: the legacy was never opened; {why}: run this again when it is back"


def _unowned(plan: CutoverPlan, side: SideName) -> CutoverError:
    table = plan.stream.spec.table
    return CutoverError(
        f"the {side} refuses writes, and nobody noted why: its row in the table migration.holds is gone",
        where=plan.relation,
        state_left="nothing was changed",
        next_step=f"make sure that the other side was never open for writes; then on the {side}: ALTER TABLE {table}"
        f" DISABLE TRIGGER {HOLD}",
    )
