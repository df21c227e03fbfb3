"""Strikes a week that leaves the base, looks for its rows at once, runs the same again and compares everything.

All of it: `python -m migration_assets_tests.crashes.retiring [--seed N] [--steps retire,return]`.
"""

import argparse
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random, SystemRandom

from migration_assets.domain.states import SliceState
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.ledger.retirements import Step
from migration_assets.postgres.sessions import Databases
from migration_assets.retirement.checks import late_bookings
from migration_assets_tests.crashes.child import Ended, Nursery, Task
from migration_assets_tests.crashes.retiring_child import LEAVING, NUMBER, retiring_nursery
from migration_assets_tests.crashes.steps import crash_migration
from migration_assets_tests.crashes.trap import Point, points_of
from migration_assets_tests.ground import Ground, wait_for
from migration_assets_tests.retirement.signed_off_quarter import Departure, leaf
from migration_assets_tests.retirement.writers_elsewhere import ROWS, writing
from migration_assets_tests.server_pairs import quick_pair

_FINAL = {"retire": Step.QUARANTINED, "retire at once": Step.DROPPED, "drop": Step.DROPPED, "return": Step.RETURNED}
_LEFT = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
AND application_name ~ '^migration_assets:' AND backend_type <> 'logical replication worker'
"""
_GONE_SECONDS = 10.0


@dataclass
class Struck:
    """One pair of databases; `rows` are the week's, which never change."""

    departure: Departure
    nursery: Nursery
    random: Random
    rows: list[str]

    @property
    def ground(self) -> Ground:
        return self.departure.ground

    def child(self, step: str, point: Point | None = None) -> Ended:
        databases = self.ground.databases
        lag = self.random.choice([0.0, 0.0005, 0.002, 0.006, 0.02])
        return self.nursery.start(
            lambda log: Task(step, databases.legacy_url, databases.base_url, log, point, "kill", lag)
        ).wait()

    def record(self, step: str) -> list[str]:
        """The statements of an undisturbed run."""
        self.set_stage(step)
        ended = self.child(step)
        assert not ended.failed, f"{step} without a blow: {ended.said}"
        self.conclude(step)
        return ended.labels

    def strike(self, step: str, point: Point, *, again: bool = False) -> bool:
        """One blow while others write, from the stage to the comparison; whether it fell."""
        self.set_stage(step)
        with writing(self.ground, self.random.randrange(10**6), NUMBER):
            ended = self.child(step, point)
            self.require_gone()
            self.look(step)
            if again and ended.labels:
                self.child(step, Point(self.random.choice(ended.labels)))
                self.require_gone()
                self.look(step)
            self.run_again(step)
        self.conclude(step)
        return ended.signal != 0

    def run_again(self, step: str) -> None:
        """The same call, in this process; what was done completely already says so."""
        databases = self.ground.databases
        if step == "return" and self.departure.state(NUMBER) is not SliceState.RETIRED:
            return
        LEAVING[step].run(crash_migration(databases.legacy_url, databases.base_url))

    def set_stage(self, step: str) -> None:
        """The week archived and under CDC, or in quarantine."""
        departure = self.departure
        retirement = departure.retirement(NUMBER)
        if departure.state(NUMBER) is SliceState.RETIRED and retirement is not None:
            if retirement.step is Step.DROPPED:
                self.bring_back()
            else:
                departure.give_back(NUMBER)
        if not self.ground.record(NUMBER).under_cdc:
            departure.take_in(NUMBER)
        if LEAVING[step].stage == "quarantined":
            departure.retire(NUMBER)

    def bring_back(self) -> None:
        """A dropped week, from the legacy: what a restore does from the archive."""
        self.ground.run("base", "UPDATE migration.slices SET state = 'absent' WHERE week = 'W05'")
        self.ground.open()
        self.ground.copy(NUMBER)
        self.departure.take_in(NUMBER)

    def look(self, step: str) -> None:
        """At any moment: every row of the week is in one table of the base, or it was dropped as it was meant to."""
        found = self.ground.ask(
            "base", "SELECT oid::regclass::text FROM pg_class WHERE relname = %s AND relkind = 'r'", leaf(NUMBER)
        )
        retirement = self.departure.retirement(NUMBER)
        if not found:
            assert retirement is not None
            assert retirement.step is _FINAL[step] is Step.DROPPED
            return
        assert len(found) == 1, found
        rows = self.ground.ask(
            "base",
            f"SELECT row(id, booked_at, guests, price, note)::text FROM {found[0][0]}",  # pyright: ignore[reportArgumentType]
        )
        assert sorted(str(row[0]) for row in rows) == self.rows

    def require_gone(self) -> None:
        """No session of the dead is left on either side."""
        for side in ("legacy", "base"):
            wait_for(lambda side=side: not self.ground.one(side, _LEFT), "sessions of the dead end", _GONE_SECONDS)

    def conclude(self, step: str) -> None:
        """The step is done, whatever had died, and nobody else has lost or gained a row."""
        departure, ground = self.departure, self.ground
        retirement = departure.retirement(NUMBER)
        assert retirement is not None
        assert retirement.step is _FINAL[step]
        if retirement.step is Step.QUARANTINED:
            assert departure.in_quarantine(NUMBER) == self.rows
        elif retirement.step is Step.RETURNED:
            assert departure.state(NUMBER) is SliceState.ARCHIVED
            assert ground.contents("base", NUMBER) == self.rows
        ground.drain()
        assert departure.drifts() == []
        assert late_bookings(ground.plan) == []
        for other in range(1, 14):
            if other != NUMBER:
                assert ground.contents("base", other) == ground.contents("legacy", other), f"W{other:02}"
        odd = ground.ask(
            "base", "SELECT week, state FROM migration.slices WHERE week <> 'W05' AND state <> 'signed_off'"
        )
        assert not odd, odd


@contextmanager
def struck(pair: EmbeddedServers, name: str, seed: int) -> Generator[Struck]:
    """Fresh databases of that name with a week that is ready to leave; dropped at the end."""
    for server in ("base", "legacy"):
        pair.recreate_database(server, name)
    departure = Departure.prepared(Ground(Databases(pair.legacy_url(name), pair.base_url(name))).fill(ROWS), NUMBER)
    with retiring_nursery() as children:
        yield Struck(departure, children, Random(seed), departure.ground.contents("base", NUMBER))
    pair.drop_database("base", name)
    pair.drop_database("legacy", name)


def main() -> int:
    """Strike every step at every statement; 1 where one did not end as it should."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(10**6))
    parser.add_argument("--steps", default=",".join(LEAVING), help="which of them, with commas in between")
    parser.add_argument("--share", type=float, default=1.0, help="strike at this share of the points, drawn")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    failures: list[str] = []
    with quick_pair() as pair:
        for step in arguments.steps.split(","):
            with struck(pair, "retiring", arguments.seed) as place:
                every = points_of(place.record(step))
                for point in sorted(place.random.sample(every, round(arguments.share * len(every)))):
                    began, again = time.monotonic(), place.random.random() < 0.2
                    try:
                        fell = place.strike(step, point, again=again)
                    except Exception as error:  # noqa: BLE001 - the others are to be tried all the same
                        failures.append(f"{step}: {point}: {type(error).__name__}: {error}")
                        print(f"FAILED {failures[-1]}", flush=True)
                    else:
                        how = "fell" if fell else "was not reached"
                        print(f"ok {step}: {point} {how}; {time.monotonic() - began:.1f} s", flush=True)
    print("\n".join([f"{len(failures)} failures", *failures]))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
