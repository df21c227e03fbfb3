"""The ledger: what the base holds of each slice, and every try at it. The authority for every gate.

One worker a slice: a lock on the base, which goes when its session goes.
"""

import logging
from collections.abc import Generator, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from migration_assets.domain.definitions import Definitions
from migration_assets.domain.errors import SliceBusyError, SliceStateError
from migration_assets.domain.fingerprint import METHOD, Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.domain.states import SliceState
from migration_assets.ledger.session_locks import is_held, session_lock
from migration_assets.postgres.server_messages import named, told
from migration_assets.postgres.sessions import Connected, require_row

Action = Literal["copy", "verify", "join", "validate", "repair", "undo", "archive", "reread", "retire", "restore"]
Outcome = Literal["succeeded", "mismatch", "failed", "interrupted"]
_STREAMED = frozenset({SliceState.STREAMING, SliceState.VALIDATED, SliceState.SIGNED_OFF, SliceState.ARCHIVED})
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SliceRecord:
    """One slice as the ledger knows it.

    `copies` counts the tries at copying it. `working` says whether somebody holds the slice's lock now. `last_outcome`
    is that of the newest attempt, where a running attempt that nobody holds the lock for counts as interrupted.
    """

    relation: str
    week: FiscalWeek
    lock_key: int
    leaf: str
    lower_bound: str
    upper_bound: str
    state: SliceState
    method: str | None
    legacy: Fingerprint | None
    base: Fingerprint | None
    snapshot_lsn: str | None
    snapshot_at: datetime | None
    wire_bytes: int | None
    table_bytes: int | None
    index_bytes: int | None
    seconds: Mapping[str, float]
    copied_at: datetime | None
    verified_at: datetime | None
    verified_equal: bool | None
    changed_at: datetime | None
    validated_at: datetime | None
    validated_equal: bool | None
    validated_marker: int | None
    validated_lsn: str | None
    validated_changes: int | None
    definitions: Definitions | None
    released_at: datetime | None
    released_marker: int | None
    released_lsn: str | None
    run_id: str | None
    copies: int
    working: bool
    last_action: str | None
    last_outcome: str | None
    last_error: str | None

    @property
    def under_cdc(self) -> bool:
        """Whether the change stream covers the slice: a retiring one is released from it at a cut."""
        return self.state in _STREAMED and self.released_at is None


@dataclass(frozen=True)
class CopyEvidence:
    """What a finished copy proved and measured; bytes are of the leaf's heap with TOAST, and of its indexes.

    `seconds` has those of each phase, some of which run side by side, and `total`: from the snapshot to this record.
    """

    legacy: Fingerprint
    base: Fingerprint
    definitions: Definitions
    snapshot_lsn: str
    snapshot_at: datetime
    wire_bytes: int
    table_bytes: int
    index_bytes: int
    seconds: Mapping[str, float]


_READ = sql.SQL("""
SELECT s.*, a.copies, l.held AS working, a.action AS last_action, a.error AS last_error,
       CASE WHEN a.outcome = 'running' AND NOT l.held THEN 'interrupted' ELSE a.outcome END AS last_outcome
FROM migration.slices s
LEFT JOIN LATERAL (
    SELECT n.copies, t.action, t.outcome, t.error
    FROM (SELECT count(*) FILTER (WHERE action = 'copy') AS copies, max(id) AS id FROM migration.attempts
          WHERE relation = s.relation AND quarter = s.quarter AND week = s.week) n
    LEFT JOIN migration.attempts t ON t.id = n.id
) a ON true
CROSS JOIN LATERAL (SELECT {is_held} AS held) l
WHERE s.relation = %(relation)s
  AND (%(quarter)s::text IS NULL OR s.quarter = %(quarter)s) AND (%(week)s::text IS NULL OR s.week = %(week)s)
ORDER BY s.lower_bound, s.quarter, s.week
""")


def read_slices(connection: Connected, relation: str, quarter: FiscalQuarter | None = None) -> list[SliceRecord]:
    """All known slices of the table, or of one quarter, oldest first."""
    return _read(connection, relation, quarter.key if quarter else None, None)


def read_slice(connection: Connected, relation: str, week: FiscalWeek) -> SliceRecord | None:
    """One slice, or None where its quarter was never opened."""
    records = _read(connection, relation, week.quarter.key, week.name)
    return records[0] if records else None


def require_slice(connection: Connected, relation: str, week: FiscalWeek) -> SliceRecord:
    """One slice.

    Raises:
        SliceStateError: Its quarter was never opened.
    """
    record = read_slice(connection, relation, week)
    if record is None:
        raise SliceStateError(
            "the quarter is not open in the base",
            where=week.key,
            state_left="nothing was touched",
            next_step=f"materialize quarter_partitions for {week.quarter.key}",
        )
    return record


def _read(connection: Connected, relation: str, quarter: str | None, week: str | None) -> list[SliceRecord]:
    with connection.cursor(row_factory=dict_row) as cursor:
        parameters = {"relation": relation, "quarter": quarter, "week": week}
        cursor.execute(_READ.format(is_held=is_held(connection, sql.SQL("'slice ' || s.lock_key"))), parameters)
        return [_record(row) for row in cursor]


def _record(row: dict[str, Any]) -> SliceRecord:
    def fingerprint(side: str) -> Fingerprint | None:
        rows = row[f"{side}_rows"]
        return None if rows is None else Fingerprint.from_row(rows, row[f"{side}_sum_a"], row[f"{side}_sum_b"])

    same = ("relation", "lock_key", "leaf", "lower_bound", "upper_bound", "method", "snapshot_lsn", "snapshot_at",
            "wire_bytes", "table_bytes", "index_bytes", "copied_at", "verified_at", "verified_equal",
            "changed_at", "validated_at", "validated_equal", "validated_marker", "validated_lsn",
            "validated_changes", "released_at", "released_marker", "released_lsn", "run_id",
            "working", "last_action", "last_outcome", "last_error")  # fmt: skip
    return SliceRecord(
        week=FiscalWeek.parse(f"{row['quarter']}|{row['week']}"),
        state=SliceState(row["state"]),
        legacy=fingerprint("legacy"),
        base=fingerprint("base"),
        seconds=row["seconds"] or {},
        definitions=Definitions.from_json(row["definitions"]),
        copies=row["copies"] or 0,
        **{name: row[name] for name in same},
    )


def register_slices(connection: Connected, relation: str, slices: Iterable[tuple[FiscalWeek, str, str, str]]) -> None:
    """Make the rows of a quarter's slices, state `absent`; those that exist stay as they are.

    Args:
        connection: On the base, inside the transaction that makes the leaves.
        relation: The table's key in the ledger.
        slices: Week, leaf, lower and upper bound as the server writes them.
    """
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO migration.slices (relation, quarter, week, leaf, lower_bound, upper_bound)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            [(relation, week.quarter.key, week.name, leaf, lower, upper) for week, leaf, lower, upper in slices],
        )


def begin_attempt(connection: Connected, record: SliceRecord, action: Action, run_id: str | None) -> int:
    """Note that work on a slice begins. The caller holds the slice's lock, so older running attempts are dead.

    Returns:
        The attempt's id.
    """
    key = [record.relation, record.week.quarter.key, record.week.name]
    with connection.transaction():
        connection.execute(
            "UPDATE migration.attempts SET outcome = 'interrupted', finished_at = clock_timestamp(),"
            " error = 'the process, its connection or the server ended; nothing was left half-done'"
            " WHERE relation = %s AND quarter = %s AND week = %s AND outcome = 'running'",
            key,
        )
        row = connection.execute(
            "INSERT INTO migration.attempts (relation, quarter, week, action, run_id)"
            " VALUES (%s, %s, %s, %s, %s) RETURNING id",
            [*key, action, run_id],
        ).fetchone()
    return int(require_row(row, "a new attempt")[0])


def end_attempt(
    connection: Connected,
    attempt: int,
    outcome: Outcome,
    *,
    error: str | None = None,
    legacy: Fingerprint | None = None,
    base: Fingerprint | None = None,
) -> None:
    """Note how an attempt ended; a success in the transaction that holds its result. The first note stands."""
    connection.execute(
        "UPDATE migration.attempts SET outcome = %s, error = %s, finished_at = clock_timestamp(),"
        " legacy_rows = %s, legacy_sum_a = %s, legacy_sum_b = %s, base_rows = %s, base_sum_a = %s, base_sum_b = %s"
        " WHERE id = %s AND outcome = 'running'",
        [outcome, error, *fingerprint_columns(legacy), *fingerprint_columns(base), attempt],
    )


def note_failure(connection: Connected, attempt: int, error: BaseException) -> None:
    """Best effort: where the base itself is gone, the attempt stays `running` and is read as interrupted.

    Never raises a server's error: the first one is the one to raise.
    """
    try:
        end_attempt(connection, attempt, "failed", error=named(error))
    except psycopg.Error as second:
        log.warning("attempt %d could not be marked as failed (%s); it will show as interrupted", attempt, told(second))


def fingerprint_columns(fingerprint: Fingerprint | None) -> tuple[int | None, int | None, int | None]:
    """What the ledger's three columns of a fingerprint hold."""
    return (fingerprint.rows, fingerprint.sum_a, fingerprint.sum_b) if fingerprint else (None, None, None)


def record_copy(
    connection: Connected, record: SliceRecord, evidence: CopyEvidence, run_id: str | None, state: SliceState
) -> None:
    """The slice's new leaf with all evidence; only ever inside the transaction that puts the leaf in place."""
    connection.execute(
        "UPDATE migration.slices SET state = %s, method = %s, legacy_rows = %s, legacy_sum_a = %s,"
        " legacy_sum_b = %s, base_rows = %s, base_sum_a = %s, base_sum_b = %s, snapshot_lsn = %s, snapshot_at = %s,"
        " wire_bytes = %s, table_bytes = %s, index_bytes = %s, seconds = %s, copied_at = clock_timestamp(),"
        " changed_at = clock_timestamp(), verified_at = NULL, verified_equal = NULL, validated_at = NULL,"
        " validated_equal = NULL, validated_marker = NULL, validated_lsn = NULL, validated_changes = NULL,"
        " definitions = %s, run_id = %s, updated_at = clock_timestamp() WHERE lock_key = %s",
        [state, METHOD, *fingerprint_columns(evidence.legacy), *fingerprint_columns(evidence.base),
         evidence.snapshot_lsn, evidence.snapshot_at, evidence.wire_bytes, evidence.table_bytes, evidence.index_bytes,
         Jsonb(dict(evidence.seconds)), Jsonb(evidence.definitions.as_json()), run_id, record.lock_key],
    )  # fmt: skip


def record_verification(connection: Connected, record: SliceRecord, base: Fingerprint, *, equal: bool) -> None:
    """What re-reading the base found; a difference stays visible until the slice is copied again."""
    connection.execute(
        "UPDATE migration.slices SET verified_at = clock_timestamp(), verified_equal = %s, base_rows = %s,"
        " base_sum_a = %s, base_sum_b = %s, updated_at = clock_timestamp() WHERE lock_key = %s",
        [equal, *fingerprint_columns(base), record.lock_key],
    )


@contextmanager
def slice_lock(connection: Connected, record: SliceRecord) -> Generator[SliceRecord]:
    """Hold the slice's lock; waits as long as the session's `lock_timeout`, since a dead worker's goes in seconds.

    Yields:
        The slice as the ledger has it now: whoever held the lock before may have changed what `record` says.

    Raises:
        SliceBusyError: Another session holds it; says which.
    """
    with _locked(connection, record):
        yield read_slice(connection, record.relation, record.week) or record


@contextmanager
def slice_locks(connection: Connected, records: Iterable[SliceRecord]) -> Generator[list[SliceRecord]]:
    """Hold several, always taken in the same order, so that two who want the same ones wait instead of deadlocking.

    Args:
        connection: Whose session holds them.
        records: Slices of one table.

    Yields:
        The slices as the ledger has them now, oldest first.

    Raises:
        SliceBusyError: Somebody works on one of them; none is held then.
    """
    with ExitStack() as held:
        ordered = sorted(records, key=lambda record: record.lock_key)
        for record in ordered:
            held.enter_context(_locked(connection, record))
        known = {one.lock_key: one for one in read_slices(connection, ordered[0].relation)} if ordered else {}
        yield sorted((known.get(one.lock_key, one) for one in ordered), key=lambda record: record.week)


def _locked(connection: Connected, record: SliceRecord) -> AbstractContextManager[None]:
    def refuse(who: str) -> SliceBusyError:
        return SliceBusyError(
            f"the slice is being worked on by {who}",
            where=record.week.key,
            state_left="nothing was changed by this run",
            next_step="wait for the other run, or end it, then run this slice again",
        )

    return session_lock(connection, f"slice {record.lock_key}", refuse)
