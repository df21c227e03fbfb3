"""Proves that a slice under CDC equals the legacy, exactly, while everybody goes on writing; and whose turn it is next.

The rotation takes the oldest proof first, as many weeks as the budget of rows allows.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

from migration_assets.domain.definitions import Definitions
from migration_assets.domain.errors import SliceMismatchError, SliceStateError
from migration_assets.domain.fingerprint import Differences, Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.definitions import seen_definitions
from migration_assets.ledger.proofs import CutRecord, Proof, Purpose, changes_of, record_proof
from migration_assets.ledger.slices import SliceRecord, begin_attempt, end_attempt, note_failure, read_slice, slice_lock
from migration_assets.postgres.sessions import ATTENDED, Connected
from migration_assets.stream.buckets import SliceRows, compare, require_unaltered, slice_rows, table_before_cut
from migration_assets.stream.cut import paired_snapshots
from migration_assets.stream.differences import look
from migration_assets.stream.plan import StreamPlan
from migration_assets.stream.running import require_not_barred


@dataclass(frozen=True)
class Validated:
    """Both fingerprints at one cut; they are equal, else `validate_slice` would have raised."""

    week: FiscalWeek
    legacy: Fingerprint
    base: Fingerprint
    cut: CutRecord


def validate_slice(plan: StreamPlan, week: FiscalWeek) -> Validated:
    """Compare both sides at a cut without pausing the stream; the ledger records the result either way.

    Raises:
        SliceMismatchError: They differ; carries the differing keys. The slice's state is `streaming` again.
        SliceStateError: The slice is not under CDC.
        SliceBusyError: Another step works on the slice.
        StreamError: The stream does not run.
        CutError: Writers left no free moment for a cut.
    """
    proof, cut = examine_slice(plan, week, "validate")
    if not proof.equal:
        raise SliceMismatchError(
            proof.legacy,
            proof.base,
            where=week.key,
            state_left="the base is unchanged; the ledger has the difference",
            next_step="job `repair_slices` (or `migration-assets repair`) shows and then repairs it; or materialize"
            " migrated_slice for this week, which replaces its leaf",
            differences=proof.differences,
        )
    return Validated(week, proof.legacy, proof.base, cut)


def examine_slice(plan: StreamPlan, week: FiscalWeek, purpose: Purpose) -> tuple[Proof, CutRecord]:
    """Do as `validate_slice`, but return a difference as a result."""
    with ExitStack() as stack:
        ledger = stack.enter_context(plan.databases.session("base", f"{week.key}:{purpose}", ATTENDED))
        # While the slice is locked nobody swaps its leaf: an older snapshot would see the frozen rows of a new one.
        record = stack.enter_context(slice_lock(ledger, require_under_cdc(ledger, plan, week)))
        require_streaming_state(record)
        attempt = begin_attempt(ledger, record, "validate", plan.run_id)
        try:
            description = table_before_cut(plan, ledger, f"{week.key}:{purpose}")
            seen = changes_of(ledger, record)
            with paired_snapshots(plan, f"{week.key}:{purpose}", [week]) as pair:
                rows = slice_rows(plan, description, record)
                proof = prove(pair.legacy, pair.base, rows, lsn=pair.record.lsn, marker=pair.record.marker)
                if not proof.equal:
                    require_unaltered(plan, pair.legacy, pair.base, description, week.key)
                cut = pair.record
            with ledger.transaction():
                record_proof(ledger, record, proof, purpose, plan.run_id, seen=seen)
                end_attempt(
                    ledger,
                    attempt,
                    "succeeded" if proof.equal else "mismatch",
                    error=None if proof.equal else str(proof.differences),
                    legacy=proof.legacy,
                    base=proof.base,
                )
        except BaseException as error:
            note_failure(ledger, attempt, error)
            raise
    return proof, cut


def prove(
    legacy: Connected,
    base: Connected,
    rows: SliceRows,
    *,
    lsn: str,
    marker: int | None,
    definitions: Definitions | None = None,
) -> Proof:
    """Compare in both sessions' snapshots; single rows are read only if something differs.

    Args:
        legacy: A session in the legacy's snapshot.
        base: A session in the base's snapshot.
        rows: The slice.
        lsn: The cut's position.
        marker: The cut's marker.
        definitions: As `seen_definitions` saw them in the same snapshots; None to read them now.
    """
    definitions = definitions or seen_definitions(legacy, base, rows.spec.table, [rows.leaf])[rows.leaf]
    compared = compare(legacy, base, rows)
    found = Differences() if compared.equal else look(legacy, base, rows, compared)
    return Proof(compared.legacy, compared.base, lsn, marker, definitions, found)


def require_under_cdc(base: Connected, plan: StreamPlan, week: FiscalWeek) -> SliceRecord:
    """Return the record of a slice that follows the legacy.

    Raises:
        SliceStateError: The slice does not follow the legacy.
        StreamError: A cutover has the stream, or the base is in charge.
    """
    require_not_barred(base, plan.relation)
    record = read_slice(base, plan.relation, week)
    if record is None:
        raise SliceStateError(
            "the quarter is not open in the base",
            where=week.key,
            state_left="nothing was touched",
            next_step=f"materialize quarter_partitions for {week.quarter.key}",
        )
    require_streaming_state(record)
    return record


def require_streaming_state(record: SliceRecord) -> None:
    """Refuse a slice that does not follow the legacy.

    Raises:
        SliceStateError: Names the state that the slice is in.
    """
    if not record.under_cdc:
        raise SliceStateError(
            f"the slice is {record.state}, not under CDC; an exact comparison needs the stream",
            where=record.week.key,
            state_left="nothing was touched",
            next_step=f"materialize change_stream for {record.week.quarter.key} first",
        )


_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Candidate:
    """A week under CDC; `busy` if a step works on it now or a run for it is already queued."""

    week: FiscalWeek
    rows: int
    validated_at: datetime | None
    busy: bool = False


def next_in_turn(candidates: Iterable[Candidate], *, budget_rows: int) -> list[FiscalWeek]:
    """Return the weeks to validate now, those never validated first.

    The order is kept: smaller weeks do not pass one that does not fit. A week that is larger than the whole budget is
    validated alone.
    """
    waiting = sorted(
        (one for one in candidates if not one.busy), key=lambda one: (one.validated_at or _NEVER, one.week)
    )
    chosen: list[FiscalWeek] = []
    left = budget_rows
    for one in waiting:
        if chosen and one.rows > left:
            break
        chosen.append(one.week)
        left -= one.rows
    return chosen
