"""The change stream's health as a page: figures beside their thresholds, then every problem with its remedy."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from migration_assets.domain.alerting import Alert
from migration_assets.domain.freshness import instant_text
from migration_assets.domain.stream_sample import StreamSample
from migration_assets.domain.stream_thresholds import Severity
from migration_assets.domain.stream_watch import Problem
from migration_assets.terminal.cutover_health import cutover_figures, measured
from migration_assets.terminal.figures import count, duration, gigabytes
from migration_assets.watch.observation import Observed

_STYLES = {Severity.CRITICAL: "bold red", Severity.WARNING: "yellow"}
_UNKNOWN = Text("not known", "dim")


def health_page(observed: Observed) -> RenderableType:
    """Everything that `stream status` shows."""
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
    yield "legacy", measured(None if active is None else f"{count(active, 'session')} of others at work")
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
        return measured(gigabytes(sample.safe_wal_bytes), "too few looks to tell for how long")
    for_how_long = "WAL kept does not grow" if minutes == float("inf") else f"full in {duration(minutes * 60)}"
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
    """Each problem with its remedy; open alerts that this look does not see any more are said to be so."""
    text = Text()
    for problem in problems:
        _append(text, problem.severity, problem.code.replace("_", " "), problem.what, problem.next_step)
    gone = [alert for alert in alerts if alert.code not in {problem.code for problem in problems}]
    for alert in gone:
        text.append(f"~ open alert, not seen now: {alert.code.replace('_', ' ')}, {alert.what}\n", "dim")
    if not problems:
        text.append("Nothing is wrong with it.", "green")
    text.rstrip()
    return text


def _append(text: Text, severity: Severity, name: str, what: str, next_step: str) -> None:
    mark = "X" if severity is Severity.CRITICAL else "!"
    text.append(f"{mark} {severity.upper()} {name}: ", _STYLES[severity])
    text.append(f"{what}\n")
    text.append(f"  Next: {next_step}.\n", "dim")
