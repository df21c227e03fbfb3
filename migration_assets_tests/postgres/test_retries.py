"""What passes by itself is tried again; nothing else is."""

import logging
import threading
import time
from collections.abc import Callable

import psycopg
import pytest
from psycopg import errors
from psycopg.conninfo import make_conninfo

from migration_assets.domain.errors import PartitionError, RightsError, SliceBusyError, UnavailableError
from migration_assets.postgres.retries import is_lock_timeout, is_transient, retry_locked, retry_transient
from migration_assets_tests.freezes import patience
from migration_assets_tests.ground import Ground

_LOG = logging.getLogger("test_retries")
_TRANSIENT = [
    "08000", "08003", "08006", "08001", "08P01", "57P01", "57P02", "57P03", "55P03", "55006", "40001", "40P01",
    "53300", "53400",
]  # fmt: skip
_PERMANENT = [
    "57014", "25P03", "23505", "23514", "42501", "42P01", "42703", "53100", "53200", "XX000", "XX001", "22P02",
    "28000", "28P01", "3D000", "0A000", "25006", "57P04",
]  # fmt: skip


def _error(sqlstate: str) -> psycopg.Error:
    return errors.lookup(sqlstate)("happened")


@pytest.mark.parametrize("sqlstate", _TRANSIENT)
def test_an_error_that_passes_by_itself_is_transient(sqlstate: str) -> None:
    try:
        error = _error(sqlstate)
    except KeyError:
        pytest.skip("psycopg has no class for it")
    assert is_transient(error)


@pytest.mark.parametrize("sqlstate", _PERMANENT)
def test_an_error_that_somebody_has_to_look_at_is_permanent(sqlstate: str) -> None:
    assert not is_transient(_error(sqlstate))


@pytest.mark.parametrize(
    "text",
    [
        "connection failed: connection refused",
        "server closed the connection unexpectedly",
        "the connection is closed",
        "consuming input failed: EOF detected",
        "connection timeout expired",
        "failed to resolve host 'db': Temporary failure in name resolution",
    ],
)
def test_a_lost_connection_is_transient(text: str) -> None:
    assert is_transient(psycopg.OperationalError(text))


@pytest.mark.parametrize(
    "text",
    [
        'connection failed: FATAL:  password authentication failed for user "x"',
        'connection failed: FATAL:  database "x" does not exist',
        'connection failed: FATAL:  role "x" does not exist',
        'connection failed: FATAL:  no pg_hba.conf entry for host "x"',
        "connection failed: fe_sendauth: no password supplied",
        "invalid port number",
    ],
)
def test_a_refused_login_is_permanent_because_repeating_it_locks_accounts(text: str) -> None:
    assert not is_transient(psycopg.OperationalError(text))


@pytest.mark.parametrize("error", [PartitionError("x"), SliceBusyError("x"), ValueError("x"), KeyboardInterrupt()])
def test_our_own_errors_are_permanent(error: BaseException) -> None:
    assert not is_transient(error)


def test_real_logins_that_fail_are_permanent_and_a_dead_port_is_transient(ground: Ground) -> None:
    def attempt(**changes: str) -> psycopg.Error:
        with pytest.raises(psycopg.Error) as caught:
            psycopg.connect(make_conninfo(ground.databases.base_url, **changes), connect_timeout=5)
        return caught.value

    assert not is_transient(attempt(dbname="nowhere"))
    assert not is_transient(attempt(password="wrong"))
    assert not is_transient(attempt(user="nobody-i-know", password="wrong"))
    assert is_transient(attempt(port="1"))


def test_only_locks_and_deadlocks_count_as_lock_timeouts() -> None:
    assert is_lock_timeout(errors.LockNotAvailable())
    assert is_lock_timeout(errors.DeadlockDetected())
    assert not is_lock_timeout(errors.QueryCanceled())


def _failing(error: BaseException, times: int) -> tuple[Callable[[], str], list[int]]:
    calls: list[int] = []

    def call() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "done"

    return call, calls


def test_a_transient_error_is_tried_again_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    call, calls = _failing(errors.AdminShutdown("going down"), 1)
    with caplog.at_level(logging.WARNING):
        assert retry_transient(call, what="the copy", attempts=3, log=_LOG, longest_pause=0.01) == "done"
    assert len(calls) == 2
    assert "the copy: try 1 of 3 failed (going down)" in caplog.text


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (errors.AdminShutdown("going down"), "whether both servers run"),
        (errors.LockNotAvailable("going down"), "pg_blocking_pids"),
        (errors.TooManyConnections("going down"), "free connections"),
    ],
)
def test_what_never_passes_by_itself_is_told_with_what_to_do(error: psycopg.Error, advice: str) -> None:
    call, calls = _failing(error, 9)
    with pytest.raises(UnavailableError) as caught:
        retry_transient(call, what="the copy", attempts=2, log=_LOG, longest_pause=0.01)
    assert caught.value.__cause__ is error
    assert caught.value.where == "the copy"
    assert caught.value.what == "all 2 tries failed; the last error: going down"
    assert advice in caught.value.next_step
    assert caught.value.state_left
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("permission denied for table bookings", "preflight"),
        ('query would be affected by row-level security policy for table "bookings"', "NO FORCE ROW LEVEL SECURITY"),
    ],
)
def test_a_right_that_is_missing_is_told_at_once_with_what_to_do(text: str, advice: str) -> None:
    call, calls = _failing(errors.InsufficientPrivilege(text), 9)
    with pytest.raises(RightsError) as caught:
        retry_transient(call, what="the copy", attempts=5, log=_LOG)
    assert text in caught.value.what
    assert advice in caught.value.next_step
    assert caught.value.state_left
    assert len(calls) == 1


@pytest.mark.parametrize("error", [errors.UniqueViolation("x"), KeyboardInterrupt(), SliceBusyError("x")])
def test_a_permanent_error_is_raised_at_once(error: BaseException) -> None:
    call, calls = _failing(error, 9)
    with pytest.raises(type(error)):
        retry_transient(call, what="x", attempts=5, log=_LOG)
    assert len(calls) == 1


def test_five_tries_outlast_a_server_that_restarts_for_fifteen_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    ours, sleep = threading.get_ident(), time.sleep

    def pause(seconds: float) -> None:
        """Other threads of this process, left by earlier tests, go on sleeping."""
        if threading.get_ident() == ours:
            pauses.append(seconds)
        else:
            sleep(seconds)

    monkeypatch.setattr(time, "sleep", pause)
    call, _ = _failing(errors.CannotConnectNow("starting up"), 9)
    with pytest.raises(UnavailableError):
        retry_transient(call, what="x", attempts=5, log=_LOG)
    assert len(pauses) == 4
    assert sum(pauses) >= 15


def test_locks_are_asked_for_until_patience_ends() -> None:
    call, calls = _failing(errors.LockNotAvailable("x"), 10**9)
    start = time.monotonic()
    with pytest.raises(errors.LockNotAvailable):
        retry_locked(call, patience_seconds=0.3)
    assert 0.1 < time.monotonic() - start < patience(3)
    assert len(calls) >= 2
