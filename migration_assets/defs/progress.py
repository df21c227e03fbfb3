"""Live progress of a copy, as observations of the slice that is being made."""

import time

import dagster as dg

from migration_assets.postgres.copy_stream import Progress


def observed_progress(context: dg.AssetExecutionContext, expected_rows: int, every_seconds: float) -> Progress:
    """A callback that logs an observation at most every `every_seconds`."""
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
                description=f"{rows:,} of about {expected_rows:,} rows on their way",
                metadata={
                    "rows_so_far": dg.MetadataValue.int(rows),
                    "wire_bytes_so_far": dg.MetadataValue.int(wire_bytes),
                    "percent": dg.MetadataValue.float(round(share, 1)),
                    "mb_per_second": dg.MetadataValue.float(round(wire_bytes / 1e6 / max(now - started, 1e-9), 2)),
                },
            )
        )

    return report
