"""What `stream status` shows of cutovers: who is in charge, what is under way, the reverse stream's figures."""

from collections.abc import Iterator

from rich.text import Text

from migration_assets.domain.cutover_sample import CutoverSample, ReverseSample
from migration_assets.terminal.figures import count, duration, gigabytes
from migration_assets.watch.observation import Observed


def measured(value: str | None, limits: str = "") -> Text:
    """A figure with its limits, or that it is not known."""
    if value is None:
        return Text("not known", "dim")
    return Text(value, "bold").append(f"  ({limits})" if limits else "", "not bold dim")


def cutover_figures(observed: Observed) -> Iterator[tuple[str, Text]]:
    """Rows of the page; none before any cutover."""
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
        yield "legacy", _legacy(cutover)
        if cutover.reverse is not None:
            yield from _reverse(observed, cutover.reverse)


def _legacy(cutover: CutoverSample) -> Text:
    if cutover.legacy_accepts is None:
        return measured(None)
    if cutover.legacy_accepts:
        return Text("accepts writes", "bold red")
    return Text("refuses writes of applications, as it should; follows the base")


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
    yield "WAL kept on the base", measured(kept, f"warning {warning:g} GB, critical {critical:g} GB")
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
    return "runs" if reverse.arrived else "enabled, but what is sent does not arrive"
