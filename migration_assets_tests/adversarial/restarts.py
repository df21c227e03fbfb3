"""Enemies that stop a server and start it again: what was acknowledged is there afterwards."""

import signal

import psutil

from migration_assets.embedded.servers import EmbeddedServers, ServerName
from migration_assets_tests.adversarial.mob import Deed, Mob
from migration_assets_tests.ground import wait_for


def restart(mob: Mob) -> str:
    """Fast, at once, or as a power cut; then it accepts connections again."""
    side: ServerName = mob.random.choice(["legacy", "base"])
    how = mob.random.choice(["fast", "immediate", "killed"])
    if how == "killed":
        mob.world.servers.kill(side)
    else:
        _stop(mob.world.servers, side, how)
    mob.world.servers.start()
    return f"of the {side}, {how}"


def _stop(servers: EmbeddedServers, side: ServerName, how: str) -> None:
    """A fast stop waits until its subscribers have everything: where they rest, it becomes an immediate one."""
    pid = next(status.pid for status in servers.status() if status.name == side)
    assert pid is not None, f"the {side} does not run"
    postmaster = psutil.Process(pid)
    children = postmaster.children()
    if how == "fast":
        postmaster.send_signal(signal.SIGINT)
        if not psutil.wait_procs([postmaster], timeout=5)[1]:
            return
    postmaster.send_signal(signal.SIGQUIT)
    wait_for(lambda: not psutil.wait_procs([postmaster, *children], timeout=0.1)[1], f"the {side} has stopped")


RESTARTS: tuple[Deed, ...] = (restart,)
