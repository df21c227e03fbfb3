"""The copying process is stopped or killed in any phase: nothing is left, and the next run does the work."""

import os
import signal
import subprocess
import sys
from typing import LiteralString

import psycopg
import pytest

from migration_assets.domain.states import SliceState
from migration_assets_tests.freezes import patience
from migration_assets_tests.ground import Ground, attempt_of, phases, wait_for

_PROCESS = """
import os, signal
# Whoever runs the tests in the background has SIGINT ignored, and every child inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
from migration_assets.postgres.sessions import Databases
from migration_assets_tests.ground import Ground
Ground(Databases(os.environ["TEST_LEGACY"], os.environ["TEST_BASE"])).copy(1)
"""
# While table public.slow exists in the base, its COPY and its index take 0.1 s a row. Fingerprints take their time
# because there is much to read; and a reader holds up the swap.
_NAP = """
CREATE FUNCTION public.nap() RETURNS void LANGUAGE plpgsql SET search_path = public AS
$$ BEGIN IF to_regclass('public.slow') IS NOT NULL THEN PERFORM pg_sleep(0.1); END IF; END $$;
"""
_SLOW_GUESTS = """
CREATE FUNCTION public.slow_guests(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS
$$ BEGIN PERFORM public.nap(); RETURN $1; END $$;
"""
_MAKE_SLOW: LiteralString = "CREATE TABLE public.slow ()"
_MUCH: LiteralString = """
INSERT INTO bookings SELECT 10000 + n, '2024-04-02Z', n % 7, n, repeat(md5(n::text), 60)
FROM generate_series(1, 40000) n
"""


@pytest.fixture
def copied(ground: Ground) -> Ground:
    """W01 was copied, and differs in the legacy by now."""
    ground.run("legacy", _NAP, _SLOW_GUESTS)
    ground.run("base", _NAP, _SLOW_GUESTS)
    ground.fill()
    ground.run(
        "legacy",
        "CREATE INDEX bookings_slow_idx ON bookings (slow_guests(guests))",
    )
    ground.open()
    ground.copy(1)
    ground.run("legacy", "UPDATE bookings SET guests = -1")
    return ground


def _start(ground: Ground) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _PROCESS],
        env={**os.environ, "TEST_LEGACY": ground.databases.legacy_url, "TEST_BASE": ground.databases.base_url},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.long
@pytest.mark.parametrize("phase", ["copy", "index", "fingerprint", "swap"])
def test_a_copy_that_is_stopped_or_killed_leaves_nothing_and_the_next_one_completes(copied: Ground, phase: str) -> None:
    if phase == "copy":
        copied.meddle("PERFORM public.nap(); RETURN NEW;")
    with (
        psycopg.connect(copied.databases.base_url) as reader,
        psycopg.connect(copied.databases.base_url, autocommit=True) as watch,
        psycopg.connect(copied.databases.legacy_url, autocommit=True) as watch_legacy,
    ):
        if phase == "fingerprint":
            watch_legacy.execute(_MUCH)
        if phase in {"fingerprint", "swap"}:
            reader.execute("SELECT count(*) FROM bookings_fy25_q2")
        else:
            watch.execute(_MAKE_SLOW)
        state = copied.base_state()
        seen: list[str] = []
        for number, outcome in ((signal.SIGINT, "failed"), (signal.SIGKILL, "interrupted")):
            process = _start(copied)
            wait_for(lambda: f"FY25-Q2|W01:{phase}" in phases(watch), f"phase {phase}")
            assert copied.record(1).working
            assert attempt_of(copied.record(1)).outcome == "running"
            process.send_signal(number)
            _, errors = process.communicate(timeout=patience(20))
            assert process.returncode != 0
            wait_for(lambda: phases(watch) + phases(watch_legacy) == [], "the servers' sessions end")
            record, expected = copied.record(1), outcome
            if "could not be marked as failed" in errors:
                # The signal came while a statement was ending, and psycopg closed the connection: nobody can note it.
                expected = "interrupted"
            assert (record.working, attempt_of(record).outcome, record.state) == (False, expected, SliceState.COPIED)
            if number is signal.SIGINT:
                assert "KeyboardInterrupt" in errors
                assert expected == "interrupted" or "KeyboardInterrupt" in str(attempt_of(record).error)
            seen.append(expected)
            assert copied.base_state() == state
            assert copied.staging() == []
        reader.rollback()
        watch.execute("DROP TABLE IF EXISTS public.slow")
    copied.copy(1)
    copied.verify(1)
    assert copied.contents("base") == copied.contents("legacy", 1)
    outcomes = ["succeeded", *seen, "succeeded", "succeeded"]
    assert [outcome for _, outcome in copied.attempts(1)] == outcomes
