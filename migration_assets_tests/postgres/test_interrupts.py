"""One interrupt gets through, at a moment that allows it, and everything is as before afterwards."""

import signal
import threading
from collections.abc import Generator

import pytest

from migration_assets.postgres.retries import Interrupted, interruptible

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _as_found(ordinary_signals: None) -> Generator[None]:  # noqa: ARG001 - the order matters
    before = [signal.getsignal(one) for one in SIGNALS]
    yield
    assert [signal.getsignal(one) for one in SIGNALS] == before


@pytest.mark.parametrize("one", SIGNALS)
def test_the_first_one_gets_through_and_no_other(one: signal.Signals) -> None:
    with interruptible():
        with pytest.raises(Interrupted, match=one.name):
            signal.raise_signal(one)
        for other in SIGNALS:
            signal.raise_signal(other)


def test_none_gets_through_while_none_is_allowed() -> None:
    with interruptible() as interrupts:
        interrupts.allowed = False
        signal.raise_signal(signal.SIGTERM)
        interrupts.allowed = True
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)


def test_one_that_is_ignored_goes_on_being_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_nothing_is_taken() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def work() -> None:
        with interruptible():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
