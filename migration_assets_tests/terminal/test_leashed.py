"""What the page's process started ends with it, also when nobody could tell it to."""

import subprocess
import sys
from pathlib import Path

import psutil

from migration_assets.terminal.ui import take_ui_lock
from migration_assets_tests.freezes import patience

_STARTS = """
import subprocess, sys, time
from pathlib import Path
from migration_assets.terminal.ui import take_ui_lock
child = subprocess.Popen([sys.executable, "-m", "migration_assets.terminal.leashed", *sys.argv[2:]],
                         stdin=subprocess.PIPE, pass_fds=(take_ui_lock(Path(sys.argv[1])),), process_group=0)
print(child.pid, flush=True)
child.wait()
print(child.returncode, flush=True)
"""


def started(var: Path, *module: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _STARTS, str(var), *module]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_what_a_killed_process_had_started_ends_and_lets_go_of_the_lock(tmp_path: Path) -> None:
    with started(tmp_path, "http.server", "--bind", "127.0.0.1", "0") as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        assert psutil.wait_procs([child], timeout=patience(30))[1] == []
    take_ui_lock(tmp_path)


def test_a_module_has_its_arguments_and_its_own_end(tmp_path: Path) -> None:
    with started(tmp_path, "http.server", "--no-such-option") as parent:
        assert parent.stdout is not None
        assert parent.stdout.read().splitlines()[-1] == "2"
