"""The evidence chain in the ledger: appends records in the transaction of the row that they cover, and verifies them.

A record holds, of each kind of ledger row, everything that must never change once it was said.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, LiteralString, cast

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from migration_assets.domain.errors import LedgerError
from migration_assets.domain.evidence_chain import (
    LEDGER_KINDS,
    Break,
    ChainKind,
    ChainRecord,
    Head,
    RowKey,
    breaks,
    from_before,
    genesis_payload,
    missing_head,
    sealed,
)
from migration_assets.domain.sign_off_evidence import digest, moment_text
from migration_assets.postgres.own_schema import in_own_schema
from migration_assets.postgres.sessions import Connected, require_row

_NO_TEXT = "it has no single text"
_RETIREMENT: LiteralString = "SELECT id, quarter, week, run_id, begun_at, done_by{} FROM migration.retirements WHERE {}"
# Each query has the parameter `relation`, and `row` for a single row.
_QUERIES: Mapping[ChainKind, LiteralString] = {
    ChainKind.SIGN_OFF: "SELECT id, quarter, approved_by, note, evidence, sha256, signed_at, run_id,"
    " done_by FROM migration.sign_offs WHERE true",
    # With the fingerprints of every week, on which the equality rests.
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
    # A cutover is noted once it has ended. The next rollback changes its `stream_barred`, which is no evidence.
    ChainKind.CUTOVER: "SELECT id, kind, rehearse, approved_by, state, timeline, held_at, opened_at, released_at,"
    " round(downtime_ms * 1000)::bigint AS downtime_us, compared_weeks, compared_rows, error, outcome, run_id,"
    " started_at, finished_at, done_by FROM migration.cutovers WHERE outcome <> 'running'",
    ChainKind.DECOMMISSION: "SELECT id, cutover, approved_by, note, scope, last_read_at, watched_since, final, former,"
    " run_id, started_at, finished_at, done_by FROM migration.decommissions WHERE state = 'done'",
}


def read_row(base: Connected, relation: str, kind: ChainKind, row: int) -> dict[str, Any] | None:
    """The present contents of one row, as plain JSON without floats; None if the row does not exist."""
    return _rows_of(base, relation, kind, row).get((kind, row))


def read_rows(base: Connected, relation: str) -> dict[RowKey, dict[str, Any]]:
    """The present contents of all rows of all kinds."""
    found: dict[RowKey, dict[str, Any]] = {}
    for kind in _QUERIES:
        found.update(_rows_of(base, relation, kind, None))
    return found


def _rows_of(base: Connected, relation: str, kind: ChainKind, row: int | None) -> dict[RowKey, dict[str, Any]]:
    query = _QUERIES[kind] + " AND relation = %(relation)s AND (%(row)s::bigint IS NULL OR id = %(row)s)"
    with base.cursor(row_factory=dict_row) as cursor:
        cursor.execute(query, {"relation": relation, "row": row})
        return {(kind.value, found.pop("id")): _plain(found) for found in cursor}


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    # A row from before the ledger noted who did it is covered as it was then.
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
        return _NO_TEXT  # somebody edited a float into it; what was signed has none


# Versions of the ledger: the chain came with the first, further kinds of records came with the others.
_FIRST_VERSION = 5
_LATER: Mapping[ChainKind, int] = {ChainKind.CUTOVER: 7, ChainKind.DECOMMISSION: 7}
_READ = (
    "SELECT id, relation, kind, quarter, payload, payload_sha256, previous_sha256, sha256, at, run_id"
    " FROM migration.evidence_chain WHERE relation = %s ORDER BY id"
)


def hold_chain(base: Connected) -> None:
    """Keep everybody else from appending until the caller's transaction ends: the next one sees what this one wrote.

    In a REPEATABLE READ transaction call it first, so that the snapshot is taken after the lock was obtained.

    Raises:
        psycopg.errors.LockNotAvailable: Another session appends for longer than the session's `lock_timeout`.
    """
    # Appends for another table wait, too, for moments; readers do not wait.
    base.execute("LOCK TABLE migration.evidence_chain IN SHARE ROW EXCLUSIVE MODE")


def append_row(base: Connected, relation: str, kind: ChainKind, row: int) -> ChainRecord:
    """Append a record of what a row of the ledger says; in the transaction that wrote it, as late as possible.

    Raises:
        LedgerError: There is no such row.
        psycopg.errors.LockNotAvailable: Another session appends for longer than `lock_timeout`.
    """
    says = read_row(base, relation, kind, row)
    if says is None:
        raise LedgerError(
            f"{kind.value} {row} is not in the ledger of {relation}",
            where=in_own_schema(base, "migration.evidence_chain"),
        )
    with base.transaction():
        hold_chain(base)
        if kind in _LATER:
            _note_older(base, relation, kind, besides=row)
        return append(base, relation, kind, {"row": row, **says}, quarter=says.get("quarter"), run_id=says["run_id"])


def _note_older(base: Connected, relation: str, kind: ChainKind, *, besides: int) -> None:
    """Append records of older rows before the first record of a kind that the chain got later."""
    rows = {key: says for key, says in read_rows(base, relation).items() if key != (kind, besides)}
    for key in from_before(read_chain(base, relation), rows, kind, _since(base).get(kind)):
        append(base, relation, kind, {"row": key[1], **rows[key]}, run_id=rows[key]["run_id"])


def append(
    base: Connected,
    relation: str,
    kind: str,
    payload: dict[str, Any],
    *,
    quarter: str | None = None,
    run_id: str | None = None,
) -> ChainRecord:
    """Append a record of anything, as plain JSON without floats; in the transaction of what it speaks of.

    If the chain is empty, a first record of all existing ledger rows comes before it.

    Raises:
        ValueError: The payload has no canonical text.
        psycopg.errors.UniqueViolation: In REPEATABLE READ without `hold_chain`, when another session appended first.
    """
    with base.transaction():
        # Evidence must not be lost, even on a base that commits asynchronously by default.
        base.execute("SET LOCAL synchronous_commit = on")
        hold_chain(base)
        newest = _read(base, relation, newest=True)
        before = newest[0] if newest else _begin(base, relation, besides=(kind, payload.get("row")), run_id=run_id)
        return _put(base, before, relation=relation, kind=kind, payload=payload, quarter=quarter, run_id=run_id)


def begin_chain(base: Connected, relation: str) -> None:
    """Append the first record, where there is none yet, so that there is a head to write down."""
    with base.transaction():
        hold_chain(base)
        if not _read(base, relation, newest=True):
            _begin(base, relation, besides=("", None), run_id=None)


def _since(base: Connected) -> dict[ChainKind, datetime]:
    """The time from which each kind is recorded: that of the ledger upgrade which added it."""
    upgrades = dict(base.execute("SELECT version, upgraded_at FROM migration.schema_versions").fetchall())
    noted = {kind: upgrades.get(_LATER.get(kind, _FIRST_VERSION)) for kind in LEDGER_KINDS}
    return {kind: at for kind, at in noted.items() if at is not None}


def _begin(base: Connected, relation: str, *, besides: tuple[str, Any], run_id: str | None) -> ChainRecord:
    there = {key: says for key, says in read_rows(base, relation).items() if key != besides}
    payload = genesis_payload(relation, there)
    return _put(base, None, relation=relation, kind=ChainKind.GENESIS, payload=payload, quarter=None, run_id=run_id)


def _put(base: Connected, before: ChainRecord | None, **what: Any) -> ChainRecord:
    at = require_row(base.execute("SELECT clock_timestamp()").fetchone(), "the clock")[0]
    what["kind"] = str(what["kind"])
    record = sealed(before, at=at, **what)
    base.execute(
        "INSERT INTO migration.evidence_chain (id, relation, kind, quarter, payload, payload_sha256, previous_sha256,"
        " sha256, at, run_id) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [record.id, record.relation, record.kind, record.quarter, Jsonb(record.payload), record.payload_sha256,
         record.previous_sha256, record.sha256, record.at, record.run_id],
    )  # fmt: skip
    return record


def read_chain(base: Connected, relation: str) -> list[ChainRecord]:
    """Every record of the table, in order."""
    return _read(base, relation, newest=False)


def _read(base: Connected, relation: str, *, newest: bool) -> list[ChainRecord]:
    with base.cursor(row_factory=dict_row) as cursor:
        cursor.execute(f"{_READ} DESC LIMIT 1" if newest else _READ, [relation])
        return [_record(row) for row in cursor]


def _record(row: dict[str, Any]) -> ChainRecord:
    if not isinstance(row["payload"], dict):
        row["payload"] = {"not an object": str(row["payload"])}  # somebody edited it, which its hash tells
    return ChainRecord(**row)


def verify_chain(
    base: Connected, relation: str, *, pack: Head | None = None
) -> tuple[list[ChainRecord], tuple[Break, ...]]:
    """Read all records at one moment, with everything that does not hold, the first break first.

    Args:
        base: In a REPEATABLE READ transaction, or without concurrent writers to the ledger.
        relation: The table's key in the ledger.
        pack: A head that the chain must still contain.
    """
    records = read_chain(base, relation)
    found = [*breaks(records, read_rows(base, relation), since=_since(base))]
    if pack is not None and (lost := missing_head(records, pack)) is not None:
        found.append(lost)
    return records, tuple(found)
