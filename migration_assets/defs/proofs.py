"""A comparison of both sides in Dagster: check results, differing keys (never values), and what its cut cost."""

from collections.abc import Iterable, Mapping

import dagster as dg

from migration_assets.defs.metadata import Metadata, fingerprint_metadata
from migration_assets.domain.differences import Differences
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.ledger.cuts import CutRecord

ROW_COUNT, CHECKSUM = "row_count_matches", "checksum_matches"


def table(columns: Iterable[str], rows: Iterable[Mapping[str, str | int | float]]) -> dg.TableMetadataValue:
    """A table with these columns, also where it has no rows."""
    return dg.MetadataValue.table(
        records=[dg.TableRecord(dict(row)) for row in rows],
        schema=dg.TableSchema([dg.TableColumn(name) for name in columns]),
    )


def equality_results(
    asset: str, legacy: Fingerprint, base: Fingerprint, differences: Differences | None = None
) -> list[dg.AssetCheckResult]:
    """Both checks of a week. Rows that differ fail the checksum's, whatever the sums say."""
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
    """Counts by kind, and the keys of a sample with the columns that differ."""
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
    """Equality at a cut, and what the cut cost writers and stream; numbers, so that they plot over the partitions."""
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
    """See the ledger's comments on migration.cuts."""
    return {
        "marker": dg.MetadataValue.int(cut.marker),
        "lsn": dg.MetadataValue.text(cut.lsn),
        "tries": dg.MetadataValue.int(cut.tries),
        "writers_held_ms": dg.MetadataValue.float(round(cut.writers_held_ms, 3)),
        "longest_try_ms": dg.MetadataValue.float(round(cut.longest_try_ms, 3)),
        "reached_ms": dg.MetadataValue.float(round(cut.reached_ms, 3)),
        "apply_held_ms": dg.MetadataValue.float(round(cut.apply_held_ms, 3)),
    }
