"""The piece of shared memory that a killed server leaves in the kernel, until its folder's next start frees it.

Where the folder goes instead, nobody would: a machine has room for some thousands (4,096 on Linux, 32 on macOS), and
then no PostgreSQL starts on it any more, until it is booted.
"""

import ctypes
from pathlib import Path

import psutil

from migration_assets.embedded.processes import pid_file_lines

_START_LINE, _MEMORY_LINE = 2, 6
_REMOVE = 0  # IPC_RMID


def free_shared_memory(data: Path) -> None:
    """Free what `postmaster.pid` names, if it is still there; nothing happens after a clean stop.

    Call it when no process of the server is left.
    """
    found = segment_of(data)
    if found is not None:
        _libc().shmctl(found, _REMOVE, None)


def segment_of(data: Path) -> int | None:
    """The kernel's number of it; None where the file names none, or one that is gone, or of before the last boot."""
    lines = pid_file_lines(data)
    if len(lines) <= _MEMORY_LINE or not lines[_MEMORY_LINE] or float(lines[_START_LINE]) < psutil.boot_time():
        return None
    key, number = (int(word) for word in lines[_MEMORY_LINE].split())
    # Both must agree: a number alone may have been given to somebody else since.
    return number if _libc().shmget(ctypes.c_int(key), 0, 0) == number else None


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.shmget.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_int]
    libc.shmctl.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    return libc
