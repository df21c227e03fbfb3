"""Which errors pass by themselves and how to try again; and how an interrupt gets through, once."""

import logging
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

import psycopg
from psycopg import errors
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    retry_if_result,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential,
    wait_random,
    wait_random_exponential,
)

from migration_assets.domain.errors import (
    ConnectionLostError,
    HeldBackError,
    RightsError,
    TableBusyError,
    UnavailableError,
)
from migration_assets.postgres.server_messages import advice_on_limit, limit_error, place, told

_Result = TypeVar("_Result")

# Classes 08 (connection) and the shutdown codes of class 57 arrive while a server restarts; class 40 and 55P03 are
# other transactions in the way; 53300 and 53400 mean that connections or a configured limit are used up for now.
# 57014 (query_canceled) is permanent: a statement timeout, or a person, ended the statement.
_TRANSIENT_STATES = frozenset({"57P01", "57P02", "57P03", "55P03", "55006", "40001", "40P01", "53300", "53400"})
_LEFT = "what was committed stays, everything else was rolled back; `status` shows what there is"
_PERMANENT_CONNECTION = (
    errors.InvalidPassword,
    errors.InvalidAuthorizationSpecification,
    errors.InvalidCatalogName,
)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed a little later, although nothing is changed."""
    if isinstance(error, (ConnectionLostError, HeldBackError, TableBusyError)):
        return True
    if not isinstance(error, psycopg.Error) or isinstance(error, _PERMANENT_CONNECTION):
        return False
    if error.sqlstate:
        return error.sqlstate in _TRANSIENT_STATES or error.sqlstate.startswith("08")
    # libpq's own errors carry no code. A refused or lost connection is transient; a wrong password also comes
    # without a code when it happens while connecting, and must not be tried five times (it locks accounts).
    text = str(error).lower()
    permanent = ("authentication", "does not exist", "no password supplied", "invalid", "not permitted", "pg_hba")
    return isinstance(error, psycopg.OperationalError) and not any(word in text for word in permanent)


def is_lock_timeout(error: BaseException) -> bool:
    """Whether a lock was held by others for longer than our timeout, or a deadlock was broken."""
    return isinstance(error, (errors.LockNotAvailable, errors.DeadlockDetected))


def retry_transient(
    call: Callable[[], _Result], *, what: str, attempts: int, log: logging.Logger, longest_pause: float = 20.0
) -> _Result:
    """Call until it succeeds, fails for good, or `attempts` calls failed.

    Args:
        call: The whole step; it must be able to go on from what an earlier try has committed.
        what: The step's name, for the log and the error.
        attempts: How many calls at most.
        log: Gets a warning for every try that failed.
        longest_pause: Longest pause between two calls, in seconds.

    Raises:
        UnavailableError: Every try failed by something that may pass, such as a lock or a lost connection.
        NoRoomError: A server's disk, memory or lock table is full.
        RightsError: Our role may not do it, or row level security forbids it.
        Exception: What `call` raised, where another try would not help.
    """
    retrying = Retrying(
        retry=retry_if_exception(is_transient),
        stop=stop_after_attempt(attempts),
        # 1, 2, 4, 8 s: five tries outlast a server's crash recovery of 15 s, which purely random pauses would not.
        wait=wait_exponential(multiplier=1, max=longest_pause) + wait_random(0, 0.5),
        before_sleep=_tell(log, what, attempts),
        reraise=True,
    )
    try:
        return retrying(call)
    except errors.InsufficientPrivilege as error:
        raise RightsError(
            f"the server does not let our role do this: {told(error)}",
            where=place(what, error),
            state_left=_LEFT,
            next_step=_next_right(error),
        ) from error
    except psycopg.Error as error:
        if not is_transient(error):
            limit = limit_error(error, where=what)
            if limit is None:
                raise
            raise limit from error
        raise UnavailableError(
            f"all {attempts} tries failed; the last error: {told(error)}",
            where=place(what, error),
            state_left=_LEFT,
            next_step=_next_step(error),
        ) from error


def _next_right(error: errors.InsufficientPrivilege) -> str:
    """The next step for a missing right. Row level security has the same SQLSTATE, so its text is looked at."""
    if "row-level security" in str(error):
        return (
            "let the role see and write all rows: ALTER ROLE … BYPASSRLS; or, where it owns the table, ALTER TABLE …"
            " NO FORCE ROW LEVEL SECURITY, or DISABLE ROW LEVEL SECURITY on the base; then run this again"
        )
    return "`migration-assets preflight` and `readiness` name missing rights, each with its GRANT; then run this again"


def _next_step(error: psycopg.Error) -> str:
    """The next step for a transient error that lasted through all tries."""
    if is_lock_timeout(error):
        return (
            "see who holds the table (SELECT pid, pg_blocking_pids(pid), query FROM pg_stat_activity on the server),"
            " let it end, then run this again"
        )
    if "connect to the publisher" in told(error):
        return (
            "one server does not reach the other: MIGRATION_LEGACY_URL_FOR_BASE and MIGRATION_BASE_URL_FOR_LEGACY must"
            " be the URLs by which one server reaches the other: its own host and port (no pooler), user and password;"
            " and its pg_hba.conf must let them in; then run this again"
        )
    advice = advice_on_limit(error)
    if advice is not None:
        return f"{advice}, then run this again"
    return "check whether both servers run and can be reached, then run this again"


def retry_locked(call: Callable[[], _Result], *, patience_seconds: float) -> _Result:
    """Call again as long as it fails by a lock timeout; pauses are random, so that two waiters do not collide again.

    Args:
        call: What to do; must leave nothing behind when it fails.
        patience_seconds: When to give up.

    Raises:
        psycopg.errors.LockNotAvailable: The lock was still held at the end; so may DeadlockDetected be.
    """
    retrying = Retrying(
        retry=retry_if_exception(is_lock_timeout),
        stop=stop_after_delay(patience_seconds),
        wait=wait_random_exponential(multiplier=0.05, max=2.0),
        reraise=True,
    )
    return retrying(call)


def wait_until(condition: Callable[[], bool], *, seconds: float) -> bool:
    """Ask, ever less often, until the condition holds or `seconds` have passed. Returns whether it holds."""
    retrying = Retrying(
        retry=retry_if_result(lambda holds: not holds),
        stop=stop_after_delay(seconds),
        wait=wait_exponential(multiplier=0.005, max=0.25),
        retry_error_callback=lambda _: False,
    )
    return bool(retrying(condition))


def _tell(log: logging.Logger, what: str, attempts: int) -> Callable[[RetryCallState], None]:
    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        pause = state.next_action.sleep if state.next_action else 0.0
        log.warning(
            "%s: try %d of %d failed (%s); again in %.1f s",
            what,
            state.attempt_number,
            attempts,
            told(error) if error else "?",
            pause,
        )

    return tell


# Dagster sends SIGINT to its run's process; a stopped container gets SIGTERM, a closed terminal SIGHUP.
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(KeyboardInterrupt):
    """A signal asked for the end. A KeyboardInterrupt, because only for that psycopg cancels the running statement."""


class Interrupts:
    """Lets the first signal through as an `Interrupted`, and none while `allowed` is false.

    Attributes:
        allowed: Set to false while the step under way must not be interrupted.
    """

    def __init__(self) -> None:
        self._heard = False
        self.allowed = True

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal. A later one is dropped, so that opening or undoing a hold is never left half done."""
        if self._heard or not self.allowed:
            return
        self._heard = True
        raise Interrupted(f"it was stopped by a signal ({signal.Signals(number).name})")


@contextmanager
def interruptible() -> Generator[Interrupts]:
    """Handle the signals while the body runs. In another thread than the main one, Python delivers none."""
    guard = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield guard
        return
    # An ignored signal (nohup) stays ignored. A handler that Python did not set could not be restored.
    before = {one: signal.getsignal(one) for one in _SIGNALS}
    mine = {one: handler for one, handler in before.items() if handler not in {signal.SIG_IGN, None}}
    try:
        for one in mine:
            signal.signal(one, guard.receive)
        yield guard
    finally:
        for one, handler in mine.items():
            signal.signal(one, handler)
