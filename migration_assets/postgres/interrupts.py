"""Ctrl-C, a lost terminal and Dagster's Terminate in the middle of a cutover: the first one undoes it, once."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

# Dagster sends the first to its run's process; a closed terminal, a stopped container send the others.
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(KeyboardInterrupt):
    """Somebody wants it to end. A KeyboardInterrupt, since psycopg cancels what a session is doing for that alone."""


class Interrupts:
    """Lets one interrupt through, and none while what is under way must end by itself."""

    def __init__(self) -> None:
        self._heard = False
        self.allowed = True

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """The handler. One that comes too late is forgotten: no half-done opening or undoing is worth it."""
        if self._heard or not self.allowed:
            return
        self._heard = True
        raise Interrupted(f"somebody stopped it ({signal.Signals(number).name})")


@contextmanager
def interruptible() -> Generator[Interrupts]:
    """Take the signals while the body runs; outside of the main thread Python gives them to nobody else anyway."""
    guard = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield guard
        return
    # One that is ignored (nohup) goes on being ignored; one that was not set by Python cannot be set back.
    before = {one: signal.getsignal(one) for one in _SIGNALS}
    mine = {one: handler for one, handler in before.items() if handler not in {signal.SIG_IGN, None}}
    try:
        for one in mine:
            signal.signal(one, guard.receive)
        yield guard
    finally:
        for one, handler in mine.items():
            signal.signal(one, handler)
