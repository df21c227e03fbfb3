"""Somebody keeps a transaction open, or works on the whole table: a step waits, names them, and holds nobody else."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import LiteralString

import psycopg
import pytest

from migration_assets.copying.weeks import repair_week, validate_week
from migration_assets.domain.errors import CutError, StreamError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.runtime import Migration
from migration_assets.stream.holding import start_stream
from migration_assets_tests.convergence.workload import writing
from migration_assets_tests.crashes.judge import Judge
from migration_assets_tests.crashes.steps import QUARTER, WEEK
from migration_assets_tests.freezes import freezes, patience
from migration_assets_tests.ground import wait_for

_HOLD: LiteralString = "UPDATE public.bookings SET guests = 7 WHERE id = (SELECT max(id) FROM public.bookings)"
# One try of a cut holds the others for 100 ms at the most; the rest is for a busy machine.
_LONGEST_STALL_MS = 150.0


@contextmanager
def open_writer(judge: Judge) -> Generator[int]:
    """A transaction that wrote and does not end; its pid."""
    with psycopg.connect(judge.migration.databases.legacy_url) as writer:
        writer.execute(_HOLD)
        yield writer.info.backend_pid
        writer.rollback()


def impatient(judge: Judge, **settings: float) -> Migration:
    return replace(judge.migration, settings=judge.migration.settings.model_copy(update=settings))


@pytest.fixture(autouse=True)
def live(judge: Judge) -> None:
    judge.stage.set("live")


def _repair(migration: Migration, week: FiscalWeek) -> object:
    return repair_week(migration, week, dry_run=False)


@pytest.mark.long
@pytest.mark.parametrize("step", [validate_week, _repair])
def test_a_long_writer_makes_a_cut_impossible_and_is_named_and_nobody_else_waits(
    judge: Judge, step: Callable[[Migration, FiscalWeek], object]
) -> None:
    migration = impatient(judge, cut_patience_seconds=2.0, retry_attempts=1)
    with (
        freezes() as machine,
        writing(judge.migration.databases.legacy_url, 1, writers=0) as traffic,
        open_writer(judge) as pid,
    ):
        with pytest.raises(CutError) as caught:
            step(migration, WEEK)
        judge.require_nobody_held()
    text = str(caught.value)
    assert f"backend {pid} (" in text, text
    assert " s old: UPDATE" in text, text
    assert "guests" not in text, "a statement of others holds their data"
    assert "pg_terminate_backend(pid)" in text, text
    waits = sorted(traffic.waits)
    print(f"longest stalls, ms: {[round(wait) for wait in waits[-5:]]} of {len(waits)}")
    assert waits[-1] < _LONGEST_STALL_MS + 2 * machine.longest_ms
    step(judge.migration, WEEK)
    judge.conclude("validate")


@pytest.mark.long
def test_a_long_writer_makes_a_slot_impossible_and_is_named_and_no_slot_is_left(judge: Judge) -> None:
    migration = impatient(judge, stream_patience_seconds=1.0, retry_attempts=1)
    with writing(judge.migration.databases.legacy_url, 1, writers=1), open_writer(judge) as pid:
        with pytest.raises(StreamError) as caught:
            start_stream(migration, QUARTER, rebuild=True)
        assert f"backend {pid} (" in str(caught.value), caught.value
        judge.require_nobody_held()
        with psycopg.connect(judge.migration.databases.legacy_url) as legacy:
            slots = legacy.execute("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()")
            assert slots.fetchall() == []
    said = judge.as_a_person(lambda: start_stream(judge.migration, QUARTER))
    assert said == []
    judge.conclude("rebuild")


@pytest.mark.long(but=1)
@pytest.mark.parametrize("step", ["validate", "join"])
def test_who_builds_an_index_meanwhile_is_waited_for(judge: Judge, step: str) -> None:
    """CREATE INDEX CONCURRENTLY waits for an open transaction itself, with a lock that a cut has to wait for."""
    judge.set_stage(step)
    url = judge.migration.databases.legacy_url
    with psycopg.connect(url, autocommit=True) as watch, psycopg.connect(url) as reader:
        watch.execute("DROP INDEX IF EXISTS public.bookings_late_idx")
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT count(*) FROM public.bookings")

        def build() -> None:
            with psycopg.connect(url, autocommit=True) as builder:
                builder.execute("CREATE INDEX CONCURRENTLY bookings_late_idx ON public.bookings (guests)")

        thread = threading.Thread(target=build)
        thread.start()
        waits = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX C%' AND wait_event = 'virtualxid'"
        wait_for(lambda: watch.execute(waits).fetchone(), "the index's build waits")
        impatient_child = judge.child(step, cut_patience_seconds=1.0, retry_attempts=1)
        ended = impatient_child.wait()
        assert ended.failed
        assert "CREATE INDEX CONCURRENTLY" in str(ended.said), ended.said
        patient = judge.child(step)
        wait_for(
            lambda: watch.execute("SELECT 1 FROM pg_stat_activity WHERE application_name LIKE '%:cut'").fetchone(),
            "the patient one begins",
        )
        reader.rollback()
        thread.join(patience(30))
        ended = patient.wait()
        assert not ended.failed, ended.said
        watch.execute("DROP INDEX public.bookings_late_idx")
    judge.conclude(step)
