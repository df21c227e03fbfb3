"""How copies, comparisons, looks at the stream and cutovers are shown in Dagster: metadata, check results, live logs.

Numbers stay numbers, so that Dagster plots them over partitions or time. Rows that differ are shown by their keys and
column names, never by their values.
"""

import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from threading import Thread

import dagster as dg

from migration_assets.cutover.plan import steps_of
from migration_assets.defs.failures import readable_failures
from migration_assets.domain.findings import Finding
from migration_assets.domain.fingerprint import Differences, Fingerprint
from migration_assets.domain.samples import CutoverSample, StreamSample
from migration_assets.domain.states import CutoverKind, CutoverState
from migration_assets.domain.stream_watch import Problem
from migration_assets.domain.table_description import TableDescription
from migration_assets.ledger.proofs import CutRecord
from migration_assets.ledger.slices import CopyEvidence
from migration_assets.postgres.copy_stream import Progress
from migration_assets.quarters.legacy_weeks import SliceMeasure
from migration_assets.readiness.step import CutoverRecord, OnState, release_writes
from migration_assets.runtime import Migration

Metadata = dict[str, dg.MetadataValue]
_MB = 1e6
_GB = 1e9
ROW_COUNT, CHECKSUM = "row_count_matches", "checksum_matches"
_FLOATS = ("lag_seconds", "runway_days")
_INTEGERS = (
    "retained_wal_bytes",
    "unconfirmed_bytes",
    "safe_wal_bytes",
    "apply_errors",
    "legacy_active_sessions",
)
_LIVE = "live"
# On runs that the daemon's run retries launched. Retries of an op are counted by `retry_number`.
_RETRY = "dagster/retry_number"
_LAST_WORDS_SECONDS = 10.0


def copy_metadata(evidence: CopyEvidence, *, target_gb_per_hour: float) -> Metadata:
    """Rows, bytes, rates and the seconds of each phase. Bytes are the leaf's heap with TOAST; MB and GB are decimal."""
    seconds = evidence.seconds["total"]
    rate = evidence.table_bytes / seconds
    metadata: Metadata = {
        "result": dg.MetadataValue.text(
            f"{evidence.base.rows:,} rows, {evidence.table_bytes / _MB:,.1f} MB in {seconds:,.1f} s, proven equal"
        ),
        "dagster/row_count": dg.MetadataValue.int(evidence.base.rows),
        "table_bytes": dg.MetadataValue.int(evidence.table_bytes),
        "index_bytes": dg.MetadataValue.int(evidence.index_bytes),
        "wire_bytes": dg.MetadataValue.int(evidence.wire_bytes),
        "mb_per_second": dg.MetadataValue.float(round(rate / _MB, 2)),
        "gb_per_hour": dg.MetadataValue.float(round(rate * 3600 / _GB, 2)),
        "gb_per_hour_target": dg.MetadataValue.float(target_gb_per_hour),
        "snapshot_lsn": dg.MetadataValue.text(evidence.snapshot_lsn),
        "snapshot_at": dg.MetadataValue.timestamp(evidence.snapshot_at),
        **fingerprint_metadata(evidence.legacy, evidence.base),
    }
    for phase, measured in evidence.seconds.items():
        metadata[f"seconds_{phase.replace(' ', '_')}"] = dg.MetadataValue.float(round(measured, 3))
    return metadata


def fingerprint_metadata(legacy: Fingerprint, base: Fingerprint) -> Metadata:
    """Rows and checksums of both sides. Checksums are hexadecimal text: a plot of them would mean nothing."""
    return {
        "legacy_rows": dg.MetadataValue.int(legacy.rows),
        "base_rows": dg.MetadataValue.int(base.rows),
        "legacy_checksum": dg.MetadataValue.text(legacy.checksum),
        "base_checksum": dg.MetadataValue.text(base.checksum),
    }


def measure_metadata(measure: SliceMeasure, *, window_hours: float, target_gb_per_hour: float) -> Metadata:
    """What is to be moved, and the predicted duration at the target rate, read amplification included."""
    hours = measure.table_bytes * measure.amplification / _GB / target_gb_per_hour
    return {
        "result": dg.MetadataValue.text(
            f"{measure.rows:,} rows, {measure.table_bytes / _MB:,.1f} MB to move"
            f" ({'counted' if measure.exact else 'estimated'}), {hours * 3600:,.1f} s at the target rate"
        ),
        "rows": dg.MetadataValue.int(measure.rows),
        "table_bytes": dg.MetadataValue.int(measure.table_bytes),
        "figures": dg.MetadataValue.text("counted" if measure.exact else "the planner's estimate"),
        "first": dg.MetadataValue.text(measure.first or "none: the week is empty"),
        "last": dg.MetadataValue.text(measure.last or "none: the week is empty"),
        "read_amplification": dg.MetadataValue.float(round(measure.amplification, 2)),
        "predicted_seconds_at_target_rate": dg.MetadataValue.float(round(hours * 3600, 3)),
        "share_of_window_percent": dg.MetadataValue.float(round(100 * hours / window_hours, 4)),
    }


def schema_metadata(description: TableDescription) -> Metadata:
    """The columns as Dagster shows a table's schema."""
    return {
        "dagster/column_schema": dg.MetadataValue.table_schema(
            dg.TableSchema(
                columns=[
                    dg.TableColumn(
                        name=column.name,
                        type=column.type_name,
                        description=column.comment,
                        constraints=dg.TableColumnConstraints(nullable=not column.not_null),
                    )
                    for column in description.columns
                ]
            )
        ),
        "dagster/table_name": dg.MetadataValue.text(str(description.table)),
    }


def table(columns: Iterable[str], rows: Iterable[Mapping[str, str | int | float]]) -> dg.TableMetadataValue:
    """A table with these columns, even if it has no rows."""
    return dg.MetadataValue.table(
        records=[dg.TableRecord(dict(row)) for row in rows],
        schema=dg.TableSchema([dg.TableColumn(name) for name in columns]),
    )


def findings_table(
    findings: Iterable[Finding], columns: Sequence[str] = ("severity", "finding", "evidence", "remedy")
) -> dg.TableMetadataValue:
    """A table of the findings in the given order, with the given columns."""
    return table(columns, ({name: cells[name] for name in columns} for cells in map(_finding_cells, findings)))


def _finding_cells(finding: Finding) -> dict[str, str]:
    return {
        "severity": finding.severity.value,
        "finding": f"{finding.area.value}: {finding.code}",
        "evidence": finding.evidence,
        "remedy": finding.remedy,
    }


def equality_results(
    asset: str, legacy: Fingerprint, base: Fingerprint, differences: Differences | None = None
) -> list[dg.AssetCheckResult]:
    """The results of the two checks of a week. Differing rows fail the checksum check even if the checksums agree."""
    known = differences or Differences()
    passed = {ROW_COUNT: legacy.rows == base.rows, CHECKSUM: legacy.same_checksums(base) and not known.rows}
    metadata = {
        **fingerprint_metadata(legacy, base),
        "row_difference": dg.MetadataValue.int(base.rows - legacy.rows),
        **(difference_metadata(known) if known.rows else {}),
    }
    return [
        dg.AssetCheckResult(
            check_name=name,
            asset_key=asset,
            passed=passed[name],
            description=f"Legacy: {legacy}. Base: {base}.",
            metadata=metadata,
        )
        for name in (ROW_COUNT, CHECKSUM)
    ]


def difference_metadata(differences: Differences) -> Metadata:
    """Counts by kind, and a sample of keys with the columns that differ."""
    return {
        "missing": dg.MetadataValue.int(differences.missing),
        "extra": dg.MetadataValue.int(differences.extra),
        "changed": dg.MetadataValue.int(differences.changed),
        "differing_keys": table(
            ("kind", "key", "columns"),
            (
                {
                    "kind": one.kind.value,
                    "key": ", ".join(f"{name}={text}" for name, text in one.key.items()),
                    "columns": ", ".join(one.columns),
                }
                for one in differences.sample
            ),
        ),
        "keys_shown": dg.MetadataValue.text(f"{len(differences.sample):,} of {differences.rows:,}"),
    }


def proof_metadata(cut: CutRecord, legacy: Fingerprint, base: Fingerprint, *, what: str, seconds: float) -> Metadata:
    """Equality at a cut, and how long the cut held the writers and the stream."""
    return {
        "result": dg.MetadataValue.text(
            f"{what} at {cut.taken_at:%Y-%m-%d %H:%M:%S} UTC, marker {cut.marker}, LSN {cut.lsn}: {legacy.rows:,} rows"
        ),
        "rows": dg.MetadataValue.int(base.rows),
        **cut_metadata(cut),
        "seconds": dg.MetadataValue.float(round(seconds, 3)),
        **fingerprint_metadata(legacy, base),
    }


def cut_metadata(cut: CutRecord) -> Metadata:
    """The cut's position, and its cost in milliseconds; comments on the ledger's table `cuts` explain each figure."""
    return {
        "marker": dg.MetadataValue.int(cut.marker),
        "lsn": dg.MetadataValue.text(cut.lsn),
        "tries": dg.MetadataValue.int(cut.tries),
        "writers_held_ms": dg.MetadataValue.float(round(cut.writers_held_ms, 3)),
        "longest_try_ms": dg.MetadataValue.float(round(cut.longest_try_ms, 3)),
        "reached_ms": dg.MetadataValue.float(round(cut.reached_ms, 3)),
        "apply_held_ms": dg.MetadataValue.float(round(cut.apply_held_ms, 3)),
    }


def look_metadata(sample: StreamSample) -> Metadata:
    """What could be measured. An unknown figure is left out, since a zero would be false in a plot."""
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
        paused = sample.status != _LIVE and sample.status_seconds is not None
        figures["paused_seconds"] = dg.MetadataValue.float(round(sample.status_seconds or 0.0, 3) if paused else 0.0)
    if sample.cutover is not None:
        figures.update(_cutover_figures(sample.cutover))
    if sample.wal_status is not None:
        figures["wal_status"] = dg.MetadataValue.text(sample.wal_status)
    return figures


def _cutover_figures(cutover: CutoverSample) -> Metadata:
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
    """A table of the problems: severity, since when, and what to do."""
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


def observed_progress(context: dg.AssetExecutionContext, expected_rows: int, every_seconds: float) -> Progress:
    """A callback that logs the progress of a copy as an observation, at most every `every_seconds`."""
    started = last = time.monotonic()

    def report(rows: int, wire_bytes: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < every_seconds:
            return
        last = now
        share = min(100.0, 100.0 * rows / expected_rows) if expected_rows else 0.0
        context.log_event(
            dg.AssetObservation(
                asset_key=context.asset_key,
                partition=str(context.partition_key),
                description=f"{rows:,} of about {expected_rows:,} rows copied",
                metadata={
                    "rows_so_far": dg.MetadataValue.int(rows),
                    "wire_bytes_so_far": dg.MetadataValue.int(wire_bytes),
                    "percent": dg.MetadataValue.float(round(share, 1)),
                    "mb_per_second": dg.MetadataValue.float(round(wire_bytes / 1e6 / max(now - started, 1e-9), 2)),
                },
            )
        )

    return report


@contextmanager
def logged_states(context: dg.OpExecutionContext | dg.AssetExecutionContext) -> Generator[OnState]:
    """A callback that logs every state. A thread of its own writes, since Dagster's storage must not prolong a hold."""
    waiting: SimpleQueue[str | None] = SimpleQueue()

    def write() -> None:
        while (text := waiting.get()) is not None:
            with suppress(Exception):
                context.log.info(text)

    writer = Thread(target=write, name="cutover-log", daemon=True)
    writer.start()

    def on_state(kind: CutoverKind, state: CutoverState) -> None:
        waiting.put(f"{kind}: {state}")

    try:
        yield on_state
    finally:
        waiting.put(None)
        writer.join(_LAST_WORDS_SECONDS)


def refuse_retries(context: dg.OpExecutionContext | dg.AssetExecutionContext, migration: Migration, what: str) -> None:
    """Refuse an automatic retry, after settling what the first try left, so that writes are accepted again.

    Raises:
        dg.Failure: This run is an automatic retry.
    """
    if not context.retry_number and _RETRY not in context.run.tags:
        return
    with readable_failures():
        settled = release_writes(migration, context.run.run_id)
    raise dg.Failure(
        description=f"This run is an automatic retry, and a {what} is never repeated automatically.\nState left:"
        f" {settled}.\nNext: read why the first run failed; then launch it again yourself.",
        allow_retries=False,
    )


def result_of(record: CutoverRecord) -> str:
    """What happened, who is in charge now, and what is possible next."""
    held = f"; writes were held for {record.downtime_ms:,.0f} ms" if record.downtime_ms is not None else ""
    if record.rehearse:
        return f"rehearsed by {record.approved_by}{held}. The legacy goes on as before; a real cutover takes as long"
    if record.kind is CutoverKind.ROLLBACK:
        return f"rolled back by {record.approved_by}{held}. The legacy is in charge, and the base follows it again"
    return (
        f"cut over by {record.approved_by}{held}. The base is in charge, and the legacy follows it: the job rollback"
        " goes back without loss, until the legacy is decommissioned"
    )


def record_metadata(record: CutoverRecord) -> Metadata:
    """Everything that the ledger records of a cutover or rollback; Dagster plots the downtime."""
    metadata: Metadata = {
        "result": dg.MetadataValue.text(result_of(record)),
        "approved_by": dg.MetadataValue.text(record.approved_by),
        "cutover_id": dg.MetadataValue.int(record.id),
        "timeline": table(
            ("state", "started", "finished", "seconds"),
            (
                {
                    "state": step.state.value,
                    "started": f"{step.started:%Y-%m-%d %H:%M:%S.%f}"[:-3],
                    "finished": f"{step.finished:%H:%M:%S.%f}"[:-3] if step.finished else "",
                    "seconds": round(step.seconds or 0.0, 3),
                }
                for step in steps_of(record.timeline)
            ),
        ),
    }
    if record.downtime_ms is not None:
        metadata["downtime_ms"] = dg.MetadataValue.float(round(record.downtime_ms, 3))
    for name in ("held_at", "opened_at", "released_at"):
        if (at := getattr(record, name)) is not None:
            metadata[name] = dg.MetadataValue.timestamp(at)
    if record.compared_weeks is not None:
        metadata["compared_weeks"] = dg.MetadataValue.int(record.compared_weeks)
        metadata["compared_rows"] = dg.MetadataValue.int(record.compared_rows or 0)
    if record.error:
        metadata["error"] = dg.MetadataValue.text(record.error)
    return metadata
