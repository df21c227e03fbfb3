"""The legacy's pg_wal is full, which ends PostgreSQL: it was told before, and nothing is lost once there is room."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from migration_assets.domain.errors import UnavailableError
from migration_assets.domain.samples import ProblemCode, StreamSample, StreamThresholds
from migration_assets.domain.stream_watch import View, evaluate
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.postgres.sessions import Databases
from migration_assets.stream.holding import continue_stream, hold_stream
from migration_assets.watch.look import observe_stream
from migration_assets_tests.ground import IMPATIENT, Ground, wait_for
from migration_assets_tests.limits.small_disks import SmallDisk, small_disk
from migration_assets_tests.server_pairs import quick_pair
from migration_assets_tests.stream.small_stream import QUICK

_DISK_MB = 128


@contextmanager
def wal_on_a_small_disk() -> Generator[tuple[EmbeddedServers, SmallDisk]]:
    limits = {"max_slot_wal_keep_size": "-1", "min_wal_size": "32MB", "max_wal_size": "48MB"}
    with quick_pair(**limits) as pair, small_disk(pair.var, _DISK_MB) as disk:
        pair.stop()
        wal = pair.status()[0].data_folder / "pg_wal"
        shutil.copytree(wal, disk.folder / "pg_wal")
        owner = wal.stat()
        shutil.rmtree(wal)
        wal.symlink_to(disk.folder / "pg_wal")
        for path in (disk.folder / "pg_wal").rglob("*"):
            shutil.chown(path, owner.st_uid, owner.st_gid)
        shutil.chown(disk.folder / "pg_wal", owner.st_uid, owner.st_gid)
        pair.start()
        yield pair, disk
        pair.stop(mode="immediate")


def look(ground: Ground) -> StreamSample:
    return observe_stream(ground.databases, ground.spec, QUICK)


@pytest.mark.long
def test_a_legacy_whose_wal_disk_is_full_told_so_before_and_loses_nothing() -> None:
    with wal_on_a_small_disk() as (pair, disk):
        ground = Ground(Databases(pair.legacy_url(), pair.base_url())).fill(182).streamed()
        ground.run("legacy", "CREATE TABLE other (note text)")
        hold_stream(ground.plan, "lunch")
        first = look(ground)
        much = "INSERT INTO other SELECT repeat(md5(random()::text), 60) FROM generate_series(1, 2000)"
        for _ in range(8):
            ground.run("legacy", "UPDATE bookings SET guests = guests + 1 WHERE id % 7 = 0", much)
        thresholds = StreamThresholds(legacy_wal_disk_gb=_DISK_MB / 1000)
        earlier = replace(first, taken_at=first.taken_at - timedelta(minutes=10))
        told = evaluate(View(look(ground), (earlier,), thresholds=thresholds)).problems
        assert ProblemCode.WAL_ROOM in {one.code for one in told}

        with pytest.raises(psycopg.OperationalError):  # noqa: PT012 - which one is the last
            while True:
                ground.run("legacy", "UPDATE bookings SET guests = guests + 1 WHERE id % 7 = 0", much)
        wait_for(lambda: not pair.status()[0].running, "the legacy is down: it cannot even recover")
        assert "No space left on device" in (pair.status()[0].data_folder.parent / "server.log").read_text()
        with pytest.raises(UnavailableError, match="connection") as refused:
            ground.copy(limits=IMPATIENT)
        assert "whether both servers run" in refused.value.next_step

        disk.grow(1024)
        pair.start()
        ground = replace(ground, databases=Databases(pair.legacy_url(), pair.base_url()))
        continue_stream(ground.plan)
        ground.assert_same()
        ground.copy()
        assert ground.reconcile().equal
