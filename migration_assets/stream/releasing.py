"""Weeks leave the change stream: a cut narrows the publication's filter and compares the leaving weeks.

Intent comes first: before the legacy's lock is asked for, the ledger says that the weeks are released. A step that
joins or rebuilds after a death in between computes a filter without them, and nobody takes a week for covered that no
longer is. `change_stream` takes a released week in again, trued up at a cut.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import psycopg

from migration_assets.domain.errors import RetirementError
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.definitions import seen_definitions
from migration_assets.ledger.proofs import CutRecord, Proof, record_proof
from migration_assets.ledger.slices import SliceRecord, read_slices
from migration_assets.ledger.stream import StreamRecord
from migration_assets.ledger.stream_parts import note_publication
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected
from migration_assets.stream.buckets import SliceRows, compare, require_unaltered, same_table, slice_rows
from migration_assets.stream.claims import PublicationChange
from migration_assets.stream.cut import PairedSnapshots, paired_snapshots
from migration_assets.stream.legacy_side import alter_filter, published_filter, row_filter
from migration_assets.stream.plan import StreamPlan
from migration_assets.stream.running import require_stream

log = logging.getLogger(__name__)


def release_weeks(
    plan: StreamPlan, base: Connected, records: Sequence[SliceRecord], expected: Mapping[FiscalWeek, Fingerprint]
) -> CutRecord:
    """End the stream's coverage of these weeks at a cut at which legacy, base and `expected` are exactly equal.

    Safe to repeat, also for weeks whose release was begun and never finished: it is done again at a new cut.

    Args:
        plan: The stream.
        base: The session that holds the lock of kind START and those of the weeks; in no transaction.
        records: The leaving weeks, read under their locks.
        expected: The archives' native fingerprints.

    Returns:
        The cut from which the weeks are no longer covered.

    Raises:
        RetirementError: Something differed at the cut. The weeks are released nevertheless: `change_stream` takes them
            in again.
        StreamError: The stream does not run; nothing was changed.
        CutError: Writers left no free moment, or the stream is too far behind.
    """
    purpose = f"{records[0].week.key}:release"
    with ExitStack() as stack:
        legacy = stack.enter_context(plan.databases.session("legacy", purpose))
        description = same_table(plan, legacy, base)
        stream = require_stream(base, plan.relation)
        _intend(base, records)
        stay = [record.week for record in read_slices(base, plan.relation) if record.under_cdc]
        where = row_filter(stay, description, plan.spec, plan.calendar)
        asked = False

        def narrow(locker: Connected) -> None:
            nonlocal asked
            asked = True
            alter_filter(locker, stream.publication, plan.spec, where)

        try:
            change = PublicationChange(stream.slot, base, narrow)
            weeks = [record.week for record in records]
            pair = stack.enter_context(paired_snapshots(plan, purpose, weeks, in_lock=change))
        except BaseException:
            if not asked:
                _take_back(base, stream, records)
            raise
        # Read in another session than the cut's, whose snapshot is older than the publication's change.
        _note(base, legacy, stream, pair.record, records, published_filter(legacy, stream.publication, plan.spec))
        proofs = [_compared(pair, slice_rows(plan, description, record)) for record in records]
        differing = [
            f"{record.week.key}: archive {expected[record.week]}; legacy {proof.legacy}; base {proof.base}"
            for record, proof in zip(records, proofs, strict=True)
            if not proof.legacy == proof.base == expected[record.week]
        ]
        if differing:
            require_unaltered(plan, legacy, base, description, records[0].week.key)
            raise _slipped_in(records, differing)
    with base.transaction():
        for record, proof in zip(records, proofs, strict=True):
            record_proof(base, record, proof, "validate", plan.run_id)
    return pair.record


def _intend(base: Connected, records: Sequence[SliceRecord]) -> None:
    """Note the weeks as released from here on, whatever dies. While the filter changes, the ledger does not know it."""
    with base.transaction():
        base.execute("SET LOCAL synchronous_commit = on")
        base.execute(
            "UPDATE migration.slices SET released_at = clock_timestamp(), released_marker = NULL, released_lsn = NULL,"
            " updated_at = clock_timestamp() WHERE lock_key = ANY(%s)",
            [[record.lock_key for record in records]],
        )
        base.execute("UPDATE migration.streams SET row_filter = NULL WHERE relation = %s", [records[0].relation])


def _take_back(base: Connected, stream: StreamRecord, records: Sequence[SliceRecord]) -> None:
    """Take the note back where the filter was never touched. Best effort: a re-run mends the rest."""
    covered = [record.lock_key for record in records if record.under_cdc]
    try:
        with base.transaction():
            base.execute("UPDATE migration.slices SET released_at = NULL WHERE lock_key = ANY(%s)", [covered])
            base.execute(
                "UPDATE migration.streams SET row_filter = %s WHERE relation = %s", [stream.row_filter, stream.relation]
            )
    except psycopg.Error as second:
        log.warning("the release could not be taken back (%s); the next run finishes it", told(second))


def _note(
    base: Connected,
    legacy: Connected,
    stream: StreamRecord,
    cut: CutRecord,
    records: Sequence[SliceRecord],
    published: str | None,
) -> None:
    with base.transaction():
        base.execute("SET LOCAL synchronous_commit = on")
        base.execute("UPDATE migration.streams SET row_filter = %s WHERE relation = %s", [published, stream.relation])
        note_publication(base, legacy, stream.relation, stream.publication)
        base.execute(
            "UPDATE migration.slices SET released_at = %s, released_marker = %s, released_lsn = %s,"
            " updated_at = clock_timestamp() WHERE lock_key = ANY(%s)",
            [cut.taken_at, cut.marker, cut.lsn, [record.lock_key for record in records]],
        )


def _compared(pair: PairedSnapshots, rows: SliceRows) -> Proof:
    definitions = seen_definitions(pair.legacy, pair.base, rows.spec.table, [rows.leaf])[rows.leaf]
    found = compare(pair.legacy, pair.base, rows)
    return Proof(found.legacy, found.base, pair.record.lsn, pair.record.marker, definitions)


def _slipped_in(records: Sequence[SliceRecord], differing: Sequence[str]) -> RetirementError:
    weeks = ", ".join(record.week.key for record in records)
    quarters = ", ".join(sorted({record.week.quarter.key for record in records}))
    return RetirementError(
        "at the cut where the change stream let go of it, the archive differed from the legacy or the base: "
        + "; ".join(differing),
        where=weeks,
        state_left="its rows are still in the base, and the change stream no longer covers them; nothing is lost",
        next_step=f"materialize change_stream for {quarters}, which takes it in again, then parquet_archive",
    )
