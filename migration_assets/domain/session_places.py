"""How many sessions each step opens on each side, and how many weeks at once fit within a limit.

A test counts the sessions that really run, so this table matches what the servers see. WAL senders and apply workers
are not counted: servers have separate limits for them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from migration_assets.domain.errors import SettingsError


@dataclass(frozen=True)
class Places:
    """Sessions on each side."""

    legacy: int
    base: int

    def __add__(self, other: "Places") -> "Places":
        """The sessions of both at the same time."""
        return Places(self.legacy + other.legacy, self.base + other.base)

    def __mul__(self, times: int) -> "Places":
        """The sessions of `times` of them at the same time."""
        return Places(self.legacy * times, self.base * times)

    def fits(self, limits: "SessionLimits") -> bool:
        """Whether no limit is exceeded."""
        return all(
            not most or needed <= most for needed, most in ((self.legacy, limits.legacy), (self.base, limits.base))
        )


@dataclass(frozen=True)
class SessionLimits:
    """The highest number of sessions on each side; 0 means no limit."""

    legacy: int = 0
    base: int = 0


class WeekStep(StrEnum):
    """A step on one week; several such steps run at once."""

    COPY = "copy"
    LIVE_COPY = "copy under CDC"
    VALIDATION = "validation"
    REPAIR = "repair"


class WholeStep(StrEnum):
    """A step on many weeks that works on several of them at once; only one such step runs at a time."""

    JOIN = "join or rebuild"
    RECONCILIATION = "reconciliation"
    CUTOVER = "cutover"


# A copy and its throttle; under CDC also a cut: lock, marker and snapshot on the legacy, and the pause on the base.
PER_WEEK: Mapping[WeekStep, Places] = {
    WeekStep.COPY: Places(2, 2),
    WeekStep.LIVE_COPY: Places(5, 3),
    WeekStep.VALIDATION: Places(3, 3),
    WeekStep.REPAIR: Places(3, 2),
}
# A step's own sessions, and those for each week that it works on.
WHOLE: Mapping[WholeStep, tuple[Places, Places]] = {
    WholeStep.JOIN: (Places(4, 2), Places(1, 1)),
    WholeStep.RECONCILIATION: (Places(3, 3), Places(1, 1)),
    WholeStep.CUTOVER: (Places(4, 4), PER_WEEK[WeekStep.VALIDATION]),
}
# Sensors and the status page, if they all look at the same time.
WATCHING = Places(2, 4)


def needed(weeks: int) -> Places:
    """The most sessions that are open while `weeks` weeks are worked on beside one step on many weeks.

    Args:
        weeks: Number of weeks at once, at least 1.
    """
    whole = [own + each * weeks for own, each in WHOLE.values()]
    return _most(PER_WEEK.values()) * weeks + _most(whole) + WATCHING


def needed_by_copies(weeks: int) -> Places:
    """The sessions of first copies alone, of a quarter that is not under CDC yet.

    Args:
        weeks: Number of weeks at once, at least 1.
    """
    return PER_WEEK[WeekStep.COPY] * weeks + WATCHING


def weeks_at_once(wanted: int, limits: SessionLimits) -> int:
    """The number of weeks at once: as many as wanted, or fewer if the limits have no room for them.

    Args:
        wanted: MIGRATION_PARALLEL_COPIES.
        limits: The limits of both sides.

    Raises:
        SettingsError: Not even one week fits.
    """
    fitting = [weeks for weeks in range(1, wanted + 1) if needed(weeks).fits(limits)]
    if fitting:
        return fitting[-1]
    least = needed(1)
    raise SettingsError(
        f"{_limit_text(limits.legacy)} sessions on the legacy and {_limit_text(limits.base)} on the base leave no room"
        f" for a single week: it needs {least.legacy} and {least.base}",
        where="settings",
        state_left="nothing was touched",
        next_step=f"set MIGRATION_LEGACY_SESSIONS to {least.legacy} or more and MIGRATION_BASE_SESSIONS to {least.base}"
        " or more; or to 0, for no limit",
    )


def _limit_text(limit: int) -> str:
    return str(limit) if limit else "any number of"


def _most(of: Iterable[Places]) -> Places:
    """On each side the number of the step that opens most there."""
    places = list(of)
    return Places(max(one.legacy for one in places), max(one.base for one in places))
