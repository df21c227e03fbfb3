"""How many sessions the steps open on each side, and how many weeks at once a limit leaves room for.

A test counts what really runs, so that this table is what the servers see. WAL senders and apply workers are not in it:
servers have places of their own for those.
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
        """Both at once."""
        return Places(self.legacy + other.legacy, self.base + other.base)

    def __mul__(self, times: int) -> "Places":
        """So many of them at once."""
        return Places(self.legacy * times, self.base * times)

    def fits(self, limits: "SessionLimits") -> bool:
        """Whether no limit is exceeded."""
        return all(
            not most or needed <= most for needed, most in ((self.legacy, limits.legacy), (self.base, limits.base))
        )


@dataclass(frozen=True)
class SessionLimits:
    """The most sessions on each side; 0: as many as it takes."""

    legacy: int = 0
    base: int = 0


class WeekStep(StrEnum):
    """A step on one week, of which several run at once."""

    COPY = "copy"
    LIVE_COPY = "copy under CDC"
    VALIDATION = "validation"
    REPAIR = "repair"


class WholeStep(StrEnum):
    """A step on many weeks, which works on several of them at once; one such step runs at a time."""

    JOIN = "join or rebuild"
    RECONCILIATION = "reconciliation"
    CUTOVER = "cutover"


# The copy and its throttle; under CDC also a cut: lock, marker and snapshot on the legacy, the pause on the base.
PER_WEEK: Mapping[WeekStep, Places] = {
    WeekStep.COPY: Places(2, 2),
    WeekStep.LIVE_COPY: Places(5, 3),
    WeekStep.VALIDATION: Places(3, 3),
    WeekStep.REPAIR: Places(3, 2),
}
# Its own sessions, and those for each week that it works on.
WHOLE: Mapping[WholeStep, tuple[Places, Places]] = {
    WholeStep.JOIN: (Places(4, 2), Places(1, 1)),
    WholeStep.RECONCILIATION: (Places(3, 3), Places(1, 1)),
    WholeStep.CUTOVER: (Places(4, 4), PER_WEEK[WeekStep.VALIDATION]),
}
# Sensors and the status page, whichever of them look at the same time.
WATCHING = Places(2, 4)


def needed(weeks: int) -> Places:
    """What is open at the most while so many weeks are worked on, and a step on many weeks beside them.

    Args:
        weeks: At once, at least 1.
    """
    whole = [own + each * weeks for own, each in WHOLE.values()]
    return _most(PER_WEEK.values()) * weeks + _most(whole) + WATCHING


def needed_by_copies(weeks: int) -> Places:
    """What first copies alone open: of a quarter that is not under CDC yet.

    Args:
        weeks: At once, at least 1.
    """
    return PER_WEEK[WeekStep.COPY] * weeks + WATCHING


def weeks_at_once(wanted: int, limits: SessionLimits) -> int:
    """As many weeks as are wanted, or as the limits leave room for.

    Args:
        wanted: MIGRATION_PARALLEL_COPIES.
        limits: Of each side.

    Raises:
        SettingsError: Not even one fits.
    """
    fitting = [weeks for weeks in range(1, wanted + 1) if needed(weeks).fits(limits)]
    if fitting:
        return fitting[-1]
    least = needed(1)
    raise SettingsError(
        f"{_said(limits.legacy)} sessions on the legacy and {_said(limits.base)} on the base leave no room for a single"
        f" week: it needs {least.legacy} and {least.base}",
        where="settings",
        state_left="nothing was touched",
        next_step=f"set MIGRATION_LEGACY_SESSIONS to {least.legacy} or more and MIGRATION_BASE_SESSIONS to {least.base}"
        " or more; or to 0, for no limit",
    )


def _said(limit: int) -> str:
    return str(limit) if limit else "any number of"


def _most(of: Iterable[Places]) -> Places:
    """On each side the number of the step that opens most there."""
    places = list(of)
    return Places(max(one.legacy for one in places), max(one.base for one in places))
