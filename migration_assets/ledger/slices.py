"""The ledger's slices: what the base holds of each week, every try at it, and the lock of whoever works on it.

Every gate reads these rows. A slice's lock goes when its session goes.
"""

import logging
from collections.abc import Generator, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal, TypeVar

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
class NewestCopy:
    """The copy whose rows are in the leaf. Bytes are of the leaf's heap with TOAST, and of its indexes.

    `seconds` has those of each phase, some of which run side by side, and `total`: from the snapshot to the record.
    """

    snapshot_lsn: str
    snapshot_at: datetime
    wire_bytes: int
    table_bytes: int
    index_bytes: int
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class NewestReread:
    """The newest reading of the copied leaf without the legacy, and whether it was as it was copied."""

    at: datetime
    equal: bool


@dataclass(frozen=True)
class NewestValidation:
    """The newest comparison of both sides at a cut; `changes` is what the leaf's statistics counted by then."""

    at: datetime
    equal: bool
    marker: int
    lsn: str
    changes: int


@dataclass(frozen=True)
class Release:
    """The cut at which the slice left the change stream."""

    at: datetime
    marker: int | None
    lsn: str | None


@dataclass(frozen=True)
class LastAttempt:
    """The newest attempt. A running one whose slice nobody has locked counts as interrupted."""

    action: str
    outcome: str
    error: str | None


@dataclass(frozen=True)
class SliceRecord:
    """One slice in the ledger.

    Attributes:
        relation: The table's key in the ledger.
        week: Which slice.
        lock_key: Its number in the ledger, by which it is locked.
        leaf: Its partition in the base, without the schema.
        lower_bound: Of the control column, inclusive, as the server writes it.
        upper_bound: Exclusive.
        state: What was last done with it.
        method: How its fingerprints were taken.
        legacy: Its newest fingerprint on the legacy.
        base: Its newest fingerprint in the base.
        definitions: How both tables were defined when these were taken.
        changed_at: When a step last changed its rows.
        copied_at: When the leaf got the rows: by the newest copy, or by joining the stream without one.
        copied: None where it was never copied.
        verified: None where its copy was not read again.
        validated: None where it was not compared at a cut since its rows were copied.
        released: None while it has not left the change stream.
        run_id: Of the run that last changed it.
        copies: How often a copy was tried.
        working: Whether a session holds the slice's lock now.
        attempt: The newest attempt; None before the first.
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
    definitions: Definitions | None
    changed_at: datetime | None
    copied_at: datetime | None
    copied: NewestCopy | None
    verified: NewestReread | None
    validated: NewestValidation | None
    released: Release | None
    run_id: str | None
    copies: int
    working: bool
    attempt: LastAttempt | None

    @property
    def under_cdc(self) -> bool:
        """Whether the change stream covers the slice: a retiring one is released from it at a cut."""
        return self.state in _STREAMED and self.released is None


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
SELECT s.*, coalesce(a.copies, 0) AS copies, l.held AS working, a.action AS last_action, a.error AS last_error,
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
    """Require one slice.

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

    made: dict[str, Any] = {
        "week": FiscalWeek.parse(f"{row['quarter']}|{row['week']}"),
        "state": SliceState(row["state"]),
        "legacy": fingerprint("legacy"),
        "base": fingerprint("base"),
        "definitions": Definitions.from_json(row["definitions"]),
        "copied": _part(NewestCopy, row, "", tells="snapshot_lsn"),
        "verified": _part(NewestReread, row, "verified_", tells="verified_at"),
        "validated": _part(NewestValidation, row, "validated_", tells="validated_at"),
        "released": _part(Release, row, "released_", tells="released_at"),
        "attempt": _part(LastAttempt, row, "last_", tells="last_action"),
    }
    return SliceRecord(**made, **{one.name: row[one.name] for one in fields(SliceRecord) if one.name not in made})


_Part = TypeVar("_Part", NewestCopy, NewestReread, NewestValidation, Release, LastAttempt)


def _part(made: type[_Part], row: Mapping[str, Any], prefix: str, *, tells: str) -> _Part | None:
    """The columns that a part's fields name, behind the prefix; None where the column that tells of it is NULL."""
    return None if row[tells] is None else made(**{one.name: row[prefix + one.name] for one in fields(made)})  # type: ignore[arg-type]


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
    """Note how an attempt ended; a success is noted in the transaction that holds its result. The first note counts."""
    connection.execute(
        "UPDATE migration.attempts SET outcome = %s, error = %s, finished_at = clock_timestamp(),"
        " legacy_rows = %s, legacy_sum_a = %s, legacy_sum_b = %s, base_rows = %s, base_sum_a = %s, base_sum_b = %s"
        " WHERE id = %s AND outcome = 'running'",
        [outcome, error, *fingerprint_columns(legacy), *fingerprint_columns(base), attempt],
    )


def note_failure(connection: Connected, attempt: int, error: BaseException) -> None:
    """Note a failure where possible: if the base is gone, the attempt stays `running` and is read as interrupted.

    It never raises a server's error, which would hide the first one.
    """
    try:
        end_attempt(connection, attempt, "failed", error=named(error))
    except psycopg.Error as second:
        log.warning("attempt %d could not be marked as failed (%s); it will show as interrupted", attempt, told(second))


def fingerprint_columns(fingerprint: Fingerprint | None) -> tuple[int | None, int | None, int | None]:
    """The values of the ledger's three columns for a fingerprint."""
    return (fingerprint.rows, fingerprint.sum_a, fingerprint.sum_b) if fingerprint else (None, None, None)


def record_copy(
    connection: Connected, record: SliceRecord, evidence: CopyEvidence, run_id: str | None, state: SliceState
) -> None:
    """Record the slice's new leaf with all evidence; only in the transaction that puts the leaf in place."""
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
    """Record what re-reading the base found; a difference stays visible until the slice is copied again."""
    connection.execute(
        "UPDATE migration.slices SET verified_at = clock_timestamp(), verified_equal = %s, base_rows = %s,"
        " base_sum_a = %s, base_sum_b = %s, updated_at = clock_timestamp() WHERE lock_key = %s",
        [equal, *fingerprint_columns(base), record.lock_key],
    )


@contextmanager
def slice_lock(connection: Connected, record: SliceRecord) -> Generator[SliceRecord]:
    """Hold the slice's lock; it waits as long as the session's `lock_timeout`, as a dead worker's lock ends in seconds.

    Yields:
        The slice as the ledger has it now: the lock's last holder may have changed what `record` says.

    Raises:
        SliceBusyError: Another session holds the lock; the error names it.
    """
    with _locked(connection, record):
        yield read_slice(connection, record.relation, record.week) or record


@contextmanager
def slice_locks(connection: Connected, records: Iterable[SliceRecord]) -> Generator[list[SliceRecord]]:
    """Hold several locks, always taken in the same order, so that two runs wait for each other without a deadlock.

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
