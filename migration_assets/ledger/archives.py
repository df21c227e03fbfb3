"""Archives in the ledger: the files that hold a slice, the fingerprints that prove them, and later verifications."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb

from migration_assets.domain.definitions import Definitions
from migration_assets.domain.errors import ArchiveError
from migration_assets.domain.evidence_chain import ChainKind
from migration_assets.domain.fingerprint import METHOD, Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.domain.states import SliceState, require_slice_transition
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.ledger.chain import append_row
from migration_assets.ledger.definitions import table_states
from migration_assets.ledger.slices import SliceRecord
from migration_assets.postgres.sessions import Connected, require_row


@dataclass(frozen=True)
class ArchiveEvidence:
    """What a finished archive proved. `native` is the leaf's fingerprint in the archived snapshot; sizes in bytes."""

    location: str
    generation: str
    manifest_sha256: str
    files: int
    bytes: int
    native: Fingerprint
    portable: Fingerprint
    portable_method: str
    lsn: str
    snapshot_at: datetime
    leaf_changes: int
    definitions: Definitions


@dataclass(frozen=True)
class ArchiveRecord:
    """One archive in the ledger; `location` is the slice's folder as a URL without credentials."""

    id: int
    relation: str
    week: FiscalWeek
    location: str
    generation: str
    manifest_sha256: str
    files: int
    bytes: int
    method: str
    native: Fingerprint
    portable: Fingerprint
    portable_method: str
    lsn: str
    snapshot_at: datetime
    leaf_changes: int
    definitions: Definitions | None
    run_id: str | None
    archived_at: datetime
    verified_at: datetime
    verified_equal: bool
    verify_error: str | None


_CURRENT = "SELECT * FROM migration.archives WHERE relation = %s AND superseded_at IS NULL"


def read_archive(base: Connected, relation: str, week: FiscalWeek) -> ArchiveRecord | None:
    """The slice's archive, or None if it was never archived."""
    found = _read(base, f"{_CURRENT} AND quarter = %s AND week = %s", [relation, week.quarter.key, week.name])
    return found[0] if found else None


def require_archive(base: Connected, relation: str, week: FiscalWeek) -> ArchiveRecord:
    """Require the slice's archive.

    Raises:
        ArchiveError: The slice was never archived.
    """
    archive = read_archive(base, relation, week)
    if archive is None:
        raise ArchiveError(
            "there is no archive of this week",
            where=week.key,
            state_left="nothing was touched",
            next_step="materialize parquet_archive for it",
        )
    return archive


def read_archives(base: Connected, relation: str, quarter: FiscalQuarter | None = None) -> list[ArchiveRecord]:
    """The archives of all slices, or of one quarter's slices; oldest slice first."""
    where = " AND (%s::text IS NULL OR quarter = %s)"
    key = quarter.key if quarter else None
    return sorted(_read(base, _CURRENT + where, [relation, key, key]), key=lambda record: record.week)


def _read(base: Connected, query: str, parameters: list[Any]) -> list[ArchiveRecord]:
    with base.cursor(row_factory=dict_row) as cursor:
        cursor.execute(query.encode(), parameters)
        return [_record(row) for row in cursor]


def _record(row: dict[str, Any]) -> ArchiveRecord:
    same = ("id", "relation", "location", "generation", "manifest_sha256", "files", "bytes", "method",
            "portable_method", "lsn", "snapshot_at", "leaf_changes", "run_id", "archived_at", "verified_at",
            "verified_equal", "verify_error")  # fmt: skip
    return ArchiveRecord(
        week=FiscalWeek.parse(f"{row['quarter']}|{row['week']}"),
        native=Fingerprint.from_row(row["rows"], row["sum_a"], row["sum_b"]),
        definitions=Definitions.from_json(row["definitions"]),
        portable=Fingerprint.from_row(row["rows"], row["portable_sum_a"], row["portable_sum_b"]),
        **{name: row[name] for name in same},
    )


def record_archive(
    base: Connected,
    record: SliceRecord,
    evidence: ArchiveEvidence,
    run_id: str | None,
    *,
    base_in_charge: bool = False,
) -> int:
    """Record the slice's new archive in place of an earlier one; in a transaction, under the slice's lock.

    Args:
        base: In a transaction.
        record: The slice, read under its lock.
        evidence: What was archived.
        run_id: The Dagster run, which is recorded.
        base_in_charge: Whether the base is in charge and the week is over; the slice then need not be signed off.

    Returns:
        The archive's id.

    Raises:
        SliceStateError: The slice is not signed off.
    """
    require_slice_transition(record.state, SliceState.ARCHIVED, where=record.week.key, base_in_charge=base_in_charge)
    key = [record.relation, record.week.quarter.key, record.week.name]
    base.execute(
        "UPDATE migration.archives SET superseded_at = clock_timestamp()"
        " WHERE relation = %s AND quarter = %s AND week = %s AND superseded_at IS NULL",
        key,
    )
    row = base.execute(
        "INSERT INTO migration.archives (relation, quarter, week, location, generation, manifest_sha256, files, bytes,"
        " method, rows, sum_a, sum_b, portable_method, portable_sum_a, portable_sum_b, lsn, snapshot_at, leaf_changes,"
        " definitions, run_id)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING id",
        [*key, evidence.location, evidence.generation, evidence.manifest_sha256, evidence.files, evidence.bytes,
         METHOD, evidence.native.rows, evidence.native.sum_a, evidence.native.sum_b, evidence.portable_method,
         evidence.portable.sum_a, evidence.portable.sum_b, evidence.lsn, evidence.snapshot_at, evidence.leaf_changes,
         Jsonb(evidence.definitions.as_json()), run_id],
    ).fetchone()  # fmt: skip
    base.execute(
        "UPDATE migration.slices SET state = 'archived', updated_at = clock_timestamp() WHERE lock_key = %s",
        [record.lock_key],
    )
    number = int(require_row(row, "a new archive")[0])
    append_row(base, record.relation, ChainKind.ARCHIVE, number)
    return number


def note_leaf_of_archive(base: Connected, archive_id: int, root: QualifiedName, leaf: str) -> None:
    """Note that the leaf was made anew from the archive and proven; later changes of it make the archive stale."""
    states = table_states(base, [root, root.sibling(leaf)])
    seen = Definitions(None, states.get(root), states.get(root.sibling(leaf)))
    base.execute("UPDATE migration.archives SET definitions = %s WHERE id = %s", [Jsonb(seen.as_json()), archive_id])


def record_reread(base: Connected, archive_id: int, error: str | None) -> None:
    """Record what re-reading an archive's files found; `error` is None where every byte was as it was proven."""
    base.execute(
        "UPDATE migration.archives SET verified_at = clock_timestamp(), verified_equal = %s, verify_error = %s"
        " WHERE id = %s",
        [error is None, error, archive_id],
    )


@dataclass(frozen=True)
class TrialRecord:
    """One comparison of the rows of a slice's archive; `kind` is archived, restore, return or drill."""

    kind: str
    at: datetime
    equal: bool
    error: str | None


def read_trials(base: Connected, relation: str, week: FiscalWeek) -> list[TrialRecord]:
    """All trials of the archive in force, the oldest first; none where there is no archive."""
    with base.cursor(row_factory=class_row(TrialRecord)) as cursor:
        cursor.execute(
            "WITH current AS (SELECT * FROM migration.archives WHERE relation = %s AND quarter = %s AND week = %s"
            " AND superseded_at IS NULL)"
            " SELECT kind, at, equal, error FROM ("
            "  SELECT 0 AS n, 'archived' AS kind, archived_at AS at, true AS equal, NULL::text AS error FROM current"
            "  UNION ALL SELECT r.id, r.kind, r.restored_at, r.equal, r.error FROM migration.restores r"
            "  JOIN current c ON c.id = r.archive_id) AS all_of_them ORDER BY n",
            [relation, week.quarter.key, week.name],
        )
        return cursor.fetchall()
