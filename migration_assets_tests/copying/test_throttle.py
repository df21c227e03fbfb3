"""A copy is held back while a limit is passed, says why in figures, and goes on by itself."""

import logging
import re
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import LiteralString

import psycopg
import pytest

from migration_assets.copying import throttle as of_copies
from migration_assets.copying.copying import copy_slice
from migration_assets.copying.throttle import (
    CopyLimits,
    SliceCopy,
    Throttle,
    ThrottleError,
    ThrottleLimits,
    throttle,
)
from migration_assets.domain.errors import MigrationError
from migration_assets.domain.samples import StreamSample
from migration_assets.ledger.samples import store_sample
from migration_assets.postgres.sessions import Databases
from migration_assets_tests.freezes import patience
from migration_assets_tests.ground import SPEC, Ground, wait_for, week
from migration_assets_tests.stream.small_stream import SmallStream, small_stream

NOWHERE = Databases("postgresql://nobody@127.0.0.1:1/nothing", "postgresql://nobody@127.0.0.1:1/nothing")


@pytest.fixture
def stream(ground: Ground) -> SmallStream:
    return small_stream(ground)


@contextmanager
def at_work(ground: Ground) -> Generator[ExitStack]:
    """Three sessions of a shop at work on the legacy, until it is closed."""
    sleep = "SELECT pg_sleep(60)"
    with ExitStack() as stack:
        for _ in range(3):
            session = stack.enter_context(closing(psycopg.connect(ground.databases.legacy_url, autocommit=True)))
            stack.callback(session.cancel_safe)  # closing alone would not end the query
            session.pgconn.send_query(sleep.encode())
        active = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
        wait_for(lambda: ground.one("legacy", active + " AND datname = current_database()") == 3, "the shop is at work")
        yield stack


@pytest.fixture
def busy(ground: Ground) -> Generator[ExitStack]:
    with at_work(ground) as stack:
        yield stack


def reasons(ground: Ground, limits: ThrottleLimits) -> list[str]:
    with throttle(ground.databases, SPEC.relation, limits) as made:
        return made.reasons()


def test_a_throttle_without_limits_asks_nobody() -> None:
    assert Throttle(NOWHERE, SPEC.relation, ThrottleLimits()).wait() == 0.0


def test_without_a_stream_only_the_load_counts(ground: Ground, busy: ExitStack) -> None:
    every = ThrottleLimits(lag_seconds=0.001, retained_wal_gb=1e-9, legacy_active_sessions=2)
    assert reasons(ground, every) == ["3 active sessions on the legacy are over 2"]
    assert reasons(ground, ThrottleLimits(legacy_active_sessions=3)) == []
    busy.close()


def test_a_fresh_sample_is_believed(stream: SmallStream) -> None:
    sample = StreamSample(SPEC.relation, datetime.now(UTC), status="live", lag_seconds=45.0,
                          retained_wal_bytes=9 * 10**9, legacy_active_sessions=50)  # fmt: skip
    with stream.ground.databases.session("base", "test") as base:
        store_sample(base, sample)
    assert reasons(stream.ground, ThrottleLimits(30, 8, 40)) == [
        "lag 45.0 s is over 30 s",
        "retained WAL 9.000 GB is over 8 GB",
        "50 active sessions on the legacy are over 40",
    ]
    assert reasons(stream.ground, ThrottleLimits(50, 10, 50)) == []

    # A stream that stands on purpose, and then a sample that is old: measured instead.
    stream.ground.run("base", 'UPDATE migration.stream_samples SET sample = sample || \'{"status": "held"}\'')
    assert reasons(stream.ground, ThrottleLimits(30, 8)) == []
    stream.ground.run("base", "UPDATE migration.stream_samples SET stored_at = stored_at - interval '1 hour'")
    assert reasons(stream.ground, ThrottleLimits(30, 8, 40)) == []


@pytest.mark.long
def test_without_a_watch_the_throttle_sends_heartbeats_and_measures_for_itself(stream: SmallStream) -> None:
    stream.on("base", "ALTER SUBSCRIPTION {} DISABLE")
    stream.wait_for_slot_to_be_free()
    stream.ground.run("legacy", "CREATE TABLE others AS SELECT generate_series(1, 2000)")
    limits = ThrottleLimits(lag_seconds=0.5, retained_wal_gb=0.00001)
    with throttle(stream.ground.databases, SPEC.relation, limits) as made:
        [kept] = made.reasons()
        assert kept.startswith("retained WAL 0.000 GB is over 1e-05 GB")
        wait_for(lambda: any(reason.startswith("lag ") for reason in made.reasons()), "the heartbeat gets old")
        assert stream.ground.one("legacy", "SELECT count(*) FROM migration.markers") == 1
        stream.on("base", "ALTER SUBSCRIPTION {} ENABLE")
        wait_for(lambda: not any(reason.startswith("lag ") for reason in made.reasons()), "the base catches up")


def test_a_copy_waits_says_why_and_goes_on(ground: Ground, busy: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    waited: list[float] = []

    def copy() -> None:
        with throttle(ground.databases, SPEC.relation, ThrottleLimits(legacy_active_sessions=1)) as made:
            waited.append(made.wait(told.append))

    with caplog.at_level(logging.INFO):
        thread = threading.Thread(target=copy)
        thread.start()
        wait_for(lambda: told, "it says that it waits")
        busy.close()
        thread.join(patience(20))
    assert waited[0] > 0
    assert told[0] == (
        "copy held back: 3 active sessions on the legacy are over 1 (0 s so far; waits for as long as it takes)"
    )
    assert told[1].startswith("copy goes on after ")
    assert [record.getMessage() for record in caplog.records if "copy" in record.getMessage()] == told


def test_patience_ends_with_the_reason(ground: Ground, busy: ExitStack) -> None:
    limits = ThrottleLimits(legacy_active_sessions=1, patience_seconds=0.5)
    with (
        throttle(ground.databases, SPEC.relation, limits) as made,
        pytest.raises(ThrottleError, match="3 active sessions on the legacy are over 1"),
    ):
        made.wait()
    busy.close()


_OPEN: LiteralString = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_xmin IS NOT NULL"
    " AND application_name LIKE 'migration_assets:FY%'"
)


def test_a_copy_that_waits_for_long_lets_its_snapshot_of_the_legacy_go_and_begins_again(ground: Ground) -> None:
    ground.fill().open()
    limits = ThrottleLimits(legacy_active_sessions=1, snapshot_seconds=0.1)
    plan = SliceCopy(SPEC, ground.calendar, week(1), throttle=limits)
    tried = "SELECT outcome, coalesce(error, '') FROM migration.attempts ORDER BY id"
    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        # A copy that is alone begins, and is kept from loading until its last look at the load is an old one.
        other = stack.enter_context(psycopg.connect(ground.databases.base_url))
        other.execute("LOCK TABLE bookings IN ACCESS EXCLUSIVE MODE")
        copying = pool.submit(copy_slice, ground.databases, plan)
        since = " AND xact_start < clock_timestamp() - interval '1.5 s'"
        wait_for(lambda: ground.one("legacy", _OPEN + since), "the copy has its snapshot")
        shop = stack.enter_context(at_work(ground))
        other.rollback()
        wait_for(lambda: [one for one, _ in ground.ask("base", tried)] == ["failed"], "the first try lets go")
        wait_for(lambda: not ground.one("legacy", _OPEN) and not ground.one("base", _OPEN), "nothing is open")
        assert not copying.done()
        ground.run("legacy", "DELETE FROM bookings WHERE id % 2 = 0")
        shop.close()
        evidence = copying.result(patience(30))
    assert evidence.base.rows == 35
    assert ground.contents("base", 1) == ground.contents("legacy", 1)
    [(_, given_up), (succeeded, _)] = ground.ask("base", tried)
    assert succeeded == "succeeded"
    assert re.search(r"held back for \d+ s in one snapshot of the legacy: 3 active sessions", given_up)


def test_a_copy_that_waits_in_its_snapshot_is_not_taken_for_a_dead_one(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_copies, "_LOOK_SECONDS", 0.1)
    ground.fill().open()
    plan = SliceCopy(
        SPEC, ground.calendar, week(1), CopyLimits(idle_timeout_seconds=1, attempts=1),
        throttle=ThrottleLimits(legacy_active_sessions=1),
    )  # fmt: skip
    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        came: list[ExitStack] = []

        def all_rows_are_there(_rows: int, _bytes: int) -> None:
            came.append(stack.enter_context(at_work(ground)))
            time.sleep(0.1)  # its last look is an old one

        copying = pool.submit(copy_slice, ground.databases, plan, all_rows_are_there)
        since = " AND state = 'idle in transaction' AND state_change < clock_timestamp() - interval '1.2 s'"
        wait_for(lambda: copying.done() or ground.one("legacy", _OPEN + since), "it waits for longer than others may")
        came[0].close()
        assert copying.result(patience(30)).base.rows == 70
    assert ground.contents("base", 1) == ground.contents("legacy", 1)


@pytest.mark.parametrize("limits", [ThrottleLimits(patience_seconds=0.1), ThrottleLimits(snapshot_seconds=0.1)])
def test_a_copy_that_gives_up_says_that_the_week_is_as_it_was(
    ground: Ground, limits: ThrottleLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_copies, "_LOOK_SECONDS", 0.1)
    ground.fill(91).open()
    ground.copy()
    before = ground.base_state()
    plan = SliceCopy(
        SPEC, ground.calendar, week(1), CopyLimits(attempts=1), throttle=replace(limits, legacy_active_sessions=1)
    )
    with ExitStack() as stack:

        def all_rows_are_there(_rows: int, _bytes: int) -> None:
            stack.enter_context(at_work(ground))
            time.sleep(0.1)  # its last look is an old one

        with pytest.raises(MigrationError) as given_up:
            copy_slice(ground.databases, plan, all_rows_are_there)
    assert "the week is in the base as it was" in given_up.value.state_left
    assert (ground.base_state(), ground.staging()) == (before, [])
    assert ground.one("base", "SELECT count(*) FROM migration.session_locks") == 0


def test_between_two_looks_it_costs_nothing(ground: Ground) -> None:
    with throttle(ground.databases, SPEC.relation, ThrottleLimits(legacy_active_sessions=1000)) as made:
        assert made.reasons() == []
        started = time.thread_time()
        for _ in range(1000):
            made.wait()
        # Its own time: what others take of the machine is not its cost.
        assert time.thread_time() - started < 0.5


def test_a_throttle_that_cannot_look_holds_nothing_back_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    assert Throttle(NOWHERE, SPEC.relation, ThrottleLimits(lag_seconds=1)).reasons() == []
    assert "could not measure the load" in caplog.text
