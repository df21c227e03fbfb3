"""`status --watch` on a real terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
import time

from migration_assets_tests.freezes import patience
from migration_assets_tests.terminal.live_quarter import LiveQuarter

# Ctrl-C works, also where this test's own caller ignores SIGINT, which children inherit.
_PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from migration_assets.cli import main
main()
"""


def _read_until(terminal: int, text: str, seconds: float = 30.0) -> str:
    seen, began = b"", time.monotonic()
    while text.encode() not in seen:
        assert time.monotonic() - began < patience(seconds), (
            f"waited {seconds:g} s in vain for {text!r}: {seen[-500:]!r}"
        )
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 65536)
    return seen.decode(errors="replace")


def test_the_dashboard_fills_the_terminal_and_gives_it_back_at_ctrl_c(quarter: LiveQuarter) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, **quarter.environment, "COLUMNS": "80", "LINES": "30", "TERM": "xterm-256color"}
    command = [sys.executable, "-c", _PROGRAM, "status", "--watch", "--every", "0.2"]
    watch = subprocess.Popen(
        command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    try:
        shown = _read_until(ours, "FY25-Q2")
        assert "\x1b[?1049h" in shown, "the terminal's other screen"
        assert "stream live" in shown
        watch.send_signal(signal.SIGINT)
        _read_until(ours, "\x1b[?1049l")
        assert watch.wait(patience(20)) == 0
    finally:
        if watch.poll() is None:
            watch.kill()
            watch.wait()
        os.close(theirs)
        os.close(ours)
