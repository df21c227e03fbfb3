"""One look at the change stream as Dagster shows it: figures that plot over time, and what is wrong as a table."""

from collections.abc import Iterable

import dagster as dg

from migration_assets.defs.metadata import Metadata
from migration_assets.defs.proofs import table
from migration_assets.domain.cutover_sample import CutoverSample
from migration_assets.domain.stream_sample import StreamSample
from migration_assets.domain.stream_watch import Problem

_FLOATS = ("lag_seconds", "runway_days")
_INTEGERS = (
    "retained_wal_bytes",
    "unconfirmed_bytes",
    "safe_wal_bytes",
    "apply_errors",
    "legacy_active_sessions",
)
_LIVE = "live"


def look_metadata(sample: StreamSample) -> Metadata:
    """What could be measured; a figure that is not known is left out, since a zero would be a lie in a plot."""
    figures: Metadata = {}
    for name in _FLOATS:
        if (number := getattr(sample, name)) is not None:
            figures[name] = dg.MetadataValue.float(round(number, 3))
    for name in _INTEGERS:
        if (number := getattr(sample, name)) is not None:
            figures[name] = dg.MetadataValue.int(number)
    if sample.conflicts is not None:
        figures["conflicts"] = dg.MetadataValue.int(sum(sample.conflicts.values()))
    if sample.status is not None:
        figures["status"] = dg.MetadataValue.text(sample.status + (f": {sample.reason}" if sample.reason else ""))
        stands = sample.status != _LIVE and sample.status_seconds is not None
        figures["paused_seconds"] = dg.MetadataValue.float(round(sample.status_seconds or 0.0, 3) if stands else 0.0)
    if sample.cutover is not None:
        figures.update(_of_cutover(sample.cutover))
    if sample.wal_status is not None:
        figures["wal_status"] = dg.MetadataValue.text(sample.wal_status)
    return figures


def _of_cutover(cutover: CutoverSample) -> Metadata:
    figures: Metadata = {}
    if cutover.case is not None:
        figures["cutover"] = dg.MetadataValue.text(cutover.case)
    reverse = cutover.reverse
    if reverse is None:
        return figures
    if reverse.lag_seconds is not None:
        figures["reverse_lag_seconds"] = dg.MetadataValue.float(round(reverse.lag_seconds, 3))
    if reverse.retained_wal_bytes is not None:
        figures["reverse_retained_wal_bytes"] = dg.MetadataValue.int(reverse.retained_wal_bytes)
    if reverse.apply_errors is not None:
        figures["reverse_apply_errors"] = dg.MetadataValue.int(reverse.apply_errors)
    if reverse.wal_status is not None:
        figures["reverse_wal_status"] = dg.MetadataValue.text(reverse.wal_status)
    return figures


def problems_table(problems: Iterable[Problem]) -> dg.TableMetadataValue:
    """What is wrong, how bad, since when, and what to do."""
    return table(
        ("severity", "problem", "what", "since", "next"),
        (
            {
                "severity": problem.severity.value,
                "problem": problem.code.value,
                "what": problem.what,
                "since": f"{problem.since:%Y-%m-%d %H:%M:%S} UTC",
                "next": problem.next_step,
            }
            for problem in problems
        ),
    )
