"""How fresh the last validation of a slice is: never, changed since, failed, too old, or fresh. Pure: no clock.

What the change stream applies is exact by construction and makes nothing stale; it is counted and shown. What we put
in ourselves (copy, join, live re-copy, repair, rebuild) does, and so do age and whoever alters or rewrites a table.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


class Freshness(StrEnum):
    """What the last validation still says of a slice; only `fresh` proves anything."""

    NEVER = "never validated"
    CHANGED = "changed since"
    ALTERED = "table altered since"
    FAILED = "failed"
    OLD = "too old"
    FRESH = "fresh"


@dataclass(frozen=True)
class LastValidation:
    """The ledger's facts on the last validation of one slice; times are aware, all by the base's clock.

    Attributes:
        at: When it was validated; None for never.
        equal: Whether both sides were equal then; unknown counts as no.
        changed_at: When we last put rows in.
        stream_changes: Row changes that the stream applied since then; None where that is not known.
        altered: What was done to the tables themselves since then, in words; None for nothing that is known.
    """

    at: datetime | None
    equal: bool | None
    changed_at: datetime | None
    stream_changes: int | None = None
    altered: str | None = None

    def freshness(self, *, now: datetime, max_age: timedelta) -> Freshness:
        """The verdict; exactly `max_age` is fresh, and so is a validation of the very moment of the change."""
        if self.at is None:
            return Freshness.NEVER
        # Before `failed`: after a repair the failure is over, and what is missing is a look at the result.
        if self.changed_at is not None and self.changed_at > self.at:
            return Freshness.CHANGED
        if self.equal is not True:
            return Freshness.FAILED
        # No stream brings what a rewrite does to rows, and no server counts it.
        if self.altered:
            return Freshness.ALTERED
        # Absolute: a clock that was set back must not keep a validation fresh for ever.
        return Freshness.OLD if abs(now - self.at) > max_age else Freshness.FRESH

    def describe(self, *, now: datetime, max_age: timedelta) -> str:
        """One line, e.g. `validated at 2024-06-24 12:00 UTC, 3 h ago; since then 1,204 changes by the stream`."""
        if self.at is None:
            return "never validated"
        equal = self.equal is True
        head = f"{'validated' if equal else 'validation FAILED'} at {instant_text(self.at)}, {_ago(self.at, now)}"
        match self.freshness(now=now, max_age=max_age):
            case Freshness.CHANGED if self.changed_at is not None:
                return f"{head}; changed by us since then, at {instant_text(self.changed_at)}: not validated anew"
            case Freshness.ALTERED:
                return f"{head}; stale: {self.altered} since then"
            case Freshness.OLD:
                word = "older" if self.at <= now else "further"
                return f"{head}: {word} than {span_text(max_age)}{self._by_the_stream()}"
            case _:
                return head + self._by_the_stream()

    def _by_the_stream(self) -> str:
        if self.stream_changes is None:
            return ""
        changes = {0: "no changes", 1: "1 change"}.get(self.stream_changes, f"{self.stream_changes:,} changes")
        return f"; since then {changes} by the stream"


def changes_since(then: int | None, now: int | None) -> int | None:
    """The growth of a leaf's counter of changes; None where one is missing, or it was reset (a crash does that)."""
    if then is None or now is None or now < then:
        return None
    return now - then


def instant_text(moment: datetime) -> str:
    """`2024-06-24 12:00 UTC`, whatever zone the moment is given in."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def span_text(span: timedelta) -> str:
    """A length of time, rounded down: `40 s`, `12 min`, `3 h`, from two days on `5 d`."""
    seconds = int(span.total_seconds())
    if seconds < _MINUTE:
        return f"{seconds} s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE} min"
    if seconds < 2 * _DAY:
        return f"{seconds // _HOUR} h"
    return f"{seconds // _DAY} d"


def _ago(moment: datetime, now: datetime) -> str:
    return f"{span_text(now - moment)} ago" if moment <= now else f"{span_text(moment - now)} ahead of the clock"
