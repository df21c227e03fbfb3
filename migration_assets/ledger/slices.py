"""Slices in the ledger: what the base holds of each, every attempt at it, and the lock that admits one worker.

Every gate decides by these rows. A slice's lock is held on the base and ends with its session.
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
    """One slice in the ledger.

    `copies` counts the attempts to copy it. `working` says whether a session holds the slice's lock now. `last_outcome`
    is that of the newest attempt; a running attempt without a held lock counts as interrupted.
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
        """Whether the change stream covers the slice; a slice that retires is released from it at a cut."""
        return self.state in _STREAMED and self.released_at is None


@dataclass(frozen=True)
class CopyEvidence:
    """What a finished copy proved and measured.

    `table_bytes` counts the leaf's heap with TOAST, `index_bytes` its indexes. `seconds` has the duration of each
    phase, some of which overlap, and `total`: from the snapshot to this record.
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
    """All slices of the table in the ledger, or those of one quarter; oldest first."""
    return _read(connection, relation, quarter.key if quarter else None, None)


def read_slice(connection: Connected, relation: str, week: FiscalWeek) -> SliceRecord | None:
    """One slice, or None if its quarter was never opened."""
    records = _read(connection, relation, week.quarter.key, week.name)
    return records[0] if records else None


def require_slice(connection: Connected, relation: str, week: FiscalWeek) -> SliceRecord:
    """One slice, which must exist.

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
    """Insert the rows of a quarter's slices with state `absent`; existing rows stay unchanged.

    Args:
        connection: On the base, in the transaction that creates the leaves.
        relation: The table's key in the ledger.
        slices: Week, leaf, lower and upper bound as the server prints them.
    """
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO migration.slices (relation, quarter, week, leaf, lower_bound, upper_bound)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            [(relation, week.quarter.key, week.name, leaf, lower, upper) for week, leaf, lower, upper in slices],
        )


def begin_attempt(connection: Connected, record: SliceRecord, action: Action, run_id: str | None) -> int:
    """Note that work on a slice begins. The caller holds the slice's lock, so earlier running attempts are dead.

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
    """Note how an attempt ended; a success in the transaction of its result. Only the first note counts."""
    connection.execute(
        "UPDATE migration.attempts SET outcome = %s, error = %s, finished_at = clock_timestamp(),"
        " legacy_rows = %s, legacy_sum_a = %s, legacy_sum_b = %s, base_rows = %s, base_sum_a = %s, base_sum_b = %s"
        " WHERE id = %s AND outcome = 'running'",
        [outcome, error, *fingerprint_columns(legacy), *fingerprint_columns(base), attempt],
    )


def note_failure(connection: Connected, attempt: int, error: BaseException) -> None:
    """Try to note that an attempt failed; if the base is unreachable, it stays `running` and is read as interrupted.

    It never raises a server's error, because the caller raises the error that made the attempt fail.
    """
    try:
        end_attempt(connection, attempt, "failed", error=named(error))
    except psycopg.Error as second:
        log.warning("attempt %d could not be marked as failed (%s); it will show as interrupted", attempt, told(second))


def fingerprint_columns(fingerprint: Fingerprint | None) -> tuple[int | None, int | None, int | None]:
    """The values of the ledger's three columns for a fingerprint; NULL for None."""
    return (fingerprint.rows, fingerprint.sum_a, fingerprint.sum_b) if fingerprint else (None, None, None)


def record_copy(
    connection: Connected, record: SliceRecord, evidence: CopyEvidence, run_id: str | None, state: SliceState
) -> None:
    """Record a copied slice with all evidence; call it only in the transaction that puts the leaf in place."""
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
    """Record the result of reading the base's rows again; a difference stays recorded until the next copy."""
    connection.execute(
        "UPDATE migration.slices SET verified_at = clock_timestamp(), verified_equal = %s, base_rows = %s,"
        " base_sum_a = %s, base_sum_b = %s, updated_at = clock_timestamp() WHERE lock_key = %s",
        [equal, *fingerprint_columns(base), record.lock_key],
    )


@contextmanager
def slice_lock(connection: Connected, record: SliceRecord) -> Generator[SliceRecord]:
    """Hold the slice's lock; it waits as long as the session's `lock_timeout`, as a dead worker's lock ends in seconds.

    Yields:
        The slice as the ledger has it now; the previous holder of the lock may have changed it since `record` was read.

    Raises:
        SliceBusyError: Another session holds the lock; the error names it.
    """
    with _locked(connection, record):
        yield read_slice(connection, record.relation, record.week) or record


@contextmanager
def slice_locks(connection: Connected, records: Iterable[SliceRecord]) -> Generator[list[SliceRecord]]:
    """Hold the locks of several slices, always taken in the same order so that two callers cannot deadlock.

    Args:
        connection: The session that holds them.
        records: Slices of one table.

    Yields:
        The slices as the ledger has them now, oldest first.

    Raises:
        SliceBusyError: Another session works on one of them; no lock is held then.
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
