"""Runs a module as a process that ends with the one that started it, however that one ends: also by kill -9.

python -m migration_assets.terminal.leashed MODULE ARGUMENT…

Its standard input is a pipe from that process: the pipe's end says that nobody is left to stop it.
"""

import os
import runpy
import signal
import sys
import threading
import time

GOODBYE_SECONDS = 60.0


def main() -> None:
    """Become the module, with its arguments, under a thread that waits for the end of standard input."""
    leash = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # what the module starts must not read from it, nor keep it
    os.close(nothing)
    threading.Thread(target=_follow, args=(leash,), daemon=True).start()
    module = sys.argv[1]
    sys.argv = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _follow(leash: int) -> None:
    while os.read(leash, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GOODBYE_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
