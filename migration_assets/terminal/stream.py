"""The commands `stream status`, `start`, `pause`, `resume`, `recover` and `alert test`.

The stream's health is a page: figures beside their thresholds, then every problem with its remedy.
"""

import itertools
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import click
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from migration_assets.cutover.recovery import ReverseRecovered, recover_stream
from migration_assets.domain.alerting import Alert
from migration_assets.domain.errors import SettingsError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.samples import CutoverSample, ReverseSample, Severity, StreamSample
from migration_assets.domain.states import instant_text
from migration_assets.domain.stream_watch import Problem
from migration_assets.stream.holding import pause_stream, resume_stream, start_stream
from migration_assets.stream.joining import Joined
from migration_assets.stream.true_up import OnWeek, TruedUp
from migration_assets.terminal.arguments import confirm_deletes, opened, parse_quarter
from migration_assets.terminal.figures import count, duration, gigabytes, milliseconds
from migration_assets.terminal.output import console, say
from migration_assets.watch.watching import Observed, observe, send_test_alert

_STYLES = {Severity.CRITICAL: "bold red", Severity.WARNING: "yellow"}
_UNKNOWN = Text("not known", "dim")


def measured(value: str | None, limits: str = "") -> Text:
    """A figure with its limits; `not known` for None."""
    if value is None:
        return Text("not known", "dim")
    return Text(value, "bold").append(f"  ({limits})" if limits else "", "not bold dim")


def cutover_figures(observed: Observed) -> Iterator[tuple[str, Text]]:
    """The rows of the page about the cutover; none before the first one."""
    cutover = observed.sample.cutover
    if cutover is None:
        return
    if cutover.text is not None:
        by = f", approved by {cutover.approved_by}" if cutover.approved_by else ""
        yield "in charge", Text(cutover.text, "bold").append(by, "not bold")
    if cutover.under_way is not None:
        left = cutover.under_way
        how = "is under way" if left.alive else "was left by a process that died"
        style = "bold blue" if left.alive else "bold red"
        yield "under way", Text(f"{left.name} {how}", style).append(f", at {left.state}", "not bold")
    if cutover.decommission_text is not None:
        yield "legacy", Text(cutover.decommission_text)
        return
    if cutover.base_in_charge:
        yield "legacy", _legacy_writes(cutover)
        if cutover.reverse is not None:
            yield from _reverse(observed, cutover.reverse)


def _legacy_writes(cutover: CutoverSample) -> Text:
    if cutover.legacy_accepts is None:
        return measured(None)
    if cutover.legacy_accepts:
        return Text("accepts writes", "bold red")
    return Text("refuses writes of applications, as intended; follows the base")


def _reverse(observed: Observed, reverse: ReverseSample) -> Iterator[tuple[str, Text]]:
    limits = observed.thresholds
    errors = "" if reverse.apply_errors is None else f"; {count(reverse.apply_errors, 'apply error')} so far"
    yield "reverse stream", Text(_subscription(reverse) + errors, "" if reverse.arrived else "bold red")
    lag = duration(reverse.lag_seconds) if reverse.lag_seconds is not None else None
    yield (
        "reverse lag",
        measured(lag, f"warning {duration(limits.lag_warning_seconds)}, critical"
                      f" {duration(limits.lag_critical_seconds)}"),
    )  # fmt: skip
    kept = gigabytes(reverse.retained_wal_bytes) if reverse.retained_wal_bytes is not None else None
    warning, critical = limits.retained_wal_warning_gb, limits.retained_wal_critical_gb
    yield "WAL retained on the base", measured(kept, f"warning {warning:g} GB, critical {critical:g} GB")
    if reverse.slot_exists is not None:
        read = "read from" if reverse.slot_active else "nobody reads it"
        slot = Text(f"{read}, WAL {reverse.wal_status}") if reverse.slot_exists else Text("gone", "bold red")
        yield "slot on the base", slot


def _subscription(reverse: ReverseSample) -> str:
    if reverse.subscription_exists is None:
        return "cannot be seen"
    if not reverse.subscription_exists:
        return "no subscription on the legacy"
    if not reverse.subscription_enabled:
        return "disabled on the legacy"
    return "runs" if reverse.arrived else "enabled, but changes do not arrive"


def health_page(observed: Observed) -> RenderableType:
    """The whole page of `stream status`."""
    sample = observed.sample
    of_cutover = sample.cutover is not None and sample.cutover.worth_watching
    if sample.status is None and not observed.problems and not of_cutover:
        return Text(
            f"{sample.relation} has no change stream yet: copy a quarter's weeks, then"
            " `migration-assets stream start QUARTER`."
        )
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _figures(observed):
        table.add_row(name, value)
    return Group(
        Text(f"Change stream of {sample.relation}", "bold"),
        table,
        Text(),
        problems_text(observed.problems, observed.alerts),
    )


def _figures(observed: Observed) -> Iterator[tuple[str, Text]]:
    sample, limits, record = observed.sample, observed.thresholds, observed.record
    yield from cutover_figures(observed)
    if sample.base_in_charge:
        yield from _ahead(observed)
        return
    yield "status", _status(sample)
    if record is not None and record.exact_since_lsn is not None:
        marker = f" (marker {record.exact_since_marker})" if record.exact_since_marker else ""
        at = f", {instant_text(record.exact_since)}" if record.exact_since else ""
        yield "exact since", Text(f"{record.exact_since_lsn}{marker}{at}")
    if observed.weeks:
        yield "under CDC", Text(", ".join(f"{key} ({count(weeks, 'week')})" for key, weeks in observed.weeks))
    yield (
        "lag",
        measured(
            duration(sample.lag_seconds) if sample.lag_seconds is not None else None,
            f"warning {duration(limits.lag_warning_seconds)}, critical {duration(limits.lag_critical_seconds)}",
        ),
    )
    yield (
        "retained WAL",
        measured(
            gigabytes(sample.retained_wal_bytes) if sample.retained_wal_bytes is not None else None,
            f"warning {limits.retained_wal_warning_gb:g} GB, critical {limits.retained_wal_critical_gb:g} GB",
        ),
    )
    yield (
        "unconfirmed",
        measured(gigabytes(sample.unconfirmed_bytes) if sample.unconfirmed_bytes is not None else None),
    )
    yield "room for WAL", _room(sample, observed.room_minutes)
    yield "slot", _slot(sample)
    yield "worker", _worker(sample)
    if sample.conflicts:
        met = {name: number for name, number in sample.conflicts.items() if number}
        yield "conflicts", Text(", ".join(f"{number:,} {name}" for name, number in met.items()) or "none")
    active = sample.legacy_active_sessions
    yield "legacy", measured(None if active is None else f"{count(active, 'active session')} of others")
    yield from _ahead(observed)


def _ahead(observed: Observed) -> Iterator[tuple[str, Text]]:
    sample = observed.sample
    if sample.runway_days is not None:
        yield "runway", Text(f"{sample.runway_days:,.1f} days of partitions ahead ({sample.runway_ends})")
    if observed.high_change:
        yield "watch", Text(f"stricter: {observed.high_change}", "yellow")


def _status(sample: StreamSample) -> Text:
    if sample.status is None:
        return _UNKNOWN.copy()
    since = f" for {duration(sample.status_seconds)}" if sample.status_seconds is not None else ""
    why = f": {sample.reason}" if sample.reason else ""
    by = f"; worked on by {sample.worked_on_by}" if sample.worked_on_by else ""
    style = "bold green" if sample.status == "live" else "bold yellow"
    return Text(sample.status, style).append(f"{since}{why}{by}", "not bold default")


def _room(sample: StreamSample, minutes: float | None) -> Text:
    if sample.safe_wal_bytes is None:
        return Text("the legacy sets no max_slot_wal_keep_size: its disk is the limit", "dim")
    if minutes is None:
        return measured(gigabytes(sample.safe_wal_bytes), "too few looks to predict for how long")
    for_how_long = "the retained WAL does not grow" if minutes == float("inf") else f"full in {duration(minutes * 60)}"
    return measured(gigabytes(sample.safe_wal_bytes), for_how_long)


def _slot(sample: StreamSample) -> Text:
    if sample.slot_exists is None:
        return _UNKNOWN.copy()
    if not sample.slot_exists:
        return Text("gone", "bold red")
    return Text(f"{'read from' if sample.slot_active else 'nobody reads it'}, WAL {sample.wal_status or 'unknown'}")


def _worker(sample: StreamSample) -> Text:
    if sample.subscription_exists is None:
        return _UNKNOWN.copy()
    if not sample.subscription_exists:
        return Text("no subscription", "bold red")
    pids = "not known" if sample.worker_pids is None else ", ".join(map(str, sample.worker_pids)) or "none runs"
    errors = "" if sample.apply_errors is None else f"; {count(sample.apply_errors, 'apply error')} so far"
    enabled = "" if sample.subscription_enabled else "; the subscription is disabled"
    return Text(f"{'pid ' if sample.worker_pids else ''}{pids}{errors}{enabled}")


def problems_text(problems: tuple[Problem, ...], alerts: tuple[Alert, ...]) -> RenderableType:
    """Each problem with its remedy, then the open alerts whose problem this look did not see."""
    text = Text()
    for problem in problems:
        _append(text, problem.severity, problem.code.replace("_", " "), problem.what, problem.next_step)
    gone = [alert for alert in alerts if alert.code not in {problem.code for problem in problems}]
    for alert in gone:
        text.append(f"~ open alert, not seen now: {alert.code.replace('_', ' ')}, {alert.what}\n", "dim")
    if not problems:
        text.append("No problem was found.", "green")
    text.rstrip()
    return text


def _append(text: Text, severity: Severity, name: str, what: str, next_step: str) -> None:
    mark = "X" if severity is Severity.CRITICAL else "!"
    text.append(f"{mark} {severity.upper()} {name}: ", _STYLES[severity])
    text.append(f"{what}\n")
    text.append(f"  Next: {next_step}.\n", "dim")


@contextmanager
def weeks_progress(console: Console, title: str) -> Generator[OnWeek]:
    """Print a line for each week as soon as it was trued up."""
    finished = itertools.count(1)  # several threads call on_week
    with console.status(title) as status:

        def on_week(week: TruedUp) -> None:
            found = week.differences
            result = Text(f"repaired: {found}", "yellow") if found.rows else Text("equal", "green")
            rows = count(week.base.rows, "row")
            console.print(Text(f"{week.week.key} ", "bold").append_text(result).append(f"  {rows}", "not bold default"))
            status.update(f"{title} ({next(finished)} so far)")

        yield on_week


def print_joined(console: Console, joined: Joined) -> None:
    """Print how the quarter came under CDC, and since which position it is exact."""
    quarter = joined.quarter.key if joined.quarter else "the stream"
    marker = f" (marker {joined.marker})" if joined.marker else ""
    paused = f"; the stream was paused for {milliseconds(joined.paused_ms)}" if joined.paused_ms else ""
    console.print(
        f"{quarter} {joined.how}: exact since {joined.lsn}{marker}; {count(len(joined.weeks), 'week')} trued up in"
        f" {duration(joined.seconds)}{paused}.",
        style="green",
        highlight=False,
        markup=False,
    )


@click.group()
def stream() -> None:
    """Look at the change stream, pause, resume, start or recover it."""


@stream.command("status")
def stream_status() -> None:
    """Look at both sides now; exit code 1 if a problem is critical. Sends no alerts."""
    migration = opened()
    with console.status("Looking at both sides"):
        observed = observe(migration)
    console.print(health_page(observed))
    if observed.critical:
        sys.exit(1)


@stream.command()
@click.option("--reason", required=True, help="Why; shown to everyone who looks at the stream.")
def pause(reason: str) -> None:
    """Pause the stream until a person resumes it; the legacy retains its WAL meanwhile."""
    if not reason.strip():
        raise click.BadParameter(
            "say why: a colleague who finds the stream standing will want to know", param_hint="--reason"
        )
    say(pause_stream(opened(), reason.strip()))


@stream.command()
@confirm_deletes
def resume(confirmed: dict[FiscalWeek, int]) -> None:
    """Resume the stream; an unfinished join is finished by a rebuild."""
    migration = opened()
    with console.status("Resuming the stream"):
        done = resume_stream(migration, confirmed_deletes=confirmed)
    say(done)


@stream.command("start")
@click.argument("quarter")
@click.option("--rebuild", is_flag=True, help="Create a new slot and true up every week under CDC against it.")
@confirm_deletes
def stream_start(quarter: str, rebuild: bool, confirmed: dict[FiscalWeek, int]) -> None:
    """Bring a quarter whose weeks are copied under CDC."""
    wanted = parse_quarter(quarter)
    migration = opened()
    with weeks_progress(console, f"{wanted.key}: weeks under CDC") as on_week:
        joined = start_stream(migration, wanted, rebuild=rebuild, on_week=on_week, confirmed_deletes=confirmed)
    print_joined(console, joined)


@stream.command("recover")
@click.option("--by", required=True, help="The person who states that these are the servers from now on.")
@confirm_deletes
def stream_recover(by: str, confirmed: dict[FiscalWeek, int]) -> None:
    """Rebuild the stream after a failover, a restore or a move of a server, and true up every week.

    Rows of the following side that differ from the side in charge are kept in the ledger's table repaired_rows.
    """
    migration = opened()
    with weeks_progress(console, "weeks under CDC") as on_week:
        joined = recover_stream(migration, by, on_week=on_week, confirmed_deletes=confirmed)
    if joined is None:
        say("Both servers are the ones that the stream was built on: there is nothing to recover.", "green")
    elif isinstance(joined, ReverseRecovered):
        changed = [one for one in joined.weeks if one.repair_id is not None]
        say(f"The legacy follows again from {joined.lsn} on; {len(joined.weeks)} weeks were compared.")
        for one in changed:
            say(f"{one.week.key}: {one.differences} on the legacy, kept as repair {one.repair_id}")
    else:
        print_joined(console, joined)


@click.group()
def alert() -> None:
    """Test where alerts go."""


@alert.command("test")
def alert_test() -> None:
    """Send a test message to every channel; exit code 1 if one was not delivered. Never prints a URL."""
    sent = send_test_alert(opened())
    if not sent:
        raise SettingsError(
            "MIGRATION_ALERT_URLS is not set: alerts reach nobody",
            where="settings",
            state_left="nothing was sent",
            next_step="set it to apprise URLs, separated by spaces",
        )
    for delivery in sent:
        outcome = "delivered" if delivery.delivered else f"NOT delivered: {delivery.error}"
        say(f"channel {delivery.channel}: {outcome}", "green" if delivery.delivered else "red")
    if not all(delivery.delivered for delivery in sent):
        sys.exit(1)
