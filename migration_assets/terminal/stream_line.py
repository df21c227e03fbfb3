"""The change stream in one line, from what the base alone knows; `stream status` looks on both sides."""

from rich.text import Text

from migration_assets.ledger.stream import StreamStatus
from migration_assets.terminal.cutover_line import cutover_line
from migration_assets.terminal.figures import count, duration, gigabytes, milliseconds
from migration_assets.watch.overview import CutCosts, Overview

_RESUME = "`migration-assets stream resume`"
_OLD_LOOK_SECONDS = 300.0


def stream_line(overview: Overview, *, plain: bool = False) -> Text:
    """Status and since when, whether it really runs, and the newest look's figures with their age."""
    stream = overview.stream
    of_cutover = cutover_line(overview, plain=plain)
    if of_cutover is not None:
        return of_cutover
    if stream is None:
        return Text("There is no change stream yet: `migration-assets stream start QUARTER`.", "dim")
    age = duration((overview.now - stream.status_since).total_seconds())
    if stream.status is not StreamStatus.LIVE:
        why = f": {stream.reason}" if stream.reason else ""
        dot = "||" if plain else "‖"
        return Text(f"{dot} stream {stream.status} for {age}{why}; {_RESUME} lets it go on", "bold yellow")
    trouble = _trouble(overview)
    if trouble:
        return Text(f"{'X' if plain else '✗'} stream live for {age}, but {trouble}", "bold red")
    return Text.assemble(("*" if plain else "●", "bold green"), " ", ("stream live", "bold green"), f" for {age}",
                         *_figures(overview))  # fmt: skip


def _trouble(overview: Overview) -> str:
    if overview.worker is None:
        return "its subscription is gone: `migration-assets stream status`"
    if not overview.worker.enabled:
        return f"its subscription is disabled: {_RESUME}"
    return "" if overview.worker.pid is not None else "no apply worker runs: `migration-assets stream status`"


def _figures(overview: Overview) -> list[str | tuple[str, str]]:
    if overview.latest is None:
        return [("; nobody has looked at its lag yet", "dim")]
    sample, age = overview.latest.sample, overview.latest.age_seconds
    known: list[str | tuple[str, str]] = []
    if sample.lag_seconds is not None:
        known += [", lag ", (duration(sample.lag_seconds), "bold")]
    if sample.retained_wal_bytes is not None:
        known += [", ", (gigabytes(sample.retained_wal_bytes), "bold"), " of WAL kept"]
    return [*known, (f" ({duration(age)} ago)", "yellow" if age > _OLD_LOOK_SECONDS else "dim")]


def costs_line(costs: CutCosts | None) -> Text:
    """What the last cuts cost the legacy's writers."""
    if costs is None:
        return Text("No cut was taken yet.", "dim")
    worst = f", worst try {milliseconds(costs.worst_try_ms)}" if costs.worst_try_ms > costs.held_max else ""
    return Text(
        f"Last {count(costs.cuts, 'cut')}: writers held p50 {milliseconds(costs.held_p50)},"
        f" p99 {milliseconds(costs.held_p99)}, max {milliseconds(costs.held_max)}{worst}"
    )
