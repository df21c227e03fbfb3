"""Whether anybody still reads the legacy's table, judged from counters that only grow. Pure: no clock.

While the base is in charge nobody writes to the legacy but the reverse stream's apply worker, whose index scans are
known: one for each row that it updates or deletes. Whatever is counted beyond that (`excess`) is a client's read.

A backend tells the statistics of a table and of its indexes one after the other, and what is busy at that moment up to
ten seconds later; so that an excess is believed only where two looks, further apart than that, both see it. It can be
seen one look late, never lost: the counters go on between the looks. The counting begins at the middle value of three
looks: whichever single one of them is off, that is no more than there was at the third, and no less than at the first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Self

APART = timedelta(seconds=11)
"""A server tells what it could not tell at once within ten seconds (PGSTAT_IDLE_INTERVAL)."""


@dataclass(frozen=True)
class Counted:
    """The legacy's statistics at one look.

    Attributes:
        life: What changes when the statistics begin anew: the times of their resets.
        raw: Counters that never go back within one life.
        excess: By table and index: scans that the apply worker does not explain. It may be off for a moment.
        reading: Clients that have the table locked now: they read it, whatever is counted.
        suspects: Those, and clients whose last statement since the look before names the table.
    """

    life: str
    raw: Mapping[str, int]
    excess: Mapping[str, int]
    reading: Sequence[str] = ()
    suspects: Sequence[str] = ()


@dataclass(frozen=True)
class Memory:
    """What one look hands to the next; `accepted` is None until three looks say where the counting begins.

    `earlier` is the first one's excess, once the second is there.
    """

    life: str
    raw: Mapping[str, int]
    excess: Mapping[str, int]
    excess_at: datetime
    accepted: Mapping[str, int] | None = None
    suspects: str = ""
    earlier: Mapping[str, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """For the ledger."""
        return {
            "life": self.life, "raw": dict(self.raw), "excess": dict(self.excess),
            "excess_at": self.excess_at.isoformat(), "suspects": self.suspects,
            "accepted": None if self.accepted is None else dict(self.accepted),
            "earlier": None if self.earlier is None else dict(self.earlier),
        }  # fmt: skip

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self | None:
        """Back from there; None where it says nothing that can be used."""
        try:
            return cls(stored["life"], stored["raw"], stored["excess"], datetime.fromisoformat(stored["excess_at"]),
                       stored["accepted"], stored["suspects"], stored.get("earlier"))  # fmt: skip
        except (KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True)
class ReadWatch:
    """What is known of the legacy's readers; times are by the base's clock.

    `watched_since`: nothing can have been missed since. `unsettled`: this look saw more than is believed yet, or a
    client whose last statement names the table and may not be in the statistics yet.
    """

    watched_since: datetime
    seen_at: datetime
    last_read_at: datetime | None
    last_reader: str | None
    memory: Memory | None = field(default=None, repr=False)
    unsettled: bool = False


def watched(before: ReadWatch | None, counted: Counted, at: datetime, *, apart: timedelta = APART) -> ReadWatch:
    """What is known after one more look.

    Args:
        before: After the look before; None at the first.
        counted: What was seen now.
        at: When, by the base's clock.
        apart: How far apart two looks must be for an excess to be believed.
    """
    memory = before.memory if before else None
    if before is None or memory is None or memory.life != counted.life or _went_back(memory.raw, counted.raw):
        return _from_here(before, counted, at)
    suspects = ", ".join(counted.suspects) or memory.suspects
    last_read_at, last_reader = before.last_read_at, before.last_reader
    if counted.reading:
        last_read_at, last_reader = at, ", ".join(counted.reading)
    if at - memory.excess_at < apart:
        after = replace(memory, raw=counted.raw, suspects=suspects)
        unsettled = memory.accepted is None or bool(counted.suspects) or _beyond(counted.excess, memory.accepted)
        return ReadWatch(before.watched_since, at, last_read_at, last_reader, after, unsettled)
    if memory.accepted is None:
        if memory.earlier is None:
            after = Memory(counted.life, counted.raw, counted.excess, at, None, suspects, memory.excess)
            return ReadWatch(at, at, last_read_at, last_reader, after, unsettled=True)
        # Only now is it known what was there before: a read between these looks cannot be told from it.
        accepted = {
            name: sorted((memory.earlier.get(name, 0), memory.excess.get(name, 0), now))[1]
            for name, now in counted.excess.items()
        }
        after = Memory(counted.life, counted.raw, counted.excess, at, accepted, suspects)
        return ReadWatch(at, at, last_read_at, last_reader, after)
    both = {name: sorted((memory.excess.get(name, 0), now)) for name, now in counted.excess.items()}
    accepted = dict(memory.accepted)
    read = False
    for name, (low, high) in both.items():
        known = accepted.get(name, 0)
        if low > known:
            read, accepted[name] = True, low
        elif high < known:
            accepted[name] = high  # what was believed at the beginning had been off
    if read and not counted.reading:
        last_read_at = at
        last_reader = suspects or "not known: whoever it was had gone at the look"
    after = Memory(counted.life, counted.raw, counted.excess, at, accepted, "" if read else suspects)
    unsettled = bool(counted.suspects) or _beyond(counted.excess, accepted)
    return ReadWatch(before.watched_since, at, last_read_at, last_reader, after, unsettled)


def _from_here(before: ReadWatch | None, counted: Counted, at: datetime) -> ReadWatch:
    last = before.last_read_at if before else None
    reader = before.last_reader if before else None
    if counted.reading:
        last, reader = at, ", ".join(counted.reading)
    memory = Memory(counted.life, counted.raw, counted.excess, at, None, ", ".join(counted.suspects))
    return ReadWatch(at, at, last, reader, memory, unsettled=True)


def _went_back(before: Mapping[str, int], now: Mapping[str, int]) -> bool:
    return any(now[name] < count for name, count in before.items() if name in now)


def _beyond(now: Mapping[str, int], accepted: Mapping[str, int]) -> bool:
    return any(count > accepted.get(name, 0) for name, count in now.items())
