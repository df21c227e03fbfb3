"""A thread of enemies: one deed after another at random moments, each noted, each finished before the judge looks."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import psycopg

from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets_tests.adversarial.applications import World


@dataclass
class Mob:
    """What enemies know and leave behind.

    Attributes:
        world: Where everybody writes.
        random: Decides what they do.
        closing: What is to be done at its time at the latest: a prepared transaction is committed, a column dropped.
        at_rest: What is to be done once nobody writes and everything has arrived.
        damaged: Weeks whose rows in the base somebody changed behind the product's back, and when.
        following: Whether the stream runs, so that a damage counts as one.
        archived: Rows of the week that has left, as they were then.
        third: Name of a third database on the base's server, where somebody needed one.
    """

    world: World
    random: Random
    closing: list[tuple[float, Callable[[], object]]] = field(default_factory=list[tuple[float, Callable[[], object]]])
    at_rest: list[Callable[[], object]] = field(default_factory=list[Callable[[], object]])
    damaged: dict[FiscalWeek, float] = field(default_factory=dict[FiscalWeek, float])
    following: bool = False
    archived: dict[int, str] = field(default_factory=dict[int, str])
    third: str | None = None
    numbers: int = 0

    def number(self) -> int:
        """One that nobody had."""
        self.numbers += 1
        return self.numbers

    def later(self, longest: float, call: Callable[[], object]) -> None:
        """Do it within so many seconds, or when the judge comes."""
        self.closing.append((time.monotonic() + self.random.uniform(0.05, longest), call))

    def close(self, *, all_of_them: bool) -> None:
        """What is due; or everything."""
        due = [entry for entry in self.closing if all_of_them or entry[0] <= time.monotonic()]
        for entry in due:
            self.closing.remove(entry)
            entry[1]()


Deed = Callable[[Mob], object]


class Enemies(threading.Thread):
    """The mob at work until told to stop; whoever holds `busy` stops it between two deeds."""

    def __init__(self, mob: Mob, deeds: Sequence[Deed], stop: threading.Event, pause: float = 0.25) -> None:
        super().__init__(name="enemies", daemon=True)
        self.mob, self.deeds, self.stop, self.pause = mob, deeds, stop, pause
        self.busy = threading.RLock()

    def run(self) -> None:
        while not self.stop.wait(self.mob.random.uniform(0.02, self.pause)):
            with self.busy:
                try:
                    self.mob.close(all_of_them=False)
                except Exception as error:  # noqa: BLE001 - the judge raises it
                    self.mob.world.fault(f"what an enemy had begun could not be ended: {error!r}")
                if self.deeds:
                    self.do(self.mob.random.choice(self.deeds))

    def do(self, deed: Deed) -> None:
        """One deed; that a server refuses it is no fault of anybody's."""
        name = deed.__name__
        try:
            said = deed(self.mob)
        except psycopg.Error as error:
            self.mob.world.note(f"  enemy: {name} was refused: {type(error).__name__} {str(error).splitlines()[0]}")
        except Exception as error:  # noqa: BLE001 - the judge raises it
            self.mob.world.fault(f"enemy {name} failed: {error!r}")
        else:
            self.mob.world.note(f"  enemy: {name} {said or ''}")
