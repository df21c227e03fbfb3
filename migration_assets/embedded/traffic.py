"""Live traffic: writes to the demo's legacy while it is migrated, survives restarts, counts what it did.

With a switch it follows the cutover to the base, and back.

Belongs here: the loop, the process and its two helpers. The connection stands in `traffic_writer`, what a transaction
does in `traffic_changes`, plan and statistics in `traffic_stats`.

    python -m migration_assets.embedded.traffic --url-env NAME --rate 200 --seed 7 --seconds 60 --stats-file PATH
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from migration_assets.domain.errors import EmbeddedServerError, MigrationError
from migration_assets.embedded.bookings import AS_OF, FIRST_BOOKED
from migration_assets.embedded.switch import Switch
from migration_assets.embedded.traffic_stats import TrafficPlan, TrafficStats
from migration_assets.embedded.traffic_writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

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
            # No catching up after a stall of more than a second: a burst would hide what a lock cost the writers.
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
    """End the process between two transactions and return its counts.

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
