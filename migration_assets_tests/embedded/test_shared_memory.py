"""Servers that go leave nothing in the kernel: else a machine runs out of it, and no PostgreSQL starts any more."""

import ctypes
import os
import secrets
import time
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

from migration_assets.domain.errors import EmbeddedServerError
from migration_assets.embedded.cluster import create_cluster, free_shared_memory, segment_of
from migration_assets.embedded.processes import Binaries, pid_file_lines
from migration_assets.embedded.servers import EmbeddedServers

_CREATE = 0o1000 | 0o2000 | 0o600  # IPC_CREAT, IPC_EXCL
Segment = tuple[int, int]
_libc = ctypes.CDLL(None)


@pytest.fixture
def segment() -> Generator[Segment]:
    """Key and number of a piece that no server uses."""
    key = secrets.randbelow(2**30) + 2
    number = _libc.shmget(key, 56, _CREATE)
    assert number >= 0
    yield key, number
    _libc.shmctl(number, 0, None)


def is_there(segment: Segment) -> bool:
    return _libc.shmget(segment[0], 0, 0) == segment[1]


def remains(data: Path, key: int, number: int, started: float) -> Path:
    """A data folder's `postmaster.pid`, as a killed server left it."""
    data.mkdir(parents=True)
    lines = ["999999", str(data), str(int(started)), "5432", "", "127.0.0.1", f"{key:9d} {number:9d}", "ready   "]
    (data / "postmaster.pid").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return data


@pytest.mark.long
@pytest.mark.parametrize("killed", [False, True], ids=["running", "killed"])
def test_removed_servers_leave_nothing_in_the_kernel(fresh: tuple[EmbeddedServers, Path], killed: bool) -> None:
    pair, _ = fresh
    pair.start()
    used: list[Segment] = []
    for status in pair.status():
        key, number = (int(word) for word in pid_file_lines(status.data_folder)[6].split())
        used.append((key, number))
        assert segment_of(status.data_folder) == number
        maps = Path(f"/proc/{status.pid}/maps")
        if os.access(maps, os.R_OK):
            assert "shm/PostgreSQL." not in maps.read_text(encoding="utf-8")
    if killed:
        pair.kill("legacy")
        pair.kill("base")
    assert all(is_there(one) for one in used), "a killed server frees nothing"
    pair.remove()
    assert not any(is_there(one) for one in used)


def test_what_a_killed_server_left_is_freed_once(tmp_path: Path, segment: Segment) -> None:
    data = remains(tmp_path / "data", *segment, time.time())
    free_shared_memory(data)
    assert not is_there(segment)
    free_shared_memory(data)
    free_shared_memory(tmp_path / "no such folder")


@pytest.mark.parametrize(("started", "off"), [(time.time(), 1), (psutil.boot_time() - 9, 0)], ids=["number", "boot"])
def test_what_may_be_somebody_elses_is_left_alone(tmp_path: Path, segment: Segment, started: float, off: int) -> None:
    data = remains(tmp_path / "data", segment[0], segment[1] + off, started)
    assert segment_of(data) is None
    free_shared_memory(data)
    assert is_there(segment)


def test_a_half_made_cluster_leaves_nothing_either(tmp_path: Path, segment: Segment) -> None:
    """A kill of initdb, while it ran a server of its own."""
    remains(tmp_path / "initdb-killed" / "data", *segment, time.time())
    no_programs = Binaries(16, tmp_path / "no programs")
    with pytest.raises(EmbeddedServerError, match="initdb"):
        create_cluster(tmp_path, no_programs, None, "secret", sync=False)
    assert not is_there(segment)
