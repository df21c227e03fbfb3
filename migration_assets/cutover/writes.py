"""Whether the two sides accept writes, and what is wrong where the side that they belong to does not."""

from dataclasses import dataclass
from datetime import datetime

from migration_assets.cutover.holds import Hold, is_overdue, read_hold
from migration_assets.domain.cutover_state import SideName
from migration_assets.domain.table_spec import TableSpec
from migration_assets.ledger.cutover_facts import CutoverFacts
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.quarters.fences import HOLD, gaps, is_held

_RELEASE = "`migration-assets release-writes` (or the same cutover or rollback again) finishes or undoes it"


@dataclass(frozen=True)
class HeldWrites:
    """No side accepts writes, or none that is known of.

    `side` is the one that should; `since` by its own clock, `seconds` ago. `alive`: whether the process that holds
    them works (None: not known); one that still holds them when its timeout is over does not.
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
    """One side at one moment, by its own clock.

    Attributes:
        exists: There is such a table.
        refuses: Who writes in the ordinary way is refused.
        gaps: Why not everybody is; empty for a hold that holds everybody.
        hold: What is noted of the hold.
        seconds: For how long it has been held.
    """

    exists: bool
    refuses: bool
    gaps: tuple[str, ...]
    hold: Hold | None
    seconds: float | None


def read_writes(connection: Connected, spec: TableSpec) -> SideWrites:
    """Ask the side; needs no right on anything but the catalogue, and leaves it as it is."""
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL, clock_timestamp()", [str(spec.table)]).fetchone()
    exists, now = require_row(row, "the table")
    refuses = is_held(connection, spec.table)
    hold = read_hold(connection, spec.relation) if refuses else None
    seconds = (now - hold.held_at).total_seconds() if hold else None
    return SideWrites(exists, refuses, gaps(connection, spec.table), hold, seconds)


def find_held(facts: CutoverFacts, base: SideWrites, legacy: SideWrites | None) -> HeldWrites | None:
    """What is wrong with the side in charge; `legacy` None: it could not be asked."""
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
        return _held(side, writes, None, "nobody noted why", f"ALTER TABLE … DISABLE TRIGGER {HOLD}")
    return _held(side, writes, False, "no cutover is under way", _RELEASE)


def find_held_alone(legacy: SideWrites, error: str) -> HeldWrites | None:
    """The same where the base cannot be asked."""
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
