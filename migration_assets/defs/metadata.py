"""Figures of a slice as metadata: numbers are numbers, so that Dagster plots them over the partitions."""

import dagster as dg

from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.table_description import TableDescription
from migration_assets.ledger.slices import CopyEvidence
from migration_assets.quarters.legacy_weeks import SliceMeasure

Metadata = dict[str, dg.MetadataValue]
_MB = 1e6
_GB = 1e9


def copy_metadata(evidence: CopyEvidence, *, target_gb_per_hour: float) -> Metadata:
    """Rows, bytes, rates and the seconds of each phase; bytes are the leaf's heap with TOAST, 10^6 and 10^9."""
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
    """Both sides' figures; checksums as hexadecimal text, since they are too big to plot and mean nothing plotted."""
    return {
        "legacy_rows": dg.MetadataValue.int(legacy.rows),
        "base_rows": dg.MetadataValue.int(base.rows),
        "legacy_checksum": dg.MetadataValue.text(legacy.checksum),
        "base_checksum": dg.MetadataValue.text(base.checksum),
    }


def measure_metadata(measure: SliceMeasure, *, window_hours: float, target_gb_per_hour: float) -> Metadata:
    """What is to be moved; the predicted duration is that at the target rate, read amplification included."""
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
