"""Runs a module in a process that ends when the process that started it ends, even by kill -9.

    python -m migration_assets.terminal.leashed MODULE ARGUMENT…

Standard input is a pipe from the starting process. When the pipe is closed, that process is gone.
"""

import os
import runpy
import signal
import sys
import threading
import time

GOODBYE_SECONDS = 60.0


def main() -> None:
    """Run the module with its arguments, while a thread waits for the end of standard input."""
    leash = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # the module and its children must neither read from the pipe nor keep it open
    os.close(nothing)
    threading.Thread(target=_end_with_parent, args=(leash,), daemon=True).start()
    module = sys.argv[1]
    sys.argv = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_with_parent(leash: int) -> None:
    while os.read(leash, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GOODBYE_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
