"""Applications whose writes wait try again, and take all connections: their writes are let go all the same, in time."""

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from migration_assets.cutover import stages
from migration_assets.cutover.work import Work
from migration_assets.domain.states import CutoverError, CutoverState
from migration_assets.postgres.sessions import Connected
from migration_assets_tests.clones import Clones
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.cutover.ordeal import settle_down
from migration_assets_tests.ground import wait_for
from migration_assets_tests.limits import crowds


@pytest.fixture
def ground(clones: Clones) -> Generator[CutoverGround]:
    with clones.streamed(364) as databases:
        yield CutoverGround(databases)


def accepts_writes(legacy: Connected) -> bool:
    return legacy.execute("SELECT count(*) FROM migration.holds").fetchone() == (0,)


def before_comparing(monkeypatch: pytest.MonkeyPatch, happens: Callable[[Work], object]) -> None:
    """While writes are held."""
    compare = stages.STAGES[CutoverState.COMPARED]

    def deed(work: Work) -> None:
        happens(work)
        compare(work)

    monkeypatch.setitem(stages.STAGES, CutoverState.COMPARED, deed)  # pyright: ignore[reportArgumentType]


def allow_connections(ground: CutoverGround, database: str, allowed: LiteralString = "true") -> None:
    # Nobody may do it to the database that he is in.
    with psycopg.connect(ground.databases.legacy_url, dbname="postgres", autocommit=True) as outside:
        outside.execute(
            sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(sql.Identifier(database), sql.SQL(allowed))
        )


@contextmanager
def door_shut(ground: CutoverGround) -> Generator[Connected]:
    """The legacy takes no further session, for another reason than a limit; one that is open."""
    with psycopg.connect(ground.databases.legacy_url, autocommit=True) as session:
        allow_connections(ground, session.info.dbname, "false")
        try:
            yield session
        finally:
            allow_connections(ground, session.info.dbname)


def end_kept(work: Work, by: Connected) -> None:
    assert work.kept is not None
    pid = work.kept.session.info.backend_pid
    assert by.execute("SELECT pg_terminate_backend(%s, 5000)", [pid]).fetchone() == (True,)


@pytest.mark.long(but=2)
@pytest.mark.parametrize("hangs", [False, True], ids=["fails", "hangs"])
@pytest.mark.parametrize("why", ["full", "shut", "shut, and an idle session was ended"])
def test_a_legacy_that_takes_no_further_session_accepts_writes_again(
    ground: CutoverGround, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, why: str, *, hangs: bool
) -> None:
    crowd: list[Connected] = []
    in_time: list[bool] = []
    with ExitStack() as stack:

        def nobody_gets_in(work: Work) -> None:
            nobody = crowds.connections(ground, "legacy", 0) if why == "full" else door_shut(ground)
            crowd.append(stack.enter_context(nobody))
            assert not accepts_writes(crowd[0])
            if why.endswith("ended"):
                end_kept(work, crowd[0])
            if hangs:
                if why.endswith("ended"):
                    wait_for(lambda: "could not be released yet" in caplog.text, "it has tried once")
                    assert not accepts_writes(crowd[0])
                    allow_connections(ground, crowd[0].info.dbname)
                wait_for(lambda: accepts_writes(crowd[0]), "the time of the cutover is over")
                in_time.append(True)

        before_comparing(monkeypatch, nobody_gets_in)
        with pytest.raises(CutoverError) as stopped:
            ground.cut(timeout_seconds=3 if hangs else 30)
        assert in_time or not hangs, stopped.value
        assert "writes go on on the legacy" in stopped.value.state_left or hangs
        assert accepts_writes(crowd[0])
        crowd[0].execute("INSERT INTO public.bookings (booked_at, guests) VALUES ('2024-05-01', 2)")
    monkeypatch.undo()
    assert ground.cut().outcome == "succeeded"
    ground.insert("base")
    settle_down(ground)
    ground.equal()


def test_nobody_is_held_once_the_session_that_would_let_writes_go_was_ended(
    ground: CutoverGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = stages.STAGES[CutoverState.WAITING]

    def deed(work: Work) -> None:
        wait(work)
        end_kept(work, work.legacy)

    monkeypatch.setitem(stages.STAGES, CutoverState.WAITING, deed)  # pyright: ignore[reportArgumentType]
    with pytest.raises(CutoverError, match="stopped at held: the session that would let the legacy's writes go") as one:
        ground.cut()
    assert "what ends idle sessions on the legacy" in one.value.next_step
    [stopped] = ground.records()
    assert (stopped.outcome, stopped.held_at) == ("aborted", None)
    ground.insert("legacy")
    monkeypatch.undo()
    assert ground.cut().outcome == "succeeded"
