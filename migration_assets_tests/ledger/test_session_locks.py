"""Who works on what: locks that go with their session, that only our own roles can take, and that name their holder."""

import secrets
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from migration_assets.domain.errors import ForeignObjectError, LedgerError, SliceBusyError, StreamError
from migration_assets.ledger import schema as ledger_schema
from migration_assets.ledger.own_objects import ledger_steps
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.ledger.session_locks import (
    holder_pids,
    make_session_locks,
    session_lock,
    take_turn_at_objects,
)
from migration_assets.ledger.slices import slice_lock
from migration_assets.ledger.stream import StreamLock, stream_lock
from migration_assets.postgres.sessions import Connected
from migration_assets.stream.claims import end_holders
from migration_assets_tests.conftest import Databases as Urls
from migration_assets_tests.freezes import patience
from migration_assets_tests.ground import SPEC, Ground, wait_for

_STREAM = StreamLock.STREAM.named(SPEC.relation)


def refuse(who: str) -> StreamError:
    return StreamError(f"taken by {who}")


@contextmanager
def impatient(ground: Ground, patience: str = "10ms") -> Generator[Connected]:
    with ground.databases.session("base", "impatient") as base:
        base.execute("SELECT set_config('lock_timeout', %s, false)", [patience])
        yield base


def free(ground: Ground, lock: str, *, shared: bool = False, patience: str = "10ms") -> bool:
    """Whether another session gets it at once, or in that time."""
    with impatient(ground, patience) as base:
        try:
            with session_lock(base, lock, refuse, shared=shared):
                return True
        except StreamError:
            return False


def test_a_stranger_who_may_only_connect_stops_nobody(ground: Ground, databases: Urls) -> None:
    """All that an advisory lock asks for is the right to connect, and these were the keys that steps waited for."""
    ground.fill(91).open()
    role = f"stranger_{secrets.token_hex(4)}"
    with psycopg.connect(databases.base_url, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'".encode())
        with psycopg.connect(make_conninfo(databases.base_url, user=role, password="x"), autocommit=True) as stranger:
            stranger.execute(
                sql.SQL(
                    "SELECT pg_advisory_lock(c, n), pg_advisory_lock(c, hashtext({}))"
                    " FROM generate_series(71001, 71011) c, generate_series(0, 20) n"
                ).format(SPEC.relation)
            )
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                stranger.execute("SELECT * FROM migration.session_locks")
            with impatient(ground) as base, slice_lock(base, ground.record()), stream_lock(base, SPEC.relation):
                assert ground.record().working
            ground.open(ground.record().week.quarter.next)
            ground.copy()
        owner.execute(f"DROP ROLE {role}".encode())


def test_whoever_has_a_lock_is_named_and_the_slice_shows_it(ground: Ground) -> None:
    ground.fill(91).open()
    record = ground.record()
    with ground.databases.session("base", "W01:copy") as other, impatient(ground) as base:
        who = rf"backend {other.info.backend_pid} \(role \w+, connected since 2.* UTC, migration_assets:W01:copy\)"
        with slice_lock(other, record), stream_lock(other, SPEC.relation):
            with (
                pytest.raises(SliceBusyError, match=f"the slice is being worked on by {who}"),
                slice_lock(base, record),
            ):
                pass
            with pytest.raises(StreamError, match=f"is being worked on by {who}"), stream_lock(base, SPEC.relation):
                pass
            assert ground.record().working
            assert holder_pids(base, _STREAM) == [other.info.backend_pid]
            assert holder_pids(other, _STREAM) == []
    assert not ground.record().working
    assert ground.queue(_STREAM) == 0


def test_a_lock_goes_with_its_session_whatever_ended_it(ground: Ground) -> None:
    ground.fill(91).open()
    with ground.databases.session("base", "to be ended") as doomed, impatient(ground) as base:
        with ExitStack() as stack:
            stack.enter_context(session_lock(doomed, _STREAM, refuse))
            assert end_holders(base, _STREAM, older_than_seconds=3600) == []
            assert not free(ground, _STREAM)
            assert end_holders(base, _STREAM) == [doomed.info.backend_pid]
            assert free(ground, _STREAM)  # and the row of the dead went with this look
        assert ground.queue(_STREAM) == 0
    # Who waits already gets it, too, and nobody else need come by.
    with ground.databases.session("base", "to be ended") as doomed, session_lock(doomed, _STREAM, refuse):
        waiting = threading.Thread(target=lambda: got.append(free(ground, _STREAM, patience="60s")))
        got: list[bool] = []
        waiting.start()
        wait_for(lambda: ground.queue(_STREAM) == 2, "it waits")
        ground.ask("base", "SELECT pg_terminate_backend(%s, 5000)", doomed.info.backend_pid)
        waiting.join(patience(30))
        assert got == [True]
    # The row of a session whose process number another one has now: neither its beginning nor its role is the same.
    with ground.databases.session("base", "another life") as alive:
        other: list[tuple[LiteralString, LiteralString]] = [
            ("k.role", "k.backend_start - interval '1 h'"),
            ("1::oid", "k.backend_start"),
        ]
        for role, began in other:
            with session_lock(alive, _STREAM, refuse):
                ground.run("base", f"UPDATE migration.session_locks k SET role = {role}, backend_start = {began}")
                assert free(ground, _STREAM)
        # Another database's session, of which this database is a copy.
        elsewhere = make_conninfo(ground.databases.base_url, dbname="postgres")
        with psycopg.connect(elsewhere, autocommit=True) as other_database, session_lock(alive, _STREAM, refuse):
            found = other_database.execute(
                "SELECT pid, backend_start FROM pg_stat_get_activity(pg_backend_pid())"
            ).fetchone()
            assert found is not None
            ground.ask("base", "UPDATE migration.session_locks SET pid = %s, backend_start = %s RETURNING 1", *found)
            assert holder_pids(alive, _STREAM) == []
            assert free(ground, _STREAM)
        # Whoever may not see when a session began takes it for the one that wrote the row.
        with session_lock(alive, _STREAM, refuse):
            ground.run("base", "UPDATE migration.session_locks k SET backend_start = NULL")
            assert not free(ground, _STREAM)


def test_shared_holders_do_not_starve_who_wants_it_alone(ground: Ground) -> None:
    ground.fill(91).open()
    got = threading.Event()

    def alone() -> None:
        with ground.databases.session("base", "alone") as base, session_lock(base, _STREAM, refuse):
            got.set()

    with ground.holding(_STREAM, shared=True) as first:
        assert free(ground, _STREAM, shared=True)
        assert not free(ground, _STREAM)
        with session_lock(first, _STREAM, refuse):  # a session is never in its own way
            pass
        waiting = threading.Thread(target=alone)
        waiting.start()
        wait_for(lambda: ground.queue(_STREAM) == 2, "it stands in the queue")
        assert not free(ground, _STREAM, shared=True)  # who comes later stands behind it
        with session_lock(first, _STREAM, refuse, shared=True):  # but for the session that it waits for
            pass
        assert not got.is_set()
    waiting.join(patience(30))
    assert got.is_set()
    assert ground.queue(_STREAM) == 0


def test_of_many_at_once_one_has_it_at_any_moment(ground: Ground) -> None:
    ground.fill(91).open()
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        with ground.databases.session("base", "one of many") as base:
            for _ in range(15):
                with session_lock(base, _STREAM, refuse):
                    inside.append(1)
                    most.append(len(inside))
                    base.execute("SELECT 1")
                    inside.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(patience(60))
    assert most == [1] * 90
    assert ground.queue(_STREAM) == 0


def test_whoever_has_no_row_any_more_has_no_lock_and_takes_none_away(ground: Ground) -> None:
    """Somebody emptied the table, or dropped it and another one was made: rows are numbered anew."""
    ground.fill(91).open()
    with ground.databases.session("base", "first") as first, ground.databases.session("base", "second") as second:
        with session_lock(first, _STREAM, refuse), ExitStack() as stack:
            raised: list[BaseException] = []

            def wait() -> None:
                try:
                    with session_lock(second, _STREAM, refuse):
                        raise AssertionError("it has what the first one has")
                except StreamError as error:
                    raised.append(error)

            waiting = threading.Thread(target=wait)
            waiting.start()
            wait_for(lambda: ground.queue(_STREAM) == 2, "it waits")
            ground.run("base", "TRUNCATE migration.session_locks")
            waiting.join(patience(30))
            assert "the waiting row of this session was removed" in str(raised[0])
            stack.enter_context(session_lock(second, _STREAM, refuse))
            # The first one, which lets go now, has the number that the second has.
            stack.enter_context(session_lock(second, "another", refuse))
            numbers = ground.ask("base", "SELECT id, pid FROM migration.session_locks ORDER BY id")
            assert numbers == [(1, second.info.backend_pid), (2, second.info.backend_pid)]
            kept = stack.pop_all()
        with kept:
            assert not free(ground, _STREAM)


def test_two_operators_who_see_nothing_of_each_other_take_turns(ground: Ground) -> None:
    """Since when another role's session is there only members of pg_read_all_stats are told."""
    ground.fill(91).open()
    ada, bob = (f"operator_{secrets.token_hex(4)}" for _ in range(2))
    names = [sql.Identifier(name) for name in (ada, bob)]
    with psycopg.connect(ground.databases.base_url, autocommit=True) as owner:
        for name in names:
            owner.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x'").format(name))
            owner.execute(sql.SQL("GRANT USAGE ON SCHEMA migration TO {}").format(name))
            owner.execute(sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON migration.session_locks TO {}").format(name))
        first, second = (
            psycopg.connect(make_conninfo(ground.databases.base_url, user=name, password="x"), autocommit=True)
            for name in (ada, bob)
        )
        with second:
            second.execute("SET lock_timeout = '10ms'")
            with first, session_lock(first, _STREAM, refuse):
                pid = first.info.backend_pid
                seen = "SELECT backend_start FROM pg_stat_get_activity(%s)"
                assert second.execute(seen, [pid]).fetchone() == (None,)
                assert holder_pids(second, _STREAM) == [pid]
                # Nobody ends as overdue who has just begun.
                assert holder_pids(second, _STREAM, older_than_seconds=3600) == []
                with (
                    pytest.raises(StreamError, match=rf"backend {pid} \(role {ada}"),
                    session_lock(second, _STREAM, refuse),
                ):
                    pass
            with session_lock(second, _STREAM, refuse):
                assert holder_pids(second, _STREAM) == []
        for name in names:
            owner.execute(sql.SQL("DROP OWNED BY {}").format(name))
            owner.execute(sql.SQL("DROP ROLE {}").format(name))


def test_whoever_holds_the_table_of_locks_is_named_too(ground: Ground) -> None:
    ground.fill(91).open()
    with (
        psycopg.connect(ground.databases.base_url, application_name="by hand") as keeper,
        impatient(ground) as base,
        impatient(ground) as reader,
    ):
        reader.execute("BEGIN; SELECT FROM migration.session_locks")
        keeper.execute("LOCK TABLE migration.session_locks IN SHARE UPDATE EXCLUSIVE MODE")  # as a VACUUM has it
        who = rf"by backend {keeper.info.backend_pid} \(role \w+, by hand\), which holds the table of locks"
        with pytest.raises(StreamError, match=who) as caught, session_lock(base, _STREAM, refuse):
            pass
        assert str(reader.info.backend_pid) not in str(caught.value)
        assert holder_pids(base, _STREAM) == []  # who only looks waits for nobody
        assert not ground.record().working


def test_a_lock_inside_a_transaction_would_be_seen_by_nobody(ground: Ground) -> None:
    ground.fill(91).open()
    with ground.databases.session("base", "test") as base, base.transaction():
        base.execute("SELECT 1")
        with pytest.raises(RuntimeError, match="inside a transaction"), session_lock(base, _STREAM, refuse):
            pass


def test_the_table_on_the_legacy_is_made_and_dropped_by_several_at_once(ground: Ground) -> None:
    done: list[str] = []

    def turn(name: str) -> None:
        with ground.databases.session("legacy", name) as legacy, legacy.transaction():
            take_turn_at_objects(legacy)
            done.append(name)

    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    threads = [threading.Thread(target=turn, args=[name]) for name in ("a", "b")]
    with ground.databases.session("legacy", "first") as first:
        with first.transaction():
            take_turn_at_objects(first)  # makes it: the others wait for a name that nobody sees yet
            for thread in threads:
                thread.start()
            wait_for(lambda: ground.one("legacy", waits) == 2, "both wait")
            assert done == []
        for thread in threads:
            thread.join(patience(30))
        assert sorted(done) == ["a", "b"]
        threads = [threading.Thread(target=turn, args=[name]) for name in ("c", "d")]
        with first.transaction():
            take_turn_at_objects(first)
            for thread in threads:
                thread.start()
            wait_for(lambda: ground.one("legacy", waits) == 2, "both wait for what will be gone")
            first.execute("DROP SCHEMA migration CASCADE")
        for thread in threads:
            thread.join(patience(30))
    assert sorted(done) == ["a", "b", "c", "d"]
    ground.run("legacy", "DROP SCHEMA migration CASCADE", "CREATE SCHEMA migration")
    ground.run("legacy", "CREATE TABLE migration.session_locks (id bigint)")
    with ground.databases.session("legacy", "test") as legacy, pytest.raises(ForeignObjectError, match="session_locks"):
        make_session_locks(legacy)


def test_a_ledger_is_not_upgraded_while_a_program_with_the_older_locks_is_at_work(ground: Ground) -> None:
    with ground.databases.session("base", "upgrade") as base:
        ledger_schema._upgrade(base, ledger_steps()[:10])  # pyright: ignore[reportPrivateUsage]
        with ground.databases.session("base", "older program") as older:
            older.execute("SELECT pg_advisory_lock(71004, 5)")
            with pytest.raises(LedgerError, match=f"is at work: backend {older.info.backend_pid}") as caught:
                ensure_ledger(base)
            assert caught.value.state_left == "the ledger is unchanged"
            assert ground.one("base", "SELECT max(version) FROM migration.schema_versions") == 10
        # Whoever has lost the trigger by which the worker waited at markers was told so, and need not make it anew.
        base.execute("DROP TRIGGER wait_at_marker ON migration.markers")
        assert ensure_ledger(base) == len(ledger_steps())
