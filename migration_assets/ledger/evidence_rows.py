"""What the chain of evidence holds of each kind of the ledger's rows: all that must never change once it was said.

What may change later is not in it: when an archive was read again or superseded, and how far a retirement got, whose
steps are records of their own. One query serves who appends and who verifies: they cannot disagree.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, LiteralString, cast

from psycopg.rows import dict_row

from migration_assets.domain.evidence_chain import ChainKind, RowKey
from migration_assets.domain.sign_off_evidence import digest, moment_text
from migration_assets.postgres.sessions import Connected

_NO_TEXT = "it has no single text"
_RETIREMENT: LiteralString = "SELECT id, quarter, week, run_id, begun_at, done_by{} FROM migration.retirements WHERE {}"
# Each has the parameter `relation`, and `row` for one row alone.
_QUERIES: Mapping[ChainKind, LiteralString] = {
    ChainKind.SIGN_OFF: "SELECT id, quarter, approved_by, note, evidence, sha256, signed_at, run_id,"
    " done_by FROM migration.sign_offs WHERE true",
    # With what every week of it held: the fingerprints are what the equality rests on.
    ChainKind.RECONCILIATION: "SELECT id, quarter, marker, lsn::text, equal, duplicate_keys, reconciled_at, run_id,"
    " (SELECT coalesce(jsonb_agg(jsonb_build_object('week', v.week, 'method', v.method, 'equal', v.equal,"
    "   'legacy', v.legacy_rows || '/' || v.legacy_sum_a || '/' || v.legacy_sum_b,"
    "   'base', v.base_rows || '/' || v.base_sum_a || '/' || v.base_sum_b) ORDER BY v.week, v.id), '[]')"
    "  FROM migration.validations v WHERE v.relation = r.relation AND v.quarter = r.quarter"
    "  AND v.marker = r.marker AND v.purpose = 'reconcile') AS weeks"
    " FROM migration.reconciliations r WHERE true",
    ChainKind.ARCHIVE: "SELECT id, quarter, week, location, generation, manifest_sha256, files, bytes, method, rows,"
    " sum_a, sum_b, portable_method, portable_sum_a, portable_sum_b, lsn::text, snapshot_at, leaf_changes, run_id,"
    " archived_at FROM migration.archives WHERE true",
    ChainKind.DETACHING: _RETIREMENT.format("", "true"),
    ChainKind.QUARANTINED: _RETIREMENT.format(", archive_id, quarantined_at, drop_after", "quarantined_at IS NOT NULL"),
    ChainKind.DROPPED: _RETIREMENT.format(", archive_id, dropped_at", "dropped_at IS NOT NULL"),
    ChainKind.RETURNED: _RETIREMENT.format(", returned_at", "returned_at IS NOT NULL"),
    # `seconds` is left out: it is a float, and proves nothing.
    ChainKind.RESTORE: "SELECT id, quarter, week, archive_id, kind, rows, equal, error, run_id, restored_at,"
    " done_by FROM migration.restores WHERE true",
    # A cutover is noted once it has ended; `stream_barred` is taken from it by the next rollback, and is no evidence.
    ChainKind.CUTOVER: "SELECT id, kind, rehearse, approved_by, state, timeline, held_at, opened_at, released_at,"
    " round(downtime_ms * 1000)::bigint AS downtime_us, compared_weeks, compared_rows, error, outcome, run_id,"
    " started_at, finished_at, done_by FROM migration.cutovers WHERE outcome <> 'running'",
    ChainKind.DECOMMISSION: "SELECT id, cutover, approved_by, note, scope, last_read_at, watched_since, final, former,"
    " run_id, started_at, finished_at, done_by FROM migration.decommissions WHERE state = 'done'",
}


def read_row(base: Connected, relation: str, kind: ChainKind, row: int) -> dict[str, Any] | None:
    """What one row says now, as plain JSON without floats; None where it is not there."""
    return _read(base, relation, kind, row).get((kind, row))


def read_rows(base: Connected, relation: str) -> dict[RowKey, dict[str, Any]]:
    """What all rows of all kinds say now."""
    found: dict[RowKey, dict[str, Any]] = {}
    for kind in _QUERIES:
        found.update(_read(base, relation, kind, None))
    return found


def _read(base: Connected, relation: str, kind: ChainKind, row: int | None) -> dict[RowKey, dict[str, Any]]:
    query = _QUERIES[kind] + " AND relation = %(relation)s AND (%(row)s::bigint IS NULL OR id = %(row)s)"
    with base.cursor(row_factory=dict_row) as cursor:
        cursor.execute(query, {"relation": relation, "row": row})
        return {(kind.value, found.pop("id")): _plain(found) for found in cursor}


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    # What was written before the ledger noted who did it is covered as it was then.
    said = {name: value for name, value in row.items() if name != "done_by" or value is not None}
    return {name: _hashed(value) if name == "evidence" else _value(value) for name, value in said.items()}


def _value(value: Any) -> Any:
    match value:
        case datetime():
            return moment_text(value)
        case Decimal():
            return str(int(value))
        case dict() | list() if _hashed(cast("object", value)) == _NO_TEXT:
            return _NO_TEXT
        case _:
            return value


def _hashed(evidence: Any) -> str:
    try:
        return digest(evidence)
    except ValueError:
        return _NO_TEXT  # an edit put a float into it; what was signed has none
