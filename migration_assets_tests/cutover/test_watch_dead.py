"""The watch over cutovers whose process or server died: writes that are held are told with what releases them."""

import secrets
import tempfile
from collections.abc import Generator
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from migration_assets.domain.errors import StreamError
from migration_assets.domain.samples import ProblemCode, Severity
from migration_assets.embedded.servers import EmbeddedServers, ServerName
from migration_assets.ledger.cutovers import cutover_lock
from migration_assets.postgres.sessions import Databases
from migration_assets.stream.holding import continue_stream, hold_stream
from migration_assets_tests.crashes.trap import Point
from migration_assets_tests.cutover.child import run_child
from migration_assets_tests.cutover.ground import CutoverGround, ground_of
from migration_assets_tests.cutover.guard import Guard, guard_of, migration_of
from migration_assets_tests.cutover.kills import record_of
from migration_assets_tests.ground import wait_for
from migration_assets_tests.server_pairs import quick_pair
from migration_assets_tests.watch.webhook import webhook

C = ProblemCode
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
_SERVERS: tuple[ServerName, ServerName] = ("legacy", "base")
_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name ~ ':cutover'"
# As the n-th state is entered.
HELD, DRAINED, COMPARED = 2, 3, 4


def die(ground: CutoverGround, kind: str, entering: int) -> None:
    """Its process is killed as it is about to enter a state."""
    [label] = {label for label in record_of(ground, "rehearsal") if "UPDATE migration.cutovers SET state" in label}
    with tempfile.TemporaryDirectory() as folder:
        code, _, said = run_child(ground, kind, Path(folder) / "log", Point(label, entering, "before"))
    assert code == -9, said
    wait_for(lambda: not ground.one("base", _SESSIONS), "its sessions end")


@pytest.mark.long
def test_a_cutover_that_died_with_the_writes_held_is_told_with_the_command(ground: CutoverGround) -> None:
    guard = guard_of(ground)
    die(ground, "cutover", COMPARED)
    with webhook() as hook:
        found = guard.problems(alert_urls=(SecretStr(hook.url()),))
        assert hook.titles == ["[CRITICAL] change stream of public.bookings: writes held"]
        assert "release-writes" in hook.received[0]["message"]
    assert {code: one.severity for code, one in found.items()} == {C.WRITES_HELD: Severity.CRITICAL}
    assert "release-writes" in found[C.WRITES_HELD].next_step
    assert "cutover 2 died" in found[C.WRITES_HELD].what
    # Also by somebody who cannot reach the base, and by somebody who knows of no stream.
    away = Guard(migration_of(Databases(ground.databases.legacy_url, NOWHERE)))
    for begun in (True, False):
        found = away.problems(begun=begun)
        assert set(found) == {C.WRITES_HELD, C.BASE_UNREACHABLE}
        assert "release-writes" in found[C.WRITES_HELD].next_step
    for step in (
        lambda: continue_stream(ground.plan),
        lambda: hold_stream(ground.plan, "x"),
        lambda: ground.validate(2),
    ):
        with pytest.raises(StreamError, match="cutover 2 was left at drained"):
            step()
    assert "undone" in ground.let_go()
    wait_for(lambda: not guard.problems(), "the stream goes on")
    guard.silent(2)


@pytest.mark.long
def test_a_cutover_that_died_before_it_held_the_writes_is_told_as_unfinished(ground: CutoverGround) -> None:
    guard = guard_of(ground)
    die(ground, "cutover", HELD)
    found = guard.problems()
    assert set(found) == {C.CUTOVER_UNFINISHED}
    assert "release-writes" in found[C.CUTOVER_UNFINISHED].next_step
    ground.let_go()
    guard.silent(1)


@pytest.mark.long
def test_a_living_cutover_is_let_work_until_its_timeout_and_nobody_touches_the_stream(ground: CutoverGround) -> None:
    guard = guard_of(ground)
    die(ground, "cutover", COMPARED)
    with ground.databases.session("base", "test") as base, cutover_lock(base, ground.spec.relation):
        watched = guard.look()
        assert watched.problems == ()
        assert "cutover 2 is under way, at drained" in str(watched.sample.cutover and watched.sample.cutover.case)
        ground.run("legacy", "UPDATE migration.holds SET held_at = held_at - interval '66 s'")
        found = guard.problems()
        assert set(found) == {C.WRITES_HELD}
        assert "release-writes" in found[C.WRITES_HELD].next_step
        for step in (
            lambda: continue_stream(ground.plan),
            lambda: ground.stream(rebuild=True),
            lambda: ground.repair(2),
        ):
            with pytest.raises(StreamError, match="a cutover is under way"):
                step()


@pytest.mark.long
def test_without_any_record_of_a_stream_a_legacy_that_refuses_writes_is_told(ground: CutoverGround) -> None:
    die(ground, "cutover", COMPARED)
    ground.let_go()
    ground.run("legacy", "ALTER TABLE bookings ENABLE ALWAYS TRIGGER migration_assets_hold",
               "INSERT INTO migration.holds (relation, owner) VALUES ('public.bookings', 99)")  # fmt: skip
    ground.run("base", "DELETE FROM migration.streams")
    guard = guard_of(ground)
    assert set(guard.problems()) == {C.WRITES_HELD}
    ground.run("base", "DROP SCHEMA migration CASCADE")
    watched = guard.look()
    assert {problem.code for problem in watched.problems} == {C.WRITES_HELD}
    assert not watched.stored
    assert ground.one("base", "SELECT to_regnamespace('migration')") is None
    assert "accepts writes again" in ground.let_go()
    for _ in range(3):
        assert guard.look().problems == ()
    assert guard.look().idle


def test_a_hold_that_nobody_noted_is_told_with_the_statement_that_ends_it(ground: CutoverGround) -> None:
    ground.cut(rehearse=True)
    ground.run("legacy", "ALTER TABLE bookings ENABLE ALWAYS TRIGGER migration_assets_hold")
    found = guard_of(ground).problems()
    assert "DISABLE TRIGGER migration_assets_hold" in found[C.WRITES_HELD].next_step
    with pytest.raises(Exception, match="nobody noted why"):
        ground.let_go()


@pytest.fixture(scope="module")
def pair() -> Generator[EmbeddedServers]:
    with quick_pair() as found:
        yield found


def mortal(pair: EmbeddedServers) -> CutoverGround:
    name = f"mortal_{secrets.token_hex(4)}"
    for server in _SERVERS:
        pair.recreate_database(server, name)
    return ground_of(pair.legacy_url(name), pair.base_url(name))


@pytest.mark.long
def test_a_base_that_is_killed_while_the_legacy_is_held_is_told_by_what_the_watch_remembers(
    pair: EmbeddedServers,
) -> None:
    ground = mortal(pair)
    guard = guard_of(ground)
    guard.silent(1)
    die(ground, "cutover", DRAINED)
    pair.kill("base")
    try:
        first = guard.look()
        assert {problem.code for problem in first.problems} == {C.WRITES_HELD, C.BASE_UNREACHABLE}
        assert {alert.code for alert in first.raised} == {C.WRITES_HELD, C.BASE_UNREACHABLE}
        assert guard.look().raised == (), "told once"
        assert "accepts writes again" in ground.let_go()
        assert C.WRITES_HELD not in guard.problems()
        with psycopg.connect(ground.databases.legacy_url) as legacy:
            legacy.execute("UPDATE bookings SET guests = guests WHERE id = 1")
    finally:
        pair.start()
    wait_for(lambda: set(guard.problems()) == {C.CUTOVER_UNFINISHED}, "what the dead one left is told")
    ground.let_go()
    wait_for(lambda: not guard.problems(), "the stream goes on")
    guard.silent(2)


@pytest.mark.long
def test_a_base_in_charge_that_is_killed_is_told_and_the_legacy_is_not_to_be_released(pair: EmbeddedServers) -> None:
    ground = mortal(pair)
    ground.cut()
    guard = guard_of(ground)
    guard.silent(1)
    pair.kill("base")
    try:
        found = guard.problems()
        assert set(found) == {C.WRITES_HELD, C.BASE_UNREACHABLE}
        assert "bring the base back" in found[C.WRITES_HELD].next_step
    finally:
        pair.start()
    wait_for(lambda: not guard.problems(), "all is well again")
    guard.silent(2)
