"""The ledger's record of the decommissioning: at most one row a table; each step is noted durably before it is done."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from migration_assets.domain.evidence_chain import ChainKind
from migration_assets.domain.states import DecommissionError, DecommissionState, Scope
from migration_assets.ledger.chain import append_row
from migration_assets.ledger.charge import read_cutover_facts
from migration_assets.ledger.cutovers import CutoverRecord, durably, read_cutover
from migration_assets.postgres.sessions import Connected, require_row


@dataclass(frozen=True)
class DecommissionRecord:
    """The decommissioning of one table's legacy; times are by the base's clock; `ledger.sql` explains the columns."""

    id: int
    relation: str
    cutover: int
    approved_by: str
    note: str
    scope: Scope
    state: DecommissionState
    last_read_at: datetime | None
    watched_since: datetime | None
    final: Mapping[str, Any]
    former: Mapping[str, Any]
    error: str | None
    run_id: str | None
    started_at: datetime
    finished_at: datetime | None
    done_by: Mapping[str, object] | None = None


def current_cutover(base: Connected, relation: str) -> CutoverRecord | None:
    """The cutover that put the base in charge; None where the legacy is in charge."""
    facts = read_cutover_facts(base, relation)
    return None if facts.in_charge == "legacy" or facts.cutover is None else read_cutover(base, facts.cutover)


def read_decommission(base: Connected, relation: str) -> DecommissionRecord | None:
    """The decommissioning, or None where it was never begun, or was called off."""
    with base.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute("SELECT * FROM migration.decommissions WHERE relation = %s", [relation]).fetchone()
    if row is None:
        return None
    fields: dict[str, Any] = {**row, "state": DecommissionState(row["state"])}
    return DecommissionRecord(**fields)


def require_decommission(base: Connected, relation: str) -> DecommissionRecord:
    """Require the decommissioning's record.

    Raises:
        DecommissionError: It is gone, because a rollback cancelled it.
    """
    record = read_decommission(base, relation)
    if record is None:
        raise DecommissionError(
            "it was called off meanwhile",
            where=relation,
            state_left="nothing was closed",
            next_step="see which side is in charge (`migration-assets status`)",
        )
    return record


def begin(base: Connected, relation: str, cutover: int, *, approved_by: str, note: str, scope: Scope,
          run_id: str | None) -> None:  # fmt: skip
    """Make a new record, or begin the one of a dead run anew that has closed nothing yet."""
    with durably(base):
        base.execute(
            "INSERT INTO migration.decommissions (relation, cutover, approved_by, note, scope, run_id, watched_since,"
            "  last_read_at)"
            " VALUES (%(relation)s, %(cutover)s, %(by)s, %(note)s, %(scope)s, %(run)s,"
            "  (SELECT watched_since FROM migration.legacy_reads WHERE relation = %(relation)s),"
            "  (SELECT last_read_at FROM migration.legacy_reads WHERE relation = %(relation)s))"
            " ON CONFLICT (relation) DO UPDATE SET cutover = excluded.cutover, approved_by = excluded.approved_by,"
            " note = excluded.note, scope = excluded.scope, run_id = excluded.run_id, error = NULL,"
            " done_by = DEFAULT,"
            " watched_since = excluded.watched_since, last_read_at = excluded.last_read_at, state = 'begun',"
            " final = '{}', started_at = clock_timestamp()",
            {"relation": relation, "cutover": cutover, "by": approved_by, "note": note, "scope": scope, "run": run_id},
        )


def note_final(base: Connected, record: int, final: Mapping[str, Any]) -> None:
    """Note that the last fingerprints were taken."""
    with durably(base):
        base.execute(
            "UPDATE migration.decommissions SET state = 'fingerprinted', final = %s WHERE id = %s",
            [Jsonb(dict(final)), record],
        )


def note_closed(base: Connected, record: int, former: Mapping[str, Any]) -> None:
    """Note that there is no way back from here on, and what is about to be taken away."""
    with durably(base):
        base.execute(
            "UPDATE migration.decommissions SET state = 'closed', former = %s, error = NULL WHERE id = %s",
            [Jsonb(dict(former)), record],
        )


def note_severed(base: Connected, record: int) -> None:
    """Note that the legacy is closed; the reverse stream goes next."""
    with durably(base):
        base.execute("UPDATE migration.decommissions SET state = 'severed', error = NULL WHERE id = %s", [record])


def note_done(base: Connected, relation: str, record: int, *, left: Mapping[str, Any]) -> None:
    """Note the end, with a record in the chain of evidence. `left` is added to what was kept as `former`."""
    with durably(base):
        base.execute(
            "UPDATE migration.decommissions SET state = 'done', error = NULL, former = former || %s,"
            " finished_at = clock_timestamp() WHERE id = %s",
            [Jsonb(dict(left)), record],
        )
        append_row(base, relation, ChainKind.DECOMMISSION, record)


def note_error(base: Connected, record: int, error: str) -> None:
    """Note where it stopped."""
    base.execute("UPDATE migration.decommissions SET error = %s WHERE id = %s", [error, record])


def call_off(base: Connected, relation: str) -> bool:
    """Delete the record of one that has closed nothing yet; returns whether there was one."""
    with durably(base):
        gone = base.execute(
            "DELETE FROM migration.decommissions WHERE relation = %s AND state IN ('begun', 'fingerprinted')",
            [relation],
        )
    return bool(gone.rowcount)


def seconds_since(base: Connected, moment: datetime) -> float:
    """The time by the base's clock."""
    row = base.execute("SELECT extract(epoch FROM clock_timestamp() - %s::timestamptz)::float8", [moment]).fetchone()
    return float(require_row(row, "the clock")[0])
