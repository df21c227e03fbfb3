"""The disk that the base's leaves are on is full: the step says so, nothing is half, and the next run does the work."""

import secrets
from collections.abc import Generator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql

from migration_assets.domain.errors import NoRoomError
from migration_assets.domain.samples import ProblemCode
from migration_assets.domain.stream_watch import View, evaluate
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.watch.look import observe_stream
from migration_assets_tests.ground import Ground, wait_for
from migration_assets_tests.limits.small_disks import SmallDisk, small_disk
from migration_assets_tests.stream.small_stream import QUICK


@contextmanager
def leaves_on(servers: EmbeddedServers, ground: Ground, megabytes: int) -> Generator[SmallDisk]:
    """What is made in the base from now on lies on a disk of that size."""
    name = f"small_{secrets.token_hex(4)}"
    with (
        small_disk(servers.var, megabytes) as disk,
        psycopg.connect(ground.databases.base_url, autocommit=True) as base,
    ):
        tablespace = sql.Identifier(name)
        base.execute(sql.SQL("CREATE TABLESPACE {} LOCATION {}").format(tablespace, str(disk.folder)))
        database = sql.Identifier(base.info.dbname)
        base.execute(sql.SQL("ALTER DATABASE {} SET default_tablespace = {}").format(database, tablespace))
        try:
            yield disk
        finally:
            base.execute(sql.SQL("ALTER DATABASE {} RESET default_tablespace").format(database))
            base.execute("DROP TABLE IF EXISTS public.bookings CASCADE")
            base.execute(sql.SQL("DROP TABLESPACE {}").format(tablespace))


def grow_notes(ground: Ground) -> None:
    """More than 3 MB in W01, which no compression makes smaller."""
    ground.run(
        "legacy",
        "UPDATE bookings SET note = (SELECT string_agg(md5(random()::text || n), '') FROM generate_series(1, 4000) n"
        "  WHERE bookings.id > 0) WHERE booked_at < '2024-04-08Z'",
    )


def problems(ground: Ground) -> set[ProblemCode]:
    """What is wrong at one look."""
    sample = observe_stream(ground.databases, ground.spec, QUICK)
    return {problem.code for problem in evaluate(View(sample)).problems}


def test_a_copy_that_finds_no_room_leaves_nothing_and_the_next_one_completes(
    ground: Ground, servers: EmbeddedServers
) -> None:
    ground.fill().open()
    grow_notes(ground)
    before = ground.base_state()
    with leaves_on(servers, ground, megabytes=2) as disk:
        with pytest.raises(NoRoomError, match="No space left on device") as full:
            ground.copy()
        assert "free" in full.value.next_step
        assert full.value.where == "copy of FY25-Q2|W01, the base"
        assert (ground.base_state(), ground.staging()) == (before, [])
        assert ground.attempts() == [("copy", "failed")]
        assert sum(path.stat().st_size for path in disk.folder.rglob("*") if path.is_file()) == 0
        disk.grow(64)
        ground.copy()
        assert ground.contents("base", 1) == ground.contents("legacy", 1)


def test_a_live_copy_that_finds_no_room_leaves_the_week_under_cdc(streamed: Ground, servers: EmbeddedServers) -> None:
    streamed.run("base", "UPDATE bookings SET guests = -99 WHERE id = 1")
    grow_notes(streamed)
    streamed.drain()
    before = streamed.base_state()
    with leaves_on(servers, streamed, megabytes=2) as disk:
        with pytest.raises(NoRoomError, match=r"the base has no room left: .*No space left on device"):
            streamed.copy()
        assert (streamed.base_state(), streamed.staging()) == (before, [])
        streamed.run("legacy", "UPDATE bookings SET guests = 7 WHERE id > 1")
        streamed.drain()
        assert streamed.stream_record().status == "live"
        disk.grow(64)
        streamed.copy()
        streamed.assert_same()


@pytest.mark.long
def test_a_base_without_room_for_a_change_is_told_and_goes_on_once_there_is_room(
    streamed: Ground, servers: EmbeddedServers
) -> None:
    with leaves_on(servers, streamed, megabytes=16) as disk:
        streamed.copy()
        disk.fill()
        grow_notes(streamed)
        wait_for(lambda: {ProblemCode.APPLY_ERRORS, ProblemCode.WORKER_LOOPING} & problems(streamed), "it is told")
        assert streamed.contents("base", 1) != streamed.contents("legacy", 1)
        disk.free()
        streamed.assert_same()
        assert streamed.reconcile().equal
