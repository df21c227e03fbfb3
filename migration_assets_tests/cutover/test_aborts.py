"""A cutover that cannot go on stops within its time, says where, and the writes go on where they were."""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from migration_assets.domain.states import CutoverError, CutoverState, SideName
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.ledger.stream import StreamStatus
from migration_assets.postgres.sessions import Databases
from migration_assets.readiness.step import roll_back
from migration_assets_tests.conftest import Databases as Urls
from migration_assets_tests.cutover.ground import Before, CutoverGround, failing
from migration_assets_tests.cutover.ordeal import settle_down
from migration_assets_tests.freezes import freezes
from migration_assets_tests.ground import wait_for
from migration_assets_tests.servers.drill import migration


def require_as_before(ground: CutoverGround) -> None:
    """The legacy accepts writes, the base follows, nothing of the reverse stream is left, and a cutover succeeds."""
    assert ground.watch() is None
    assert ground.charge() == "legacy"
    ground.insert("legacy")
    ground.assert_same()
    assert ground.stream_record().status is StreamStatus.LIVE
    assert ground.one("base", "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == 0
    assert ground.cut().outcome == "succeeded"
    ground.insert("base")
    settle_down(ground)
    ground.equal()


@contextmanager
def open_writer(ground: CutoverGround, side: SideName, *, busy: bool) -> Generator[None]:
    """A transaction that wrote and does not end: it computes, or its client does nothing."""
    with psycopg.connect(ground.databases.url(side), application_name="batch job") as connection:
        connection.execute("UPDATE bookings SET guests = 1 WHERE id = 5")
        thread = threading.Thread(target=lambda: connection.execute("SELECT pg_sleep(6)")) if busy else None
        if thread:
            thread.start()
        yield
        if thread:
            connection.cancel_safe()
            thread.join()
        connection.rollback()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("busy", [True, False], ids=["long writer", "stuck session"])
def test_a_writer_that_does_not_end_is_named_and_nobody_is_held(ground: CutoverGround, *, busy: bool) -> None:
    with open_writer(ground, "legacy", busy=busy):
        with pytest.raises(CutoverError, match="batch job") as caught:
            ground.cut(patience_seconds=1.0)
        assert "stopped at held" in str(caught.value)
        ground.run("legacy", "UPDATE bookings SET guests = 3 WHERE id = 6")
        assert ground.records()[-1].outcome == "aborted"
        assert ground.records()[-1].held_at is None
    require_as_before(ground)


@pytest.mark.long
def test_a_base_that_refuses_new_sessions_releases_the_legacy(
    ground: CutoverGround, servers: EmbeddedServers, before: Before
) -> None:
    closing = Closing(ground, servers)
    before(CutoverState.COMPARED, closing.close)
    with pytest.raises(CutoverError, match="stopped at compared") as caught:
        ground.cut()
    assert "writes go on on the legacy" in str(caught.value)
    ground.insert("legacy")
    closing.open()
    before(CutoverState.COMPARED, lambda: None)
    closing.closes = False
    require_as_before(ground)


@pytest.mark.long
def test_a_base_that_is_lost_altogether_releases_the_legacy_and_the_rest_is_undone_later(
    ground: CutoverGround, servers: EmbeddedServers, before: Before
) -> None:
    closing = Closing(ground, servers, sessions=True)
    before(CutoverState.SEQUENCES, closing.close)
    with pytest.raises(CutoverError) as caught:
        ground.cut()
    assert "writes go on on the legacy; the rest is not undone yet" in str(caught.value)
    ground.insert("legacy")
    assert ground.watch() is None
    closing.open()
    closing.closes = False
    assert "the legacy accepts writes" in ground.let_go()
    require_as_before(ground)


class Closing:
    """A base that lets nobody in, and perhaps throws everybody out."""

    def __init__(self, ground: CutoverGround, servers: EmbeddedServers, *, sessions: bool = False) -> None:
        self.name = str(conninfo_to_dict(ground.databases.base_url)["dbname"])
        self.admin, self.sessions, self.closes = servers.base_url("postgres"), sessions, True

    def close(self) -> None:
        if self.closes:
            self._alter(allowed=False)

    def open(self) -> None:
        self._alter(allowed=True)

    def _alter(self, *, allowed: bool) -> None:
        with psycopg.connect(self.admin, autocommit=True) as admin:
            admin.execute(
                sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(
                    sql.Identifier(self.name), sql.Literal(allowed)
                )
            )
            if self.sessions and not allowed:
                admin.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [self.name]
                )


@pytest.mark.long
def test_a_stream_that_stands_is_given_up_within_the_timeout(ground: CutoverGround, before: Before) -> None:
    with psycopg.connect(ground.databases.base_url) as locker:

        def stall() -> None:
            locker.execute("LOCK TABLE bookings_fy25_q2_w05")
            ground.run("legacy", "UPDATE bookings SET guests = 8 WHERE booked_at >= '2024-05-01' AND guests = 3")

        before(CutoverState.HELD, stall)
        began = time.monotonic()
        freed = when_free(ground, began)
        with pytest.raises(CutoverError, match="longer than the timeout of 3 s") as caught:
            ground.cut(timeout_seconds=3.0)
        assert "writes go on on the legacy" in str(caught.value)
        assert freed() < 3.0
        locker.rollback()
    ground.let_go()
    before(CutoverState.HELD, lambda: None)
    assert ground.watch() is None
    ground.drain()
    ground.assert_same()


@pytest.mark.long
def test_a_step_that_hangs_does_not_keep_the_writes_held(ground: CutoverGround, before: Before) -> None:
    with psycopg.connect(ground.databases.base_url) as locker:
        before(CutoverState.DRAINED, lambda: locker.execute("LOCK TABLE migration.cutovers, migration.markers"))
        freed = when_free(ground, time.monotonic())
        thread = threading.Timer(8.0, locker.rollback)
        thread.start()
        with pytest.raises(CutoverError):
            ground.cut(timeout_seconds=2.0)
        assert freed() < 2.0
        thread.join()
    ground.let_go()
    assert ground.watch() is None
    ground.drain()
    ground.assert_same()


def when_free(ground: CutoverGround, _began: float) -> Callable[[], float]:
    """Watches how long the legacy refuses writes, in one piece, seconds; the result is there when it accepts them.

    What a machine costs that had no time for anybody is taken off.
    """
    longest = [0.0]
    stop = threading.Event()
    measured = ExitStack()
    machine = measured.enter_context(freezes())

    def look() -> None:
        since: float | None = None
        with psycopg.connect(ground.databases.legacy_url, autocommit=True) as connection:
            while not stop.is_set():
                try:
                    connection.execute("UPDATE bookings SET guests = guests WHERE id = 1")
                    if since is not None:
                        longest[0] = max(longest[0], time.monotonic() - since)
                    since = None
                except psycopg.errors.ReadOnlySqlTransaction:
                    since = since or time.monotonic()
                time.sleep(0.02)

    thread = threading.Thread(target=look)
    thread.start()

    def done() -> float:
        time.sleep(0.1)
        stop.set()
        thread.join()
        measured.close()
        assert longest[0] > 0.5, "it was never held"
        return longest[0] - 2 * machine.longest_ms / 1000

    return done


def test_a_row_that_differs_stops_the_cutover(ground: CutoverGround) -> None:
    ground.run(
        "base", "UPDATE bookings_fy25_q2_w03 SET guests = 77 WHERE id = (SELECT min(id) FROM bookings_fy25_q2_w03)"
    )
    with pytest.raises(CutoverError, match=r"stopped at compared: .*W03"):
        ground.cut()
    ground.insert("legacy")
    assert ground.watch() is None
    ground.repair(3)
    require_as_before(ground)


@pytest.mark.long
def test_a_reverse_stream_that_cannot_connect_stops_the_cutover_before_anybody_is_held(ground: CutoverGround) -> None:
    nowhere = "postgresql://nobody:secret@127.0.0.1:1/nowhere"
    with pytest.raises(CutoverError, match="stopped at begun") as caught:
        ground.cut(base_url_for_legacy=nowhere)
    assert "secret" not in str(caught.value)
    assert ground.records()[-1].held_at is None
    require_as_before(ground)


@pytest.mark.long
def test_a_hook_that_fails_brings_everything_back_with_what_was_written_meanwhile(ground: CutoverGround) -> None:
    keys: list[int] = []

    def switch(to: SideName, cutover: int) -> None:
        if to == "base":
            keys.append(ground.insert("base"))
        failing("base")(to, cutover)

    with pytest.raises(CutoverError, match="could not be switched: the hook failed: RuntimeError") as caught:
        ground.cut(switch=switch)
    assert "secret" not in str(caught.value)
    assert ground.one("legacy", "SELECT count(*) FROM bookings WHERE id = %s", keys[0]) == 1
    assert [(record.kind, record.outcome) for record in ground.records()] == [
        ("cutover", "aborted"),
        ("rollback", "succeeded"),
    ]
    require_as_before(ground)


@pytest.mark.long
def test_a_rollback_that_stops_leaves_the_base_in_charge(ground: CutoverGround) -> None:
    ground.cut()
    ground.as_we("legacy", "UPDATE bookings SET guests = 77 WHERE id = 12")
    with pytest.raises(CutoverError, match="stopped at compared") as caught:
        ground.back()
    assert "writes go on on the base" in str(caught.value)
    assert ground.watch() is None
    assert ground.charge() == "base"
    ground.insert("base")
    ground.as_we("legacy", "UPDATE bookings SET guests = 5 WHERE id = 12")
    settle_down(ground)
    ground.equal()
    assert ground.back().outcome == "succeeded"
    ground.assert_same()


@pytest.mark.long
def test_a_rollback_whose_hook_fails_says_so_and_is_done(ground: CutoverGround) -> None:
    ground.cut()
    record = ground.back(switch=failing())
    assert record.outcome == "succeeded"
    assert record.error == "the hook failed: RuntimeError"
    wait_for(lambda: ground.charge() == "legacy", "it is")
    ground.insert("legacy")
    ground.assert_same()


@pytest.mark.long
def test_a_table_that_is_rewritten_after_its_comparison_is_not_opened(ground: CutoverGround, before: Before) -> None:
    """An ALTER TABLE meets no hold, and gave the rows other values than those that were compared."""
    change = "ALTER TABLE bookings ALTER COLUMN note TYPE text USING note || '!'"

    def changed(side: SideName, other: SideName, step: Callable[[], object]) -> None:
        before(CutoverState.SEQUENCES, lambda: ground.run(side, change))
        with pytest.raises(CutoverError, match=f"stopped at open: the table was rewritten on the {side}"):
            step()
        before(CutoverState.SEQUENCES, lambda: None)
        ground.run(other, change)

    changed("legacy", "base", ground.cut)
    changed("base", "legacy", ground.cut)
    require_as_before(ground)
    changed("base", "legacy", ground.back)
    assert ground.back().outcome == "succeeded"
    ground.assert_same()


def test_what_a_server_refuses_ends_a_step_with_what_to_do(databases: Urls) -> None:
    """Here: a legacy that is not there. The error of PostgreSQL alone would say neither who writes nor what to do."""
    ground = CutoverGround(Databases(databases.legacy_url.replace("/test_", "/gone_"), databases.base_url))
    with pytest.raises(CutoverError, match=r"PostgreSQL: .* does not exist") as refused:
        roll_back(migration(ground), "Ada")
    assert "then run this again" in refused.value.next_step
