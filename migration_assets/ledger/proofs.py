"""Keeps every exact comparison of a slice, what it means for the slice's state, and what every cut cost."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from psycopg.types.json import Jsonb

from migration_assets.domain.definitions import Definitions
from migration_assets.domain.fingerprint import METHOD, Differences, Fingerprint
from migration_assets.domain.states import SliceState, require_slice_transition
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.ledger.slices import SliceRecord, fingerprint_columns
from migration_assets.ledger.stream_parts import may_see_subscription
from migration_assets.postgres.catalogue import changes_by_leaf
from migration_assets.postgres.sessions import Connected, require_row

Purpose = Literal["validate", "reconcile", "join", "copy", "repair"]
_FIRST = frozenset({SliceState.ABSENT, SliceState.COPIED})
_APPROVED = frozenset({SliceState.SIGNED_OFF, SliceState.ARCHIVED})


@dataclass(frozen=True)
class Proof:
    """Both sides of one slice at one position; `marker` is None at the snapshot of a new slot.

    `definitions` is the state of the tables while they were read.
    """

    legacy: Fingerprint
    base: Fingerprint
    lsn: str
    marker: int | None
    definitions: Definitions
    differences: Differences = field(default_factory=Differences)

    @property
    def equal(self) -> bool:
        """Whether no difference was found."""
        return self.legacy == self.base and not self.differences.rows


def record_proof(
    base: Connected,
    record: SliceRecord,
    proof: Proof,
    purpose: Purpose,
    run_id: str | None,
    *,
    found: Differences | None = None,
    changed: bool = False,
    seen: int | None = None,
) -> SliceState:
    """Append a comparison and set the slice's state; in the transaction of what it proves, under the slice's lock.

    Args:
        base: In a transaction.
        record: The slice, read under its lock.
        proof: The comparison.
        purpose: The kind of step that compared.
        run_id: The Dagster run, which is recorded.
        found: The differences before a true-up, which are counted.
        changed: Whether we wrote rows. A sign-off is void then, except when a released week joins again.
        seen: The leaf's change counter before the cut: changes applied during the comparison came after the cut. None
            if nothing was applied meanwhile.

    Returns:
        The slice's new state.
    """
    differences = found or proof.differences
    kept = Jsonb(proof.definitions.as_json())
    base.execute(
        "INSERT INTO migration.validations (relation, quarter, week, purpose, marker, lsn, method, legacy_rows,"
        " legacy_sum_a, legacy_sum_b, base_rows, base_sum_a, base_sum_b, equal, missing, extra, changed, run_id,"
        " definitions) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [record.relation, record.week.quarter.key, record.week.name, purpose, proof.marker, proof.lsn, METHOD,
         *fingerprint_columns(proof.legacy), *fingerprint_columns(proof.base), proof.equal, differences.missing,
         differences.extra, differences.changed, run_id, kept],
    )  # fmt: skip
    # A released week that joins again gets what came meanwhile, as the stream would have brought it.
    caught_up = purpose == "join" and record.released is not None
    if record.state in _APPROVED and proof.equal and (caught_up or not changed):
        state = record.state
    elif proof.equal and record.state not in _FIRST:
        state = SliceState.VALIDATED
    else:
        state = SliceState.STREAMING
    if record.state in _APPROVED and state is SliceState.VALIDATED:
        # First the sign-off is void: what was signed is not what is there now.
        require_slice_transition(record.state, SliceState.STREAMING, where=record.week.key)
    elif record.state is not state:
        require_slice_transition(record.state, state, where=record.week.key)
    if seen is None:
        seen = changes_of(base, record)
    base.execute(
        "UPDATE migration.slices SET state = %s, method = %s, legacy_rows = %s, legacy_sum_a = %s, legacy_sum_b = %s,"
        " base_rows = %s, base_sum_a = %s, base_sum_b = %s, verified_at = NULL, verified_equal = NULL,"
        " validated_at = statement_timestamp(), validated_equal = %s, validated_marker = %s, validated_lsn = %s,"
        " validated_changes = %s, definitions = %s, run_id = %s, updated_at = clock_timestamp(),"
        " copied_at = coalesce(copied_at, statement_timestamp()),"
        " changed_at = CASE WHEN %s THEN statement_timestamp() ELSE changed_at END,"
        # A week that joins the stream is covered by it again.
        " released_at = CASE WHEN %s THEN NULL ELSE released_at END WHERE lock_key = %s",
        [state, METHOD, *fingerprint_columns(proof.legacy), *fingerprint_columns(proof.base), proof.equal,
         proof.marker, proof.lsn, seen, kept, run_id, changed, purpose == "join", record.lock_key],
    )  # fmt: skip
    return state


def changes_of(base: Connected, record: SliceRecord) -> int:
    """How many row changes the leaf has counted until now; see `changes_by_leaf`."""
    return changes_by_leaf(base, QualifiedName.parse(record.relation), [record.leaf]).get(record.leaf, 0)


CutKind = Literal["validate", "pause"]


@dataclass(frozen=True)
class CutRecord:
    """One cut; `lsn` is the legacy's; all durations are milliseconds (`ledger.sql` explains them)."""

    marker: int
    lsn: str
    taken_at: datetime
    tries: int
    writers_held_ms: float
    longest_try_ms: float
    reached_ms: float
    apply_held_ms: float


@dataclass(frozen=True)
class Barrier:
    """The legacy's half of a cut: the marker, its position, and how long setting it took."""

    marker: int
    lsn: str
    snapshot: str
    tries: int
    writers_held_ms: float
    longest_try_ms: float


def record_cut(
    base: Connected,
    relation: str,
    barrier: Barrier,
    *,
    kind: CutKind,
    purpose: str,
    run_id: str | None,
    reached_ms: float,
    worker: int,
) -> datetime:
    """Note a cut durably; if the stream is paused, this also puts the marker that was applied before it on disk.

    `worker` is the apply worker that brought the marker; see `weeks_carried`. It is noted only if our role could see a
    later ALTER SUBSCRIPTION … SKIP.
    """
    known = worker if may_see_subscription(base) else None
    with base.transaction():
        base.execute("SET LOCAL synchronous_commit = on")
        row = base.execute(
            "INSERT INTO migration.cuts (relation, marker, kind, purpose, run_id, lsn, tries, writers_held_ms,"
            " longest_try_ms, reached_ms, worker) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s,"
            " (SELECT a.pid || '/' || extract(epoch FROM a.backend_start) FROM pg_stat_activity a WHERE a.pid = %s))"
            " RETURNING taken_at",
            [relation, barrier.marker, kind, purpose, run_id, barrier.lsn, barrier.tries, barrier.writers_held_ms,
             barrier.longest_try_ms, reached_ms, known],
        ).fetchone()  # fmt: skip
    taken_at: datetime = require_row(row, "a new cut")[0]
    return taken_at


def record_release(base: Connected, relation: str, marker: int, apply_held_ms: float) -> None:
    """Note how long the apply worker was held."""
    base.execute(
        "UPDATE migration.cuts SET apply_held_ms = %s WHERE relation = %s AND marker = %s",
        [apply_held_ms, relation, marker],
    )


def time_held(base: Connected, relation: str, cut: CutRecord) -> CutRecord:
    """The record of a pause that is over, with the time that the apply worker was held."""
    row = base.execute(
        "SELECT coalesce(apply_held_ms, 0) FROM migration.cuts WHERE relation = %s AND marker = %s",
        [relation, cut.marker],
    ).fetchone()
    return replace(cut, apply_held_ms=float(require_row(row, "a cut")[0]))


def weeks_carried(base: Connected, relation: str) -> set[int]:
    """The lock keys of weeks whose newest proof was taken at a marker that the present apply worker brought.

    For these weeks nothing was skipped since the proof. While a worker reads, its slot and its origin cannot be
    advanced and the slot cannot be dropped; and a worker ends with its connection. If another worker reads now, one of
    these may have happened in between, and the servers do not show it. A worker whose start time our role may not see
    counts for no week. No worker counts if our role may not see alterations of the subscription, because ALTER
    SUBSCRIPTION … SKIP does not end the worker.
    """
    if not may_see_subscription(base):
        return set()
    rows = base.execute(
        "SELECT s.lock_key FROM migration.slices s JOIN migration.streams t ON t.relation = s.relation"
        " JOIN migration.cuts c ON c.relation = s.relation AND c.marker = s.validated_marker"
        " JOIN pg_stat_subscription w ON w.subname = t.subscription"
        " JOIN pg_subscription p ON p.oid = w.subid"
        " AND p.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " JOIN pg_stat_activity a ON a.pid = w.pid AND c.worker = a.pid || '/' || extract(epoch FROM a.backend_start)"
        " WHERE s.relation = %s",
        [relation],
    )
    return {int(row[0]) for row in rows}


def read_cuts(base: Connected, relation: str) -> list[tuple[CutKind, CutRecord]]:
    """Every finished cut of the stream, oldest first."""
    found = base.execute(
        "SELECT kind, marker, lsn::text, taken_at, tries, writers_held_ms, longest_try_ms, reached_ms, apply_held_ms"
        " FROM migration.cuts WHERE relation = %s AND apply_held_ms IS NOT NULL ORDER BY taken_at",
        [relation],
    )
    return [(kind, CutRecord(*values)) for kind, *values in found]
