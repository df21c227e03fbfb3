"""Repair of a slice row by row at a cut, keeping the before-images; and undoing a repair."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from psycopg import sql

from migration_assets.domain.errors import LedgerError
from migration_assets.domain.fingerprint import Differences, Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.proofs import CutRecord, Proof, record_proof, time_held
from migration_assets.ledger.schema import hold_images
from migration_assets.ledger.slices import (
    SliceRecord,
    begin_attempt,
    end_attempt,
    note_failure,
    slice_lock,
)
from migration_assets.ledger.stream import keep_at_rest
from migration_assets.postgres.sessions import Connected
from migration_assets.postgres.snapshots import base_tables, hold_tables
from migration_assets.postgres.sql_text import table_name
from migration_assets.proof.validation import (
    examine_slice,
    prove,
    require_streaming_state,
    require_under_cdc,
)
from migration_assets.quarters.own_writes import own_writes
from migration_assets.stream.buckets import SliceRows, same_table, slice_rows
from migration_assets.stream.cut import paused_stream
from migration_assets.stream.plan import StreamPlan
from migration_assets.stream.repair_records import (
    begin_repair,
    end_repair,
    images_fit,
    require_no_others,
    require_put_back,
)
from migration_assets.stream.true_up import chunks, delete_rows, true_up

# Whole rows are kept in memory and sent in one message.
_IMAGES_AT_ONCE = 1_000


@dataclass(frozen=True)
class Repaired:
    """What differed. `base` is the fingerprint after the repair; after a dry run, the one that was found.

    `repair_id` identifies the before-images in the ledger; None if nothing was changed.
    """

    week: FiscalWeek
    dry_run: bool
    differences: Differences
    legacy: Fingerprint
    base: Fingerprint
    repair_id: int | None
    cut: CutRecord


def repair_slice(plan: StreamPlan, week: FiscalWeek, *, dry_run: bool = True) -> Repaired:
    """Make the slice equal at a cut, in one transaction of the base; a dry run only reports what differs.

    Raises:
        SliceStateError: The slice is not under CDC.
        SliceBusyError: Another step works on the slice.
        StreamError: The stream does not run, or another step works on it.
        CutError: Writers left no free moment for a cut.
        DeletionError: Too many rows would be deleted without confirmation; rolled back.
        SliceMismatchError: Something in the base changes rows on their way in; rolled back.
    """
    if dry_run:
        proof, cut = examine_slice(plan, week, "validate")
        return Repaired(week, True, proof.differences, proof.legacy, proof.base, None, cut)
    with ExitStack() as stack:
        base = stack.enter_context(plan.databases.session("base", f"{week.key}:repair", plan.limits.timeouts()))
        record = stack.enter_context(_locked(base, plan, week))
        attempt = begin_attempt(base, record, "repair", plan.run_id)
        try:
            with paused_stream(plan, f"{week.key}:repair") as pause, base.transaction():
                keep_at_rest(base, pause.stream)
                hold_tables(base, base_tables(base, plan.spec, [week]))
                rows = slice_rows(plan, same_table(plan, pause.legacy, base), record)
                repair_id = begin_repair(
                    base, record, marker=pause.record.marker, lsn=pause.record.lsn, run_id=plan.run_id
                )
                again = plan.limits.recopy_percent
                done = true_up(
                    pause.legacy, base, rows, week, plan.deletions, recopy_percent=again, repair_id=repair_id
                )
                differences = done.differences
                repair_id = end_repair(base, repair_id, differences)
                proof = Proof(done.legacy, done.base, pause.record.lsn, pause.record.marker, done.definitions)
                record_proof(base, record, proof, "repair", plan.run_id, found=differences,
                             changed=bool(differences.rows))  # fmt: skip
                end_attempt(base, attempt, "succeeded", legacy=done.legacy, base=done.base)
        except BaseException as error:
            note_failure(base, attempt, error)
            raise
        cut = time_held(base, plan.relation, pause.record)
    return Repaired(week, False, differences, done.legacy, done.base, repair_id, cut)


def undo_repair(plan: StreamPlan, repair_id: int) -> Repaired:
    """Undo a repair: delete the rows that it put in and put its before-images back.

    Rows that the legacy has changed since then are put back as well: the slice differs again as it did, and the next
    validation says so.

    Raises:
        LedgerError: There is no such repair, it was undone already, or its images no longer fit the table.
        TriggersFireError: As `true_up`.
    """
    with ExitStack() as stack:
        base = stack.enter_context(plan.databases.session("base", f"repair {repair_id}:undo", plan.limits.timeouts()))
        week = _week_of(base, plan, repair_id)
        record = stack.enter_context(_locked(base, plan, week))
        attempt = begin_attempt(base, record, "undo", plan.run_id)
        try:
            with paused_stream(plan, f"{week.key}:undo") as pause, base.transaction():
                keep_at_rest(base, pause.stream)
                hold_tables(base, base_tables(base, plan.spec, [week]))
                rows = slice_rows(plan, same_table(plan, pause.legacy, base), record)
                _put_back(base, rows, repair_id)
                proof = prove(pause.legacy, base, rows, lsn=pause.record.lsn, marker=pause.record.marker)
                record_proof(base, record, proof, "repair", plan.run_id, changed=True)
                base.execute("UPDATE migration.repairs SET undone_at = clock_timestamp() WHERE id = %s", [repair_id])
                end_attempt(base, attempt, "succeeded", legacy=proof.legacy, base=proof.base)
        except BaseException as error:
            note_failure(base, attempt, error)
            raise
        cut = time_held(base, plan.relation, pause.record)
    return Repaired(week, False, proof.differences, proof.legacy, proof.base, repair_id, cut)


@contextmanager
def _locked(base: Connected, plan: StreamPlan, week: FiscalWeek) -> Generator[SliceRecord]:
    with slice_lock(base, require_under_cdc(base, plan, week)) as record:
        require_streaming_state(record)
        yield record


def _week_of(base: Connected, plan: StreamPlan, repair_id: int) -> FiscalWeek:
    row = base.execute(
        "SELECT quarter, week, undone_at FROM migration.repairs WHERE id = %s AND relation = %s AND side = 'base'",
        [repair_id, plan.relation],
    ).fetchone()
    if row is None or row[2] is not None:
        raise LedgerError(
            f"there is no repair {repair_id}" if row is None else f"repair {repair_id} was undone at {row[2]}",
            where=plan.relation,
            state_left="nothing was changed",
            next_step="the ledger's table repairs lists them",
        )
    return FiscalWeek.parse(f"{row[0]}|{row[1]}")


def _put_back(base: Connected, rows: SliceRows, repair_id: int) -> None:
    """Delete every row of the repair's keys and insert the images; generated columns are computed again."""
    hold_images(base, [repair_id], str(rows.target))
    keys = [
        tuple(key)
        for (key,) in base.execute("SELECT key FROM migration.repaired_rows WHERE repair_id = %s", [repair_id])
    ]
    root = table_name(rows.target)
    names = [sql.Identifier(column.name) for column in rows.description.copied_columns]
    with own_writes(base, [rows.target, rows.leaf], side="base"), images_fit(str(rows.target), repair_id):
        for some in chunks(keys):
            delete_rows(base, rows, some)
        base.execute(
            sql.SQL(
                "INSERT INTO {root} ({names}) OVERRIDING SYSTEM VALUE SELECT {values}"
                " FROM (SELECT before::{root} AS image FROM migration.repaired_rows"
                "  WHERE repair_id = {id} AND before IS NOT NULL) AS images"
            ).format(
                root=root,
                names=sql.SQL(", ").join(names),
                values=sql.SQL(", ").join(sql.SQL("(image).{}").format(name) for name in names),
                id=repair_id,
            )
        )
    there = 0
    with base.cursor("images") as reader:
        reader.execute(
            "SELECT before FROM migration.repaired_rows WHERE repair_id = %s AND before IS NOT NULL", [repair_id]
        )
        while images := [image for (image,) in reader.fetchmany(_IMAGES_AT_ONCE)]:
            there += len(images)
            require_put_back(base, rows.spec, rows.description, images, repair_id)
    require_no_others(base, rows, keys, there, repair_id)
