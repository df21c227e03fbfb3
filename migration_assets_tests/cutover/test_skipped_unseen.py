"""A slot is moved onwards while nobody reads it, and no row of any catalogue tells: only what follows was proven."""

import secrets
from dataclasses import replace
from typing import LiteralString

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from migration_assets.cutover.observing import measure_reverse
from migration_assets.domain.errors import ServerChangedError
from migration_assets.domain.samples import ProblemCode
from migration_assets.domain.states import CutoverError, SideName
from migration_assets.postgres.sessions import Databases
from migration_assets.watch.look import observe_stream
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.cutover.test_altered_stream import on, without_worker
from migration_assets_tests.ground import wait_for
from migration_assets_tests.servers.drill import look

# As where the base is away for a while: whoever comes back to the slot is sent away until it is moved.
_ADVANCE: LiteralString = """
DO $$ BEGIN
    LOOP
        BEGIN
            PERFORM pg_replication_slot_advance(slot_name, pg_current_wal_lsn()) FROM pg_replication_slots
            WHERE slot_name = {slot};
            RETURN;
        EXCEPTION WHEN object_in_use THEN
            PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots
            WHERE slot_name = {slot} AND active_pid IS NOT NULL;
            PERFORM pg_sleep(0.001);
        END;
    END LOOP;
END $$
"""


def advance(ground: CutoverGround, side: SideName = "legacy") -> None:
    slot = ground.stream_record().slot + ("_back" if side == "base" else "")
    with ground.databases.session(side, "stranger") as publisher:
        publisher.execute(sql.SQL(_ADVANCE).format(slot=sql.Literal(slot)))


def skip_unseen(ground: CutoverGround) -> None:
    """A change of W05 never arrives; no marker was on its way, and nobody altered the subscription."""
    stream = ground.stream_record()
    workers = "SELECT array_agg(pid) FROM pg_stat_subscription WHERE subname = %s AND pid IS NOT NULL"
    with ground.databases.session("base", "stranger") as base, base.transaction():
        base.execute("LOCK TABLE public.bookings_fy25_q2_w05 IN ACCESS EXCLUSIVE MODE")
        ground.run("legacy", "UPDATE bookings SET guests = 77 WHERE id = 30")
        advance(ground)
        pids = ground.one("base", workers, stream.subscription)
        ground.ask("base", "SELECT pg_terminate_backend(pid) FROM unnest(%s::integer[]) pid", pids or [])
    ground.drain()


def test_a_cutover_compares_what_was_proven_by_another_worker(ground: CutoverGround) -> None:
    assert ground.reconcile().equal
    skip_unseen(ground)
    assert ground.contents("base") != ground.contents("legacy")
    with pytest.raises(CutoverError, match=r"the sides differ: FY25-Q2\|W05: .* 0 missing, 0 extra, 1 changed"):
        ground.cut(compare_all=False)


def test_a_slot_that_is_moved_while_the_base_is_away_is_moved_past_a_marker(ground: CutoverGround) -> None:
    """Else a DBA who frees the legacy's disk during an outage of the base loses changes without a trace."""
    away = Databases(ground.databases.legacy_url, make_conninfo(ground.databases.base_url, port=1))
    count = "SELECT count(*) FROM migration.markers"
    before = ground.one("legacy", count)
    assert observe_stream(away, ground.spec).base_error
    assert ground.one("legacy", count) == before, "somebody reads the slot"
    without_worker(ground)
    ground.run("legacy", "UPDATE bookings SET guests = 77 WHERE id = 30")
    assert observe_stream(away, ground.spec).base_error
    advance(ground)
    on(ground, "base", "ALTER SUBSCRIPTION {} ENABLE")
    ground.drain()
    problems = look(ground)[1]
    assert "never arrived, though later ones did" in problems[ProblemCode.SERVER_CHANGED].what
    with pytest.raises(ServerChangedError):
        ground.reconcile()


@pytest.mark.long
def test_whether_the_slot_is_read_is_asked_of_the_tables_own(ground: CutoverGround) -> None:
    """Another migration's slot on that legacy keeps more WAL, and somebody reads it."""
    away = Databases(ground.databases.legacy_url, make_conninfo(ground.databases.base_url, port=1))
    newest = "SELECT coalesce(max(id), 0) FROM migration.markers"
    kept = "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = %s"
    own = ground.stream_record().slot
    other = f"migration_assets_{secrets.token_hex(6)}"
    with ground.databases.session("legacy", "stranger") as reader:
        # It is read for as long as its session is there.
        reader.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput', temporary => true)", [other])

        def later() -> bool:
            ground.one("legacy", "SELECT pg_log_standby_snapshot()::text")
            ground.drain()
            return bool(ground.one("legacy", f"SELECT ({kept}) < ({kept})", other, own))

        wait_for(later, "the other slot keeps more WAL")
        without_worker(ground)
        before = ground.one("legacy", newest)
        assert observe_stream(away, ground.spec).base_error
        assert ground.one("legacy", newest) > before
        # A legacy that takes no marker is no legacy that is away.
        with ground.databases.session("legacy", "stranger") as busy, busy.transaction():
            busy.execute("LOCK TABLE migration.markers IN SHARE MODE")
            seen = observe_stream(away, ground.spec)
        assert seen.legacy_error is None
        assert "lock timeout" in str(seen.heartbeat_error)
        assert seen.retained_wal_bytes is not None
    # A stream that is made anew waits for none of the markers that the old one never brought.
    ground.one("legacy", "SELECT pg_drop_replication_slot(%s)::text", own)
    assert observe_stream(away, ground.spec).base_error
    ground.stream(rebuild=True)
    ground.drain()
    assert look(ground)[1] == {}
    assert ground.reconcile().equal


@pytest.mark.long
def test_a_slot_of_the_reverse_stream_that_is_moved_while_the_legacy_is_away_is_moved_past_a_marker(
    ground: CutoverGround,
) -> None:
    ground.cut()
    back = sql.Identifier(f"{ground.stream_record().subscription}_back")
    away = Databases(make_conninfo(ground.databases.legacy_url, port=1), ground.databases.base_url)
    with ground.databases.session("legacy", "stranger") as legacy:
        legacy.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(back))
        idle = "SELECT NOT active FROM pg_replication_slots WHERE slot_name = %s"
        wait_for(lambda: ground.one("base", idle, f"{ground.stream_record().slot}_back"), "the slot is free")
        ground.insert("base")
        assert observe_stream(away, ground.spec).legacy_error
        advance(ground, "base")
        # A base that takes no marker is no base that is away.
        with ground.databases.session("base", "stranger") as busy, busy.transaction():
            busy.execute("LOCK TABLE migration.reverse_markers IN SHARE MODE")
            seen = observe_stream(away, ground.spec)
        assert seen.base_error is None
        assert seen.cutover is not None
        assert seen.cutover.reverse is not None
        assert "lock timeout" in str(seen.cutover.reverse.marker_error)
        assert observe_stream(away, ground.spec).legacy_error
        with ground.databases.session("base", "stranger") as base:
            legacy.execute(sql.SQL("ALTER SUBSCRIPTION {} ENABLE").format(back))
            # The worker comes back in the middle of a look that began without it, and old markers may go.
            none = replace(seen.cutover.reverse, subscription_enabled=True, worker_runs=False)
            after = measure_reverse(base, legacy, ground.spec.relation, none, seconds=20.0, keep=0.0)
        assert after.arrived
    wait_for(lambda: ProblemCode.SERVER_CHANGED in look(ground)[1], "a later marker arrives")
    assert "never arrived, though later ones did" in look(ground)[1][ProblemCode.SERVER_CHANGED].what
