"""Brings many weeks to one snapshot of the legacy, several at a time."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from migration_assets.domain.table_description import TableDescription
from migration_assets.ledger.proofs import Proof, record_proof
from migration_assets.ledger.slices import (
    SliceRecord,
    begin_attempt,
    end_attempt,
    note_failure,
)
from migration_assets.ledger.stream import StreamRecord, keep_at_rest
from migration_assets.postgres.sessions import announce
from migration_assets.postgres.snapshots import base_tables, hold_tables, in_snapshot
from migration_assets.stream.plan import StreamPlan
from migration_assets.stream.repair_records import begin_repair, end_repair
from migration_assets.stream.slice_rows import slice_rows
from migration_assets.stream.true_up import TruedUp, true_up

OnWeek = Callable[[TruedUp], None]


def true_up_weeks(
    plan: StreamPlan,
    description: TableDescription,
    records: Sequence[SliceRecord],
    stream: StreamRecord,
    snapshot: str,
    *,
    lsn: str,
    marker: int | None,
    on_week: OnWeek | None = None,
    keep_images: bool = False,
) -> list[TruedUp]:
    """True up every week in a transaction of its own. The caller holds the slices' locks, and `stream` stands.

    The weeks' states become `streaming` (or stay what they are, where nothing was wrong with them): the caller's next
    transaction makes that true, and its status in the ledger says meanwhile that it is not.

    With `keep_images` every row that is changed or deleted is kept, as a repair's, and may be put back as one.

    Raises:
        DeletionError: Too many rows of a week would be deleted without a person's word.
        SliceMismatchError: A week cannot be made equal.
        psycopg.Error: A server failed. Weeks that are done are done; run it again.
    """

    def one(record: SliceRecord) -> TruedUp:
        purpose = f"{record.week.key}:true-up"
        with (
            plan.databases.session("base", purpose, plan.limits.timeouts()) as base,
            plan.databases.session("legacy", purpose, plan.limits.timeouts()) as legacy,
        ):
            attempt = begin_attempt(base, record, "join", plan.run_id)
            try:
                with in_snapshot(legacy, snapshot, [plan.spec.table]), base.transaction():
                    keep_at_rest(base, stream)
                    hold_tables(base, base_tables(base, plan.spec, [record.week]))
                    announce(base, purpose)
                    rows = slice_rows(plan, description, record)
                    repair = (
                        begin_repair(base, record, marker=marker, lsn=lsn, run_id=plan.run_id) if keep_images else None
                    )
                    again = plan.limits.recopy_percent
                    done = true_up(
                        legacy, base, rows, record.week, plan.deletions, recopy_percent=again, repair_id=repair
                    )
                    if repair is not None:
                        end_repair(base, repair, done.differences)
                    record_proof(
                        base,
                        record,
                        Proof(done.legacy, done.base, lsn, marker, done.definitions),
                        "join",
                        plan.run_id,
                        found=done.differences,
                        changed=bool(done.differences.rows),
                    )
                    end_attempt(base, attempt, "succeeded", legacy=done.legacy, base=done.base)
            except BaseException as error:
                note_failure(base, attempt, error)
                raise
        if on_week is not None:
            on_week(done)
        return done

    with ThreadPoolExecutor(max_workers=plan.limits.parallel, thread_name_prefix="true-up") as pool:
        try:
            return list(pool.map(one, records))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
