"""Names every test that is too slow, at the end of a run: no single one may take more than 20 s of a quiet machine."""

import threading
import time
from collections.abc import Generator

import pytest

from migration_assets_tests.freezes import crowding

LONGEST_SECONDS = 20.0
_TICK_SECONDS = 0.1
_NOTE = "too slow"


class SlowTests:
    """A plugin of pytest; in a run with several workers each measures its own, and the summary names all.

    What the machine did not give is not the test's: the time in which nothing ran at all, and the share of its cores
    that others wanted at the same time.
    """

    def __init__(self) -> None:
        self.named: list[tuple[float, str]] = []
        self._frozen_seconds = 0.0
        self._frozen_before = 0.0
        threading.Thread(target=self._tick, name="slow tests", daemon=True).start()

    def _tick(self) -> None:
        before = time.monotonic()
        while True:
            time.sleep(_TICK_SECONDS)
            now = time.monotonic()
            self._frozen_seconds += max(0.0, now - before - 2 * _TICK_SECONDS)
            before = now

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        frozen, self._frozen_before = self._frozen_seconds - self._frozen_before, self._frozen_seconds
        seconds = (call.duration - frozen) / crowding()
        if seconds > LONGEST_SECONDS:
            report.user_properties.append((_NOTE, seconds))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.named += [
            (float(str(seconds)), f"{report.nodeid} ({report.when})")
            for note, seconds in report.user_properties
            if note == _NOTE
        ]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.named:
            return
        terminalreporter.section(f"longer than {LONGEST_SECONDS:g} s", yellow=True)
        for seconds, what in sorted(set(self.named), reverse=True):
            terminalreporter.line(f"{seconds:6.1f} s  {what}: let a few telling cases stay, and mark the rest `soak`")
