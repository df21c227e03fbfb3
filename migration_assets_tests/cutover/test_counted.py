"""Who may keep changes of the base to himself is waited for by name, and nobody else is."""

import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta

import psycopg
from psycopg import errors
from psycopg.conninfo import make_conninfo
from psycopg.pq import ExecStatus

from migration_assets.cutover.stages import require_counted
from migration_assets.domain.states import CutoverError
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.ground import wait_for

_WORKERS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker' AND leader_pid = %s"


def waited_for(ground: CutoverGround, held_at: datetime) -> set[int]:
    with ground.databases.session("base", "test") as base:
        try:
            require_counted(base, ground.cutover_plan(patience_seconds=0.0), held_at)
        except CutoverError as error:
            return {int(pid) for pid in re.findall(r"backend (\d+) ", error.what)}
    return set()


def now(ground: CutoverGround) -> datetime:
    return ground.one("base", "SELECT clock_timestamp()")


@contextmanager
def working_in_parallel(ground: CutoverGround) -> Generator[int]:
    """A session whose query another process of the server runs; its own number."""
    with psycopg.connect(ground.databases.base_url, autocommit=True) as leader:
        leader.execute("SET debug_parallel_query = on")

        def run() -> None:
            try:
                leader.execute("SELECT pg_sleep(600)")
            except errors.QueryCanceled:
                return

        thread = threading.Thread(target=run)
        thread.start()
        try:
            wait_for(lambda: ground.one("base", _WORKERS, leader.info.backend_pid), "another process runs it")
            yield leader.info.backend_pid
        finally:
            leader.cancel_safe()
            thread.join()


@contextmanager
def streaming(ground: CutoverGround) -> Generator[None]:
    """A WAL sender of the base that somebody else reads."""
    ground.run("base", "CREATE PUBLICATION of_others", "SELECT pg_create_logical_replication_slot('read', 'pgoutput')")
    try:
        with ground.replicating("base") as sender:
            sender.pgconn.send_query(
                b"START_REPLICATION SLOT read LOGICAL 0/0 (proto_version '1', publication_names 'of_others')"
            )
            result = sender.pgconn.get_result()
            assert result is not None
            assert result.status == ExecStatus.COPY_BOTH
            try:
                yield
            finally:
                sender.close()
    finally:
        wait_for(
            lambda: ground.one("base", "SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'read'"),
            "it ends",
        )
        ground.run("base", "SELECT pg_drop_replication_slot('read')")


def test_who_may_keep_changes_to_himself_is_waited_for_and_nobody_else(ground: CutoverGround) -> None:
    elsewhere = make_conninfo(ground.databases.base_url, dbname="postgres")
    worker = ground.one("base", "SELECT pid FROM pg_stat_subscription WHERE subname = %s",
                        ground.stream_record().subscription)  # fmt: skip
    with (
        psycopg.connect(ground.databases.base_url, autocommit=True) as writer,
        psycopg.connect(ground.databases.base_url, autocommit=True) as resting,
        psycopg.connect(elsewhere) as foreign,
        working_in_parallel(ground) as leader,
        streaming(ground),
    ):
        foreign.execute("SELECT 1")
        # Who only has a slot of his own is no WAL sender that streams.
        writer.execute("SELECT pg_create_logical_replication_slot('only_mine', 'pgoutput', temporary => true)")
        writer.execute("BEGIN")
        held_at = now(ground)
        with psycopg.connect(ground.databases.base_url) as later:
            later.execute("SELECT 1")
            found = waited_for(ground, held_at)
        assert found == {writer.info.backend_pid, resting.info.backend_pid, leader}
        # Another table's stream may have written to this one, and does not end with ours.
        spec = replace(ground.spec, table=ground.spec.table.sibling("another"))
        assert worker in waited_for(replace(ground, spec=spec), held_at)
        # Who came to rest a while after writes were held has told all.
        wait_for(lambda: now(ground) > held_at + timedelta(seconds=1.6), "a while is over")
        resting.execute("SELECT 1")
        assert waited_for(ground, held_at) == {writer.info.backend_pid, leader}
        writer.execute("COMMIT")
        # What a transaction did before the proofs of all weeks is proven.
        assert ground.reconcile().equal
        ground.run("base", "UPDATE migration.cuts SET taken_at = taken_at + interval '1 hour'")
        assert leader not in waited_for(ground, held_at)
        ground.run("base", "UPDATE migration.slices SET validated_marker = NULL WHERE week = 'W05'")
        assert leader in waited_for(ground, held_at)
