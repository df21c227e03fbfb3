"""A step is stopped at a moment, something happens meanwhile, and it goes on: drills for servers and for hangs."""

import os
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import psutil
import psycopg

from migration_assets.embedded.servers import EmbeddedServers, ServerName
from migration_assets_tests.convergence.workload import Writer, writing
from migration_assets_tests.crashes.child import Child, Ended
from migration_assets_tests.crashes.judge import WRITERS, Judge
from migration_assets_tests.crashes.trap import Point
from migration_assets_tests.freezes import patience
from migration_assets_tests.ground import wait_for


@contextmanager
def stopped(judge: Judge, step: str, point: Point) -> Generator[Child]:
    """A step that stands still at the point; it is gone at the end, whatever happens. The stage is set already."""
    child = judge.child(step, point, "freeze")
    process = psutil.Process(child.pid)
    try:
        wait_for(lambda: _is_stopped(process), f"{step} stops at {point}")
        yield child
    finally:
        if process.is_running():
            os.kill(child.pid, signal.SIGKILL)
        child.wait()


def _is_stopped(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        raise AssertionError("it ended before that moment") from None


def go_on(child: Child) -> None:
    """Wake it."""
    os.kill(child.pid, signal.SIGCONT)


@contextmanager
def writing_on(url: str, seed: object) -> Generator[None]:
    """A writer that comes back whenever its server does.

    Raises:
        AssertionError: It met an error that a lost server does not explain.
    """
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        number = 0
        while not stop.is_set():
            writer = Writer(url, str(seed), number, stop)
            writer.run()
            failures.extend(error for error in writer.traffic.failures if not _is_loss(error))
            number += 2
            stop.wait(0.05)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(patience(60))
    assert not failures, failures


def _is_loss(error: BaseException) -> bool:
    # psycopg swallows an error of ROLLBACK itself and lets Rollback through: only on a dead connection.
    return isinstance(error, (psycopg.OperationalError, psycopg.Rollback))


def crash_server(judge: Judge, pair: EmbeddedServers, step: str, point: Point, server: ServerName) -> Ended:
    """kill -9 of a server while the step stands at the point; the step goes on, or is repeated.

    Returns:
        How the step ended by itself.
    """
    judge.set_stage(step)
    with writing_on(judge.migration.databases.legacy_url, judge.random.random()):
        time.sleep(0.05)
        with stopped(judge, step, point) as child:
            pair.kill(server)
            pair.start()
            go_on(child)
            ended = child.wait()
        judge.require_nobody_held()
        judge.require_gone()
        said = judge.back(step, "again", ended)
    print(f"{step}, {point} without {server}: {'failed, ' if ended.failed else ''}{ended.said}; then {said}")
    judge.conclude(step)
    return ended


@contextmanager
def stopped_under_traffic(judge: Judge, step: str, point: Point) -> Generator[tuple[Child, list[float]]]:
    """As `stopped`, with the stage set and writers at work; the list has their longest waits, ms, when all is over."""
    judge.set_stage(step)
    waits: list[float] = []
    with writing(judge.migration.databases.legacy_url, judge.random.random(), writers=WRITERS) as traffic:
        time.sleep(0.1)
        with stopped(judge, step, point) as child:
            yield child, waits
    waits += sorted(traffic.waits)[-3:]
