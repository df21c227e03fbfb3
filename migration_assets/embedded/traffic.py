"""Live traffic: a process that writes to the demo's legacy during the migration, and counts what it did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import psycopg
import tenacity

from migration_assets.domain.errors import EmbeddedServerError, MigrationError, SettingsError
from migration_assets.embedded.bookings import AS_OF, FIRST_BOOKED
from migration_assets.embedded.switch import Switch
from migration_assets.embedded.traffic_changes import Changes, is_usable

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable
    from types import FrameType


@dataclass(frozen=True)
class TrafficPlan:
    """What the traffic is to do.

    Attributes:
        rate: Transactions per second; 0 = as fast as one connection can.
        seed: Equal seeds draw equal decisions.
        as_of: Upper end of booked_at, exclusive, aware: the traffic's present.
        first: Lower end of booked_at, inclusive, aware; older rows are left alone.

    Raises:
        SettingsError: A negative rate, a naive time or an empty range.
    """

    rate: float = 200.0
    seed: int = 7
    as_of: datetime = AS_OF
    first: datetime = FIRST_BOOKED

    def __post_init__(self) -> None:
        if self.rate < 0 or self.as_of.tzinfo is None or self.first.tzinfo is None or self.first >= self.as_of:
            raise SettingsError(
                f"Cannot write {self.rate} transactions/s from {self.first} to {self.as_of}",
                where="traffic plan",
                state_left="nothing was written",
                next_step="Give a rate >= 0 and two times with a time zone, the first one earlier.",
            )


@dataclass
class TrafficStats:
    """What was committed, by kind; no row change is in two kinds.

    Attributes:
        inserts: New rows with an id of the sequence.
        updates: Small columns changed, of any row.
        updates_toast_unchanged: The same of rows whose notes lie out of line and stay as they are.
        updates_notes: Notes changed.
        deletes: Rows deleted.
        reinserts: Formerly deleted ids that came back with other contents, often in another week.
        moved_week: booked_at changed to another week of the same quarter.
        moved_quarter: booked_at changed to another quarter.
        transactions: Committed transactions.
        rollbacks: Transactions rolled back on purpose; nothing of them is counted elsewhere.
        savepoint_rollbacks: Parts rolled back inside committed transactions.
        lost_connections: Connections that broke; each was opened anew.
        in_doubt: Transactions whose COMMIT was sent but not answered: perhaps committed, and not counted elsewhere.
        refused: Transactions that a held side refused (SQLSTATE 25006) and that were tried again, nothing lost.
        longest_refusal_ms: The longest time from a refusal to the next commit: what a cutover cost the applications.
        switches: How often the applications followed their switch to the other side.
        on_base: Those of `transactions` that the base committed.
        errors: Transactions that failed otherwise; the server rolled them back.
        last_error: The latest failure, one line without secrets.
        seconds: Run time so far.
    """

    inserts: int = 0
    updates: int = 0
    updates_toast_unchanged: int = 0
    updates_notes: int = 0
    deletes: int = 0
    reinserts: int = 0
    moved_week: int = 0
    moved_quarter: int = 0
    transactions: int = 0
    rollbacks: int = 0
    savepoint_rollbacks: int = 0
    lost_connections: int = 0
    in_doubt: int = 0
    refused: int = 0
    longest_refusal_ms: float = 0.0
    switches: int = 0
    on_base: int = 0
    errors: int = 0
    last_error: str = ""
    seconds: float = 0.0

    def add(self, counts: Counter[str]) -> None:
        """Add one transaction's counts by field name."""
        for name, count in counts.items():
            setattr(self, name, getattr(self, name) + count)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> TrafficStats:
        """The inverse of `to_json`."""
        return cls(**json.loads(line))


APPLICATION_NAME: Final = "demo traffic"
_AFTER_ERROR: Final = 0.1  # seconds: a server in trouble must not be hammered
_AFTER_REFUSAL: Final = 0.01  # until a side that is held, or the other one, is tried


class Writer:
    """Writes transactions over one connection to the side that the switch names.

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
        """Close the connection; what was committed stays."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def write(self, stop: Callable[[], bool], waiting: Callable[[], None]) -> float:
        """Run one transaction on the side that the switch names; a lost connection is first opened again.

        Args:
            stop: Asked while the server is away.
            waiting: Called while the server is away.

        Returns:
            Seconds to pause: more than 0 after a failure.
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
        """The connection to the side that the switch names now; None when `stop()` became true first."""
        side = self._switch.side()
        if side != self._side:
            self.close()
            self._side = side
            self.stats.switches += 1
        if self._connection is None:
            self._connection = _reconnect(self._switch.urls[side], stop, waiting)
        return self._connection

    def _refused(self, error: psycopg.Error) -> float:
        """Count a refusal: the side is a standby, or a cutover holds it. Returns the pause in seconds."""
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
    """An autocommit connection with timeouts, so that it neither waits for ever nor idles in a transaction."""
    connection = psycopg.connect(url, autocommit=True, application_name=APPLICATION_NAME, connect_timeout=5)
    connection.execute("SET statement_timeout = '30s'; SET idle_in_transaction_session_timeout = '10s'")
    return connection


def _reconnect(url: str, stop: Callable[[], bool], waiting: Callable[[], None]) -> psycopg.Connection[Any] | None:
    """Try until the server is back; None when `stop()` became true first."""
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


__all__ = ["Switch", "TrafficPlan", "TrafficStats", "run_traffic", "start_traffic_process", "stop_traffic_process"]

STATS_EVERY: Final = 1.0
"""Seconds between two calls of `on_stats`, and so between two writings of the stats file."""

_URL_VARIABLE: Final = "MIGRATION_ASSETS_TRAFFIC_URL"
_BASE_URL_VARIABLE: Final = "MIGRATION_ASSETS_TRAFFIC_BASE_URL"
_LONGEST_NAP: Final = 0.1  # seconds until a wish to stop is noticed
_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 40.0  # above the statement_timeout: a statement that waits for a lock may still have to end


def run_traffic(
    target: str | Switch,
    plan: TrafficPlan,
    *,
    stop: Callable[[], bool],
    on_stats: Callable[[TrafficStats], None] | None = None,
) -> TrafficStats:
    """Write until `stop()` is true; the transaction under way is finished first.

    Args:
        target: The legacy's libpq URL, never logged; or the switch to follow.
        plan: How to write.
        stop: Asked before every transaction and every 0.1 s of waiting (every second while the server is away).
        on_stats: Called with a copy of the counts once connected, then about every second, and at the end.

    Raises:
        EmbeddedServerError: The very first connection failed. Later ones are retried for as long as it takes.
    """
    writer = Writer(Switch.fixed(target) if isinstance(target, str) else target, plan)
    stats = writer.stats
    started = due = time.monotonic()
    reported = -STATS_EVERY

    def report(*, at_once: bool = False) -> None:
        nonlocal reported
        stats.seconds = round(time.monotonic() - started, 3)
        if on_stats and (at_once or stats.seconds - reported >= STATS_EVERY):
            reported = stats.seconds
            on_stats(replace(stats))

    try:
        while not stop():
            report()
            if (nap := due - time.monotonic()) > 0:
                time.sleep(min(nap, _LONGEST_NAP))
                continue
            # A stall of more than a second is not made up for: a burst would hide what a lock cost the writers.
            due = max(due, time.monotonic() - 1.0) + (1.0 / plan.rate if plan.rate else 0.0)
            if (pause := writer.write(stop, report)) > 0:
                due = max(due, time.monotonic() + pause)
    finally:
        writer.close()
    report(at_once=True)
    return stats


def start_traffic_process(
    target: str | Switch, plan: TrafficPlan, *, stats_file: Path, seconds: float | None = None
) -> subprocess.Popen[str]:
    """Start a process that writes until `stop_traffic_process`, or for `seconds`; returns when it is connected.

    The URLs travel in the child's environment, which only its own user can read; an argument list is public.

    Raises:
        EmbeddedServerError: It ended at once, or did not connect within 30 s.
    """
    stats_file = stats_file.resolve()
    stats_file.unlink(missing_ok=True)
    switch = Switch.fixed(target) if isinstance(target, str) else target
    command = [sys.executable, "-m", "migration_assets.embedded.traffic", "--url-env", _URL_VARIABLE]
    command += ["--rate", str(plan.rate), "--seed", str(plan.seed), "--stats-file", str(stats_file)]
    command += ["--as-of", plan.as_of.isoformat(), "--first", plan.first.isoformat()]
    command += ["--seconds", str(seconds)] if seconds is not None else []
    secrets = {_URL_VARIABLE: switch.urls["legacy"]}
    if switch.path is not None:
        command += ["--switch", str(switch.path), "--base-url-env", _BASE_URL_VARIABLE]
        secrets[_BASE_URL_VARIABLE] = switch.urls["base"]
    process = subprocess.Popen(
        command,
        env={**os.environ, **secrets},
        cwd=Path(__file__).resolve().parents[2],  # finds the package, installed or not
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + _START_SECONDS
    while not stats_file.exists():  # written once the signals are handled and the server has answered
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise _process_error("did not start", process.communicate()[1])
        time.sleep(0.02)
    return process


def stop_traffic_process(process: subprocess.Popen[str]) -> TrafficStats:
    """Let the process end after its present transaction, and return its counts.

    Raises:
        EmbeddedServerError: It had failed, or did not stop within 40 s and was killed.
    """
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        out, err = process.communicate(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise _process_error("did not stop and was killed", process.communicate()[1]) from None
    if process.returncode:
        raise _process_error(f"ended with code {process.returncode}", err)
    return TrafficStats.from_json(out.splitlines()[-1])


def _process_error(what: str, stderr: str) -> EmbeddedServerError:
    return EmbeddedServerError(
        f"The traffic process {what}: {stderr.strip()[-2000:] or 'it said nothing'}",
        where="live traffic",
        state_left="no transaction of it is open; what it committed stays",
        next_step="See that the legacy answers and holds amenity_bookings, then start the traffic again.",
    )


def _write_aside(path: Path, text: str) -> None:
    """Replace the file whole: a reader never sees half of it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


@click.command()
@click.option("--url-env", help="Name of the environment variable that holds the URL; without it, stdin's first line.")
@click.option("--switch", type=click.Path(path_type=Path), help="File that names the side to write to; followed.")
@click.option("--base-url-env", help="With --switch: name of the variable that holds the base's URL.")
@click.option("--rate", type=float, default=200.0, show_default=True, help="Transactions per second; 0: no limit.")
@click.option("--seed", type=int, default=7, show_default=True)
@click.option("--as-of", default=AS_OF.isoformat(), show_default=True, help="End of booked_at, exclusive, with offset.")
@click.option("--first", default=FIRST_BOOKED.isoformat(), show_default=True, help="Earliest booked_at, with offset.")
@click.option("--seconds", type=float, help="Stop by itself after this time.")
@click.option("--stats-file", type=click.Path(path_type=Path), help="Rewritten every second with the counts so far.")
def main(
    *,
    url_env: str | None,
    switch: Path | None,
    base_url_env: str | None,
    rate: float,
    seed: int,
    as_of: str,
    first: str,
    seconds: float | None,
    stats_file: Path | None,
) -> None:
    """Write to the demo's legacy until SIGTERM or SIGINT; the last line of the output is the counts as JSON."""
    stopped = threading.Event()

    def finish(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, finish)
    url = os.environ.get(url_env, "") if url_env else sys.stdin.readline().strip()
    if not url:
        raise click.UsageError(f"No URL in {url_env or 'the first line of stdin'}")
    urls = {"legacy": url}
    if switch is not None:
        urls["base"] = os.environ.get(base_url_env or "", "")
        if not urls["base"]:
            raise click.UsageError(f"--switch needs the base's URL; none in {base_url_env or '--base-url-env'}")
    deadline = time.monotonic() + seconds if seconds is not None else float("inf")
    try:
        stats = run_traffic(
            Switch(urls, switch),
            TrafficPlan(rate, seed, datetime.fromisoformat(as_of), datetime.fromisoformat(first)),
            stop=lambda: stopped.is_set() or time.monotonic() >= deadline,
            on_stats=(lambda now: _write_aside(stats_file, now.to_json() + "\n")) if stats_file else None,
        )
    except MigrationError as error:
        raise click.ClickException(str(error)) from None
    click.echo(stats.to_json())


if __name__ == "__main__":
    main()
