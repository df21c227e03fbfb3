"""Whether a side refuses writes that it should accept, since when, and how to release it: for alerts and for people."""

from dataclasses import dataclass
from datetime import datetime

import psycopg

from migration_assets.domain.cutover_state import CutoverError, CutoverKind, SideName
from migration_assets.postgres.cutover.holds import Hold, read_hold, refuses_writes, release
from migration_assets.postgres.cutover.machine import settle
from migration_assets.postgres.cutover.plan import CutoverPlan
from migration_assets.postgres.cutover.records import CutoverRecord, in_charge, unfinished_cutover
from migration_assets.postgres.cutover.takeover import hold_is_overdue, is_locked
from migration_assets.postgres.cutover.undoing import release_source
from migration_assets.postgres.sessions import Connected, require_row

_RELEASE = "`migration-assets release-writes` (or the same cutover or rollback again) finishes or undoes it"


@dataclass(frozen=True)
class HeldWrites:
    """No side accepts writes, or none that is known of.

    `side` is the one that should; `since` by its own clock. `alive`: whether the process that holds them works (None:
    not known); one that still holds them when its timeout is over does not.
    """

    side: SideName
    since: datetime | None
    cutover: int | None
    alive: bool | None
    what: str
    next_step: str


def writes_held(plan: CutoverPlan) -> HeldWrites | None:
    """The hold on the side that writes belong to, or None where it accepts them.

    Raises:
        psycopg.OperationalError: The legacy cannot be reached, nor the base.
    """
    databases = plan.stream.databases
    try:
        with databases.session("base", "cutover:watch") as base:
            if not _knows_cutovers(base):
                return None
            charge = in_charge(base, plan.relation)
            left = unfinished_cutover(base, plan.relation)
            locked = left is not None and is_locked(base, plan.relation)
            of_base = read_hold(base, plan.relation)
            base_refuses = refuses_writes(base, plan.stream)
    except psycopg.OperationalError as error:
        return _legacy_alone(plan, str(error).strip().partition("\n")[0])
    if charge == "base":
        return _held(plan, "base", of_base, locked=locked, left=left) if base_refuses else None
    with databases.session("legacy", "cutover:watch") as legacy:
        if not refuses_writes(legacy, plan.stream):
            return None
        return _held(plan, "legacy", read_hold(legacy, plan.relation), locked=locked, left=left)


def _held(
    plan: CutoverPlan, side: SideName, hold: Hold | None, *, locked: bool, left: CutoverRecord | None
) -> HeldWrites:
    since = f" since {hold.held_at:%H:%M:%S %Z}" if hold else ""
    overdue = hold_is_overdue(plan, left, hold)
    alive = locked and not overdue
    who = (
        "a cutover or rollback is at work"
        if alive
        else "the process of its cutover or rollback does not answer, its timeout is over"
        if locked
        else "the process of its cutover or rollback died"
        if left
        else "no cutover is under way"
    )
    next_step = "wait: it ends within its timeout" if alive else _RELEASE
    return HeldWrites(
        side, hold.held_at if hold else None, hold.owner if hold else None, alive,
        f"the {side} refuses writes{since}: {who}", next_step,
    )  # fmt: skip


def _legacy_alone(plan: CutoverPlan, error: str) -> HeldWrites | None:
    with plan.stream.databases.session("legacy", "cutover:watch") as legacy:
        hold = read_hold(legacy, plan.relation)
        if not refuses_writes(legacy, plan.stream):
            return None
    since = f" since {hold.held_at:%H:%M:%S %Z}" if hold else ""
    opening = hold is not None and hold.opening
    return HeldWrites(
        "legacy", hold.held_at if hold else None, hold.owner if hold else None, None,
        f"the legacy refuses writes{since}, and the base cannot be reached ({error})",
        "bring the base back: it accepts writes, or was about to" if opening
        else "`migration-assets release-writes` lets the legacy go on: the base was never opened",
    )  # fmt: skip


def release_writes(plan: CutoverPlan) -> str:
    """Let writes go on after a cutover or rollback died, or froze: what is open stays open, else it is undone.

    Where the base cannot be reached, the legacy alone is released, if the base was never about to be opened.

    Returns:
        What was done, one sentence.

    Raises:
        StreamError: The cutover's process lives, and its timeout is not over; says how to end it.
        CutoverError: Only the base knows whether it accepts writes, and it cannot be asked.
    """
    try:
        with plan.stream.databases.session("base", "cutover:release") as base:
            if not _knows_cutovers(base):
                return "no cutover was ever begun"
    except psycopg.OperationalError:
        return _release_legacy_alone(plan)
    settled = settle(plan)
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
        hold = read_hold(side, plan.relation)
        if hold is None or not refuses_writes(side, plan.stream):
            return f"the {charge} accepts writes"
        release(side, plan.stream, hold.owner, looked=True)
        return f"the {charge} was held by nobody that is known of; it accepts writes again"


def _release_legacy_alone(plan: CutoverPlan) -> str:
    with plan.stream.databases.session("legacy", "cutover:release") as legacy:
        hold = read_hold(legacy, plan.relation)
    if hold is None:
        return "the legacy accepts writes; the base cannot be reached"
    if hold.opening or not release_source(plan, CutoverKind.CUTOVER, hold.owner):
        raise CutoverError(
            "the base accepts writes, or was about to, and cannot be reached",
            where=plan.relation,
            state_left="the legacy goes on refusing writes: two sides that accept them could never be reconciled",
            next_step="bring the base back, then run this again",
        )
    return "the legacy accepts writes again: the base was never opened; run this again when the base is back"


def _knows_cutovers(base: Connected) -> bool:
    row = base.execute("SELECT to_regclass('migration.cutovers') IS NOT NULL").fetchone()
    return bool(require_row(row, "to_regclass")[0])
