"""Many cutovers and rollbacks in one life, with the contents hashed by the client, as text, after each."""

import tempfile
import time
from pathlib import Path
from random import Random

from migration_assets.embedded.servers import EmbeddedServers
from migration_assets_tests.adversarial.applications import World, applications
from migration_assets_tests.adversarial.judge import columns_of, digest, rows_of
from migration_assets_tests.adversarial.life import FaultFound, Life
from migration_assets_tests.adversarial.lives import told
from migration_assets_tests.adversarial.mob import Mob
from migration_assets_tests.adversarial.table import SIDES, Side, create_table, migration_of
from migration_assets_tests.adversarial.whole import proven
from migration_assets_tests.convergence.ordeal import fresh_databases


def switch_over(servers: EmbeddedServers, seed: int, times: int) -> list[str]:
    """As often as that, there and back in turn, under writers; the hash of both sides after each.

    Raises:
        AssertionError: One was refused, the sides differ, or something acknowledged is not there.
    """
    hashes: list[str] = []
    with fresh_databases(servers) as urls, tempfile.TemporaryDirectory(prefix="life-") as folder:
        create_table(urls[0])
        world = World(*urls, servers)
        world.journal.begin(rows_of(world.legacy_url).items())
        life = Life(migration_of(*urls, Path(folder)), world, Mob(world, Random(seed)), Random(seed))
        try:
            with applications(world, seed) as life.crowd:
                proven(life)
                for _ in range(times):
                    target: Side = "base" if world.side == "legacy" else "legacy"
                    if not life.switch(to=target):
                        world.fault(f"the {target} could not be put in charge")
                    before = world.journal.acknowledged[target]
                    give_up = time.monotonic() + 20
                    while world.journal.acknowledged[target] < before + 5 and time.monotonic() < give_up:
                        time.sleep(0.01)
                    with life.rest():
                        life.look(f"after switchover {len(hashes) + 1}")
                        names = columns_of(world.url())
                        here, there = (digest(rows_of(world.url(side), names)) for side in SIDES)
                        if here != there:
                            world.fault(
                                f"after switchover {len(hashes) + 1}: {here} on the legacy, {there} on the base"
                            )
                        hashes.append(here)
        except FaultFound:
            pass
        if world.faults:
            raise AssertionError(told(life, seed))
    return hashes
