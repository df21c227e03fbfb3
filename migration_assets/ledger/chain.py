"""The chain of evidence in the ledger: appended to in the transaction of what it speaks of, and verified."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from migration_assets.domain.errors import LedgerError
from migration_assets.domain.evidence_chain import (
    LEDGER_KINDS,
    Break,
    ChainKind,
    ChainRecord,
    Head,
    breaks,
    from_before,
    genesis_payload,
    missing_head,
    sealed,
)
from migration_assets.ledger.evidence_rows import read_row, read_rows
from migration_assets.postgres.own_schema import in_own_schema
from migration_assets.postgres.sessions import Connected, require_row

# The ledger's versions: with the first the chain came, with others what it notes besides.
_FIRST_VERSION = 5
_LATER: Mapping[ChainKind, int] = {ChainKind.CUTOVER: 7, ChainKind.DECOMMISSION: 7}
_READ = (
    "SELECT id, relation, kind, quarter, payload, payload_sha256, previous_sha256, sha256, at, run_id"
    " FROM migration.evidence_chain WHERE relation = %s ORDER BY id"
)


def hold_chain(base: Connected) -> None:
    """Until the caller's transaction ends nobody else appends: the next one sees what this one wrote.

    In a REPEATABLE READ transaction it comes first: the snapshot is taken by the first statement after it.

    Raises:
        psycopg.errors.LockNotAvailable: Somebody else appends for longer than the session's `lock_timeout`.
    """
    # Those who append under another table's name wait, too, for moments; nobody who reads does.
    base.execute("LOCK TABLE migration.evidence_chain IN SHARE ROW EXCLUSIVE MODE")


def append_row(base: Connected, relation: str, kind: ChainKind, row: int) -> ChainRecord:
    """A record of what a row of the ledger says; in the transaction that wrote it, as late as may be.

    Raises:
        LedgerError: There is no such row.
        psycopg.errors.LockNotAvailable: Somebody else appends for longer than `lock_timeout`.
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
    """With the first record of a kind that the chain did not know from its beginning: those of what was there."""
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
    """A record of anything: plain JSON without floats; in the transaction of what it speaks of.

    Where the chain is empty, a record of all that the ledger held before comes first.

    Raises:
        ValueError: The payload has no single text.
        psycopg.errors.UniqueViolation: In REPEATABLE READ, without `hold_chain`, and somebody else was quicker.
    """
    with base.transaction():
        # Evidence is not to be lost, also on a base that commits asynchronously by default.
        base.execute("SET LOCAL synchronous_commit = on")
        hold_chain(base)
        newest = _read(base, relation, newest=True)
        before = newest[0] if newest else _begin(base, relation, besides=(kind, payload.get("row")), run_id=run_id)
        return _put(base, before, relation=relation, kind=kind, payload=payload, quarter=quarter, run_id=run_id)


def begin_chain(base: Connected, relation: str) -> None:
    """The first record, where there is none yet, so that there is a head to write down."""
    with base.transaction():
        hold_chain(base)
        if not _read(base, relation, newest=True):
            _begin(base, relation, besides=("", None), run_id=None)


def _since(base: Connected) -> dict[ChainKind, datetime]:
    """Since when each kind is noted, by the ledger's upgrades."""
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
        row["payload"] = {"not an object": str(row["payload"])}  # an edit made it that, which its hash tells
    return ChainRecord(**row)


def verify_chain(
    base: Connected, relation: str, *, pack: Head | None = None
) -> tuple[list[ChainRecord], tuple[Break, ...]]:
    """All records, and everything that does not hold, the first break first; read at one moment.

    Args:
        base: In a REPEATABLE READ transaction, or alone with its ledger.
        relation: Which table's.
        pack: A head that the chain must still contain.
    """
    records = read_chain(base, relation)
    found = [*breaks(records, read_rows(base, relation), since=_since(base))]
    if pack is not None and (lost := missing_head(records, pack)) is not None:
        found.append(lost)
    return records, tuple(found)
