"""One writer of live traffic: its connection to the side that the switch names, and what became of each transaction."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import psycopg
import tenacity

from migration_assets.domain.errors import EmbeddedServerError
from migration_assets.embedded.traffic_changes import Changes, is_usable
from migration_assets.embedded.traffic_stats import TrafficPlan, TrafficStats

if TYPE_CHECKING:
    from collections.abc import Callable

    from migration_assets.embedded.switch import Switch

APPLICATION_NAME: Final = "demo traffic"
_AFTER_ERROR: Final = 0.1  # seconds: a server in trouble must not be hammered
_AFTER_REFUSAL: Final = 0.01  # until a side that is held, or the other one, is tried


class Writer:
    """Connected to the side that the switch names, from the start.

    Raises:
        EmbeddedServerError: The first connection failed.
    """

    def __init__(self, switch: Switch, plan: TrafficPlan) -> None:
        self.stats = TrafficStats()
        self._changes = Changes(plan.seed, plan.first, plan.as_of)
        self._switch, self._side = switch, switch.side()
        self._refused_at: float | None = None
        try:
            self._connection: psycopg.Connection[Any] | None = _connect(switch.urls[self._side])
        except psycopg.OperationalError as error:
            raise EmbeddedServerError(
                f"Cannot connect: {_one_line(error)}",
                where="live traffic",
                state_left="nothing was written",
                next_step="Start the legacy, or correct its URL.",
            ) from None

    def close(self) -> None:
        """Leave; what was committed stays."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def write(self, stop: Callable[[], bool], waiting: Callable[[], None]) -> float:
        """One transaction, where the switch says; a lost connection is opened anew first, for as long as it takes.

        Args:
            stop: Asked while the server is away.
            waiting: Called while the server is away.

        Returns:
            Seconds to leave the server alone now: more than 0 after a failure.
        """
        connection = self._connected(stop, waiting)
        if connection is None:
            return 0.0
        try:
            committed = self._changes.transact(connection)
        except psycopg.errors.ReadOnlySqlTransaction as error:
            return self._refused(error)
        except psycopg.Error as error:
            return self._failed(connection, error)
        self.stats.add(committed)
        if committed["transactions"]:
            self.stats.on_base += self._side == "base"
            if self._refused_at is not None:
                waited = round((time.monotonic() - self._refused_at) * 1000, 1)
                self.stats.longest_refusal_ms = max(self.stats.longest_refusal_ms, waited)
                self._refused_at = None
        return 0.0

    def _connected(self, stop: Callable[[], bool], waiting: Callable[[], None]) -> psycopg.Connection[Any] | None:
        """On the side that the switch names now; None when `stop()` came first."""
        side = self._switch.side()
        if side != self._side:
            self.close()
            self._side = side
            self.stats.switches += 1
        if self._connection is None:
            self._connection = _reconnect(self._switch.urls[side], stop, waiting)
        return self._connection

    def _refused(self, error: psycopg.Error) -> float:
        """A side that takes no writes: a standby, or one that a cutover holds."""
        self.stats.last_error = _one_line(error)
        if self._switch.path is None:
            self.stats.errors += 1
            return _AFTER_ERROR
        self.stats.refused += 1
        self._refused_at = self._refused_at or time.monotonic()
        return _AFTER_REFUSAL

    def _failed(self, connection: psycopg.Connection[Any], error: psycopg.Error) -> float:
        self.stats.last_error = _one_line(error)
        if is_usable(connection):
            self.stats.errors += 1
            return _AFTER_ERROR
        self.close()
        self.stats.lost_connections += 1
        self.stats.in_doubt += self._changes.at_commit
        return 0.0


def _connect(url: str) -> psycopg.Connection[Any]:
    """An autocommit connection that cannot wait for ever nor be left idle in a transaction."""
    connection = psycopg.connect(url, autocommit=True, application_name=APPLICATION_NAME, connect_timeout=5)
    connection.execute("SET statement_timeout = '30s'; SET idle_in_transaction_session_timeout = '10s'")
    return connection


def _reconnect(url: str, stop: Callable[[], bool], waiting: Callable[[], None]) -> psycopg.Connection[Any] | None:
    """Try until the server is back; None when `stop()` came first."""
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(psycopg.OperationalError),
        wait=tenacity.wait_exponential(multiplier=0.05, max=1.0),
        before_sleep=lambda _: waiting(),
        stop=lambda _: stop(),
    )
    try:
        return attempts(_connect, url)
    except tenacity.RetryError:
        return None


def _one_line(error: psycopg.Error) -> str:
    """The error's class and first line: libpq names host and role there, never a password."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
