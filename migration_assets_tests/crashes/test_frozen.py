"""A controller that hangs: it holds nobody for long, nobody works behind its back, and does no harm when it wakes."""

import os
import signal
import time

import psycopg
import pytest

from migration_assets.domain.errors import StreamError
from migration_assets.postgres.sessions import Timeouts
from migration_assets.stream import holding
from migration_assets.stream.holding import pause_stream, resume_stream, start_stream
from migration_assets_tests.convergence.table import reserved_ids
from migration_assets_tests.crashes.drills import go_on, stopped_under_traffic
from migration_assets_tests.crashes.judge import Judge
from migration_assets_tests.crashes.moments import (
    BEFORE_LEGACY_CHANGES,
    BEFORE_REST,
    BEFORE_SWAP,
    IN_ACTIVATION,
    IN_LOCK,
    IN_REPAIR,
    IN_SWAP,
)
from migration_assets_tests.crashes.steps import QUARTER, WEEK
from migration_assets_tests.crashes.trap import Point
from migration_assets_tests.freezes import freezes
from migration_assets_tests.ground import wait_for
from migration_assets_tests.sweeps import telling

# A write of the others waits for the lock's whole second, and for a busy machine.
_HELD_MS = 2_000.0


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "_TIMEOUTS", Timeouts(lock=1_000))


def _end_session(judge: Judge, purpose: str) -> None:
    """What the error's text invites to: end the backend that holds the stream, and not the process."""
    with judge.migration.databases.session("base", "test") as base:
        ended = base.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name LIKE %s",
            [f"migration_assets:%{purpose}"],
        ).fetchall()
    assert ended == [(True,)]


@pytest.mark.long
def test_a_controller_that_hangs_with_the_legacys_lock_holds_writers_for_a_second(judge: Judge) -> None:
    with freezes() as machine, stopped_under_traffic(judge, "copy", IN_LOCK) as (child, waits):
        began = time.monotonic()
        judge.require_nobody_held()
        assert time.monotonic() - began < (_HELD_MS + 2 * machine.longest_ms) / 1000
        go_on(child)
        ended = child.wait()
        print(f"woken: {ended.said}")
        judge.require_gone()
        judge.as_a_person(lambda: start_stream(judge.migration, QUARTER))
    assert 500 < waits[-1] < _HELD_MS + 2 * machine.longest_ms
    judge.conclude("copy")


@pytest.mark.long
def test_a_stream_that_a_hanging_controller_has_paused_is_not_taken_from_it(judge: Judge) -> None:
    with stopped_under_traffic(judge, "copy", IN_SWAP) as (child, _):
        with pytest.raises(StreamError, match=r"is being worked on by backend \d+ \(.*W05:copy:pause\)"):
            resume_stream(judge.migration)
        go_on(child)
        ended = child.wait()
        assert not ended.failed, ended.said
    judge.conclude("copy")


@pytest.mark.long
def test_a_stream_whose_hanging_controller_was_killed_is_resumed(judge: Judge) -> None:
    with stopped_under_traffic(judge, "copy", IN_SWAP) as (child, _):
        with pytest.raises(StreamError, match="is being worked on"):
            resume_stream(judge.migration)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        judge.require_gone()
        assert "goes on (it was paused" in resume_stream(judge.migration)
    judge.conclude("copy")


def _rewrite_the_week(judge: Judge) -> None:
    """A row of the step's week changes on the legacy, and the stream brings it: it is past every marker then."""
    id_, note = reserved_ids(WEEK)[8], f"after {judge.random.random()}"
    with psycopg.connect(judge.migration.databases.legacy_url, autocommit=True) as legacy:
        legacy.execute("UPDATE public.bookings SET note = %s WHERE id = %s", [note, id_])
    with psycopg.connect(judge.migration.databases.base_url, autocommit=True) as base:
        there = "SELECT 1 FROM public.bookings WHERE id = %s AND note = %s"
        wait_for(lambda: base.execute(there, [id_, note]).fetchone(), "the change arrives")


@pytest.mark.long
@pytest.mark.parametrize(
    ("step", "point"), [("copy", BEFORE_REST["copy"]), ("repair", BEFORE_REST["repair"]), ("activate", IN_ACTIVATION)]
)
def test_a_step_that_lost_the_stream_before_it_changed_anything_changes_nothing_when_it_wakes(
    judge: Judge, step: str, point: Point
) -> None:
    """Its session that holds the stream was ended, as the error invites to, and another one let the stream go on."""
    with stopped_under_traffic(judge, step, point) as (child, _):
        _end_session(judge, ":join" if step == "activate" else ":pause")
        if step == "activate":
            start_stream(judge.migration, QUARTER)
        else:
            assert "goes on (it was paused" in resume_stream(judge.migration)
        _rewrite_the_week(judge)
        go_on(child)
        ended = child.wait()
        assert ended.failed, ended.said
        assert "another step let the stream go on" in str(ended.said), ended.said
        judge.require_gone()
        judge.back(step, "again", ended)
    judge.conclude("copy")


@pytest.mark.long
@pytest.mark.parametrize(("step", "point"), telling([("copy", BEFORE_SWAP), ("repair", IN_REPAIR)], {0}))
def test_a_step_that_lost_the_stream_in_its_transaction_keeps_it_at_rest_until_it_wakes(
    judge: Judge, step: str, point: Point
) -> None:
    with stopped_under_traffic(judge, step, point) as (child, _):
        _end_session(judge, ":pause")
        with pytest.raises(StreamError):
            resume_stream(judge.migration)
        go_on(child)
        ended = child.wait()
        print(f"woken: {ended.said}")
        judge.require_gone()
        judge.as_a_person(lambda: resume_stream(judge.migration))
        judge.back(step, "again", ended)
        _rewrite_the_week(judge)
    judge.conclude("copy")


def _on_the_legacy(judge: Judge) -> list[tuple[object, ...]]:
    """The slots of this database, the publications as they were last written, and the newest cut."""
    with psycopg.connect(judge.migration.databases.legacy_url, autocommit=True) as legacy:
        return legacy.execute(
            "SELECT slot_name, NULL FROM pg_replication_slots WHERE database = current_database() AND NOT temporary"
            " UNION ALL SELECT p.pubname, p.xmin::text || '/' || r.xmin::text"
            " FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid"
            " UNION ALL SELECT 'cut', max(id)::text FROM migration.markers WHERE kind = 'cut' ORDER BY 1, 2"
        ).fetchall()


@pytest.mark.long
@pytest.mark.parametrize(
    ("step", "point"), [(step, point) for step, points in BEFORE_LEGACY_CHANGES.items() for point in points]
)
def test_a_step_that_lost_the_stream_before_it_changed_the_legacy_changes_nothing_there(
    judge: Judge, step: str, point: Point
) -> None:
    """The base forgot its lock, as when its server restarts, and another run brought the stream up again."""
    with stopped_under_traffic(judge, step, point) as (child, _):
        for purpose in [":join"] + [":join:pause"] * (step == "join"):
            _end_session(judge, purpose)
        start_stream(judge.migration, QUARTER)
        pause_stream(judge.migration, "a drill")  # nobody reads the slot: that alone would keep it from being dropped
        before = _on_the_legacy(judge)
        go_on(child)
        # Its lost session is an error that passes: it tries again, and finds nothing left to do.
        ended = child.wait()
        assert _on_the_legacy(judge) == before, ended.said
        judge.require_gone()
        resume_stream(judge.migration)
        _rewrite_the_week(judge)
    judge.conclude("copy")
