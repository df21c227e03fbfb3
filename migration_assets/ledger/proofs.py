"""Keeps every exact comparison of a slice, and what it means for the slice's state."""

from dataclasses import dataclass, field
from typing import Literal

from psycopg.types.json import Jsonb

from migration_assets.domain.definitions import Definitions
from migration_assets.domain.differences import Differences
from migration_assets.domain.fingerprint import METHOD, Fingerprint
from migration_assets.domain.slice_state import SliceState, require_transition
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.ledger.slices import SliceRecord, fingerprint_columns
from migration_assets.postgres.leaf_changes import changes_by_leaf
from migration_assets.postgres.sessions import Connected

Purpose = Literal["validate", "reconcile", "join", "copy", "repair"]
_FIRST = frozenset({SliceState.ABSENT, SliceState.COPIED})
_APPROVED = frozenset({SliceState.SIGNED_OFF, SliceState.ARCHIVED})


@dataclass(frozen=True)
class Proof:
    """Both sides of one slice at one position; `marker` is None at a slot's own snapshot.

    `definitions` is what the tables were while they were read.
    """

    legacy: Fingerprint
    base: Fingerprint
    lsn: str
    marker: int | None
    definitions: Definitions
    differences: Differences = field(default_factory=Differences)

    @property
    def equal(self) -> bool:
        """Whether there was nothing to tell the sides apart."""
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
    """Append a comparison and draw its consequence; in the transaction of what it proves, under the slice's lock.

    Args:
        base: In a transaction.
        record: The slice, read under its lock.
        proof: What was compared.
        purpose: On which occasion.
        run_id: Noted.
        found: What was wrong before a true-up, to be counted.
        changed: Whether we put rows in: a sign-off is void then, unless a released week joins again.
        seen: The leaf's changes, counted before the cut: what is applied while rows are compared came after it. None
            where nothing was applied meanwhile.

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
    # A week that the stream let go of gets what came meanwhile when it joins again: the stream would have brought it.
    caught_up = purpose == "join" and record.released_at is not None
    if record.state in _APPROVED and proof.equal and (caught_up or not changed):
        state = record.state
    elif proof.equal and record.state not in _FIRST:
        state = SliceState.VALIDATED
    else:
        state = SliceState.STREAMING
    if record.state in _APPROVED and state is SliceState.VALIDATED:
        # Void first: what was signed is not what is there now.
        require_transition(record.state, SliceState.STREAMING, where=record.week.key)
    elif record.state is not state:
        require_transition(record.state, state, where=record.week.key)
    if seen is None:
        seen = changes_of(base, record)
    base.execute(
        "UPDATE migration.slices SET state = %s, method = %s, legacy_rows = %s, legacy_sum_a = %s, legacy_sum_b = %s,"
        " base_rows = %s, base_sum_a = %s, base_sum_b = %s, verified_at = NULL, verified_equal = NULL,"
        " validated_at = statement_timestamp(), validated_equal = %s, validated_marker = %s, validated_lsn = %s,"
        " validated_changes = %s, definitions = %s, run_id = %s, updated_at = clock_timestamp(),"
        " copied_at = coalesce(copied_at, statement_timestamp()),"
        " changed_at = CASE WHEN %s THEN statement_timestamp() ELSE changed_at END,"
        # Who joins the stream is covered by it again.
        " released_at = CASE WHEN %s THEN NULL ELSE released_at END WHERE lock_key = %s",
        [state, METHOD, *fingerprint_columns(proof.legacy), *fingerprint_columns(proof.base), proof.equal,
         proof.marker, proof.lsn, seen, kept, run_id, changed, purpose == "join", record.lock_key],
    )  # fmt: skip
    return state


def changes_of(base: Connected, record: SliceRecord) -> int:
    """How many row changes the leaf has seen until now; see `changes_by_leaf`."""
    return changes_by_leaf(base, QualifiedName.parse(record.relation), [record.leaf]).get(record.leaf, 0)
