"""Makes leaves hold what a snapshot of the legacy holds, row by row, and proves it inside the caller's transaction.

Rows are put into buckets by a hash of their key, and a fingerprint is taken of every bucket, in one pass over each
side. Only the rows of buckets that differ are then compared one by one, as key and hash, in one more pass and in
batches of bounded size. Whole rows travel only where they differ; where a large share does, all rows of the slice
travel again by one COPY, which costs less.

Many weeks are brought to one snapshot by several workers, each of which keeps its sessions from one week to the next.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event

from psycopg import sql

from migration_assets.domain.confirmation import Deletions
from migration_assets.domain.definitions import Definitions
from migration_assets.domain.errors import SliceMismatchError
from migration_assets.domain.fingerprint import Differences, Fingerprint, Kind
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.table_description import TableDescription
from migration_assets.ledger.definitions import seen_definitions
from migration_assets.ledger.proofs import Proof, record_proof
from migration_assets.ledger.slices import SliceRecord, begin_attempt, end_attempt, note_failure
from migration_assets.ledger.stream import StreamRecord, keep_at_rest
from migration_assets.postgres.copy_stream import pipe_rows
from migration_assets.postgres.fingerprints import take_fingerprint
from migration_assets.postgres.sessions import Connected, announce
from migration_assets.postgres.snapshots import base_tables, hold_tables, in_snapshot
from migration_assets.postgres.sql_text import table_name
from migration_assets.quarters.own_writes import own_writes, what_fires
from migration_assets.stream.buckets import Compared, SliceRows, compare, slice_rows
from migration_assets.stream.differences import DifferingKeys, Keys, differing_keys, having_keys, key_matches, unnested
from migration_assets.stream.plan import StreamPlan
from migration_assets.stream.repair_records import begin_repair, end_repair

_KEYS_AT_ONCE = 5_000


@dataclass(frozen=True)
class TruedUp:
    """A slice that is equal now; `differences` says what was wrong before."""

    week: FiscalWeek
    legacy: Fingerprint
    base: Fingerprint
    differences: Differences
    definitions: Definitions


def true_up(
    legacy: Connected,
    base: Connected,
    rows: SliceRows,
    week: FiscalWeek,
    deletions: Deletions | None,
    *,
    recopy_percent: float,
    repair_id: int | None = None,
) -> TruedUp:
    """Make the base's rows of the slice those of the legacy's snapshot.

    Args:
        legacy: In the snapshot's transaction.
        base: In a transaction; nothing else may write to the slice until it ends.
        rows: Which rows, and where they are in the base.
        week: Named in errors.
        deletions: How many rows may be deleted; None for a table that is not in use yet.
        recopy_percent: The percentage of differing rows above which the whole slice is copied again: one COPY of a
            range costs less than fetching many rows by their keys.
        repair_id: If set, the before-image of every changed row is kept under this repair.

    Raises:
        DeletionError: Too many rows would be deleted; nothing was done.
        TriggersFireError: Rows of other tables would be changed too, or triggers would fire.
        SliceMismatchError: The sides still differ afterwards: something in the base changes rows on their way in. The
            caller has to roll back.
    """
    definitions = seen_definitions(legacy, base, rows.spec.table, [rows.leaf])[rows.leaf]
    compared = compare(legacy, base, rows)
    if compared.equal:
        return TruedUp(week, compared.legacy, compared.base, Differences(), definitions)
    few = int(max(compared.legacy.rows, compared.base.rows) * recopy_percent / 100)
    counted = None
    if compared.differing_rows > few or (deletions is not None and _may_be_too_many(compared, deletions)):
        counted = _counted(legacy, base, rows, compared)
    if counted is not None and deletions is not None:
        deletions.require(week, counted.extra, legacy=compared.legacy.rows, base=compared.base.rows)
    if counted is not None and counted.rows > few and _may_replace(base, rows, compared, counted):
        differences = counted
        if repair_id is not None:
            for batch in differing_keys(legacy, base, rows, compared):
                _keep_images(base, rows, batch, repair_id)
        _copy_again(legacy, base, rows, compared)
    else:
        differences = _key_by_key(legacy, base, rows, compared, repair_id)
    now = take_fingerprint(base, rows.target, rows.columns, rows.where)
    if now != compared.legacy:
        raise SliceMismatchError(
            compared.legacy,
            now,
            where=week.key,
            state_left="the true-up is rolled back; the base is as before",
            next_step="look for triggers, rules or generated columns on the base that change rows, then run this again",
            differences=differences,
        )
    return TruedUp(week, compared.legacy, now, differences, definitions)


def _may_be_too_many(compared: Compared, deletions: Deletions) -> bool:
    """Whether a person might have to confirm the deletions: only then must rows be counted first."""
    return deletions.limit.asks(compared.base_rows, legacy=compared.legacy.rows, base=compared.base.rows)


def _counted(legacy: Connected, base: Connected, rows: SliceRows, compared: Compared) -> Differences:
    """Count how many rows differ before anything is done; if one side is empty, no row is read."""
    if not compared.legacy.rows or not compared.base.rows:
        return Differences(missing=compared.legacy.rows, extra=compared.base.rows)
    counted = Differences()
    for batch in differing_keys(legacy, base, rows, compared):
        counted = batch.added_to(counted)
    return counted


def _may_replace(base: Connected, rows: SliceRows, compared: Compared, counted: Differences) -> bool:
    """Whether deleting all rows, to copy them again, fires no more triggers than deleting those that differ."""
    if not compared.base.rows or counted.extra or counted.changed:
        return True
    return not what_fires(base, [rows.target, rows.leaf])


def _copy_again(legacy: Connected, base: Connected, rows: SliceRows, compared: Compared) -> None:
    deleting = compared.base.rows > 0
    with own_writes(base, [rows.target, rows.leaf], side="base", deleting=deleting):
        if deleting:
            base.execute(sql.SQL("DELETE FROM {} WHERE {}").format(table_name(rows.target), rows.where))
        pipe_rows(legacy, base, rows.description, rows.target, rows.where, freeze=False)


def _key_by_key(
    legacy: Connected, base: Connected, rows: SliceRows, compared: Compared, repair_id: int | None
) -> Differences:
    """Delete over all batches, then insert: a new row may share a unique key with one that goes in another batch.

    Keys that are equal as values may differ as texts as well (1.0 and 1.00). The keys of rows to insert are not kept,
    since memory is bounded (unless there is one batch only): they are what is missing once the others are deleted.
    """
    differences = Differences()
    coming: Keys | None = None
    for batch in differing_keys(legacy, base, rows, compared):
        if repair_id is not None:
            _keep_images(base, rows, batch, repair_id)
        _take_out(base, rows, batch.extra + batch.changed)
        coming = None if differences.rows else batch.missing + batch.changed
        differences = batch.added_to(differences)
    if coming is not None:
        _put_in(legacy, base, rows, coming)
    else:
        for batch in differing_keys(legacy, base, rows, compared):
            _put_in(legacy, base, rows, batch.missing)
    return differences


def _take_out(base: Connected, rows: SliceRows, keys: Keys) -> None:
    if keys:
        with own_writes(base, [rows.target, rows.leaf], side="base"):
            for some in chunks(keys):
                delete_rows(base, rows, some)


def _put_in(legacy: Connected, base: Connected, rows: SliceRows, keys: Keys) -> None:
    with own_writes(base, [rows.target, rows.leaf], side="base", deleting=False):
        for some in chunks(keys):
            pipe_rows(legacy, base, rows.description, rows.target, having_keys(rows, some), freeze=False)


def delete_rows(base: Connected, rows: SliceRows, keys: Keys) -> None:
    """Delete the rows with these keys, within the slice's range."""
    base.execute(
        sql.SQL("DELETE FROM {} AS t USING {} WHERE {} AND {}").format(
            table_name(rows.target), unnested(rows, keys), key_matches(rows), rows.where_of_t
        )
    )


def _keep_images(base: Connected, rows: SliceRows, batch: DifferingKeys, repair_id: int) -> None:
    key = sql.SQL("ARRAY[{}]").format(
        sql.SQL(", ").join(sql.SQL("format('%s', t.{})").format(sql.Identifier(column.name)) for column in rows.key)
    )
    for kind in (Kind.EXTRA, Kind.CHANGED):
        for keys in chunks(batch.of(kind)):
            base.execute(
                sql.SQL(
                    "INSERT INTO migration.repaired_rows (repair_id, kind, key, before)"
                    " SELECT {id}, {kind}, {key}, (t.*)::text FROM {table} AS t JOIN {keys} ON {matches} WHERE {where}"
                ).format(
                    id=repair_id,
                    kind=str(kind),
                    key=key,
                    table=table_name(rows.target),
                    keys=unnested(rows, keys),
                    matches=key_matches(rows),
                    where=rows.where_of_t,
                )
            )
    with base.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO migration.repaired_rows (repair_id, kind, key) VALUES (%s, 'missing', %s)",
            [(repair_id, list(key)) for key in batch.missing],
        )


def chunks(keys: Keys) -> Iterator[Keys]:
    """Cut the keys into pieces that one statement can take."""
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        yield keys[start : start + _KEYS_AT_ONCE]


OnWeek = Callable[[TruedUp], None]


@dataclass(frozen=True)
class Joining:
    """The moment of the legacy to which weeks are brought, and the stream that will follow from there.

    Attributes:
        plan: The stream and its limits.
        description: The legacy's table.
        stream: It stands still until the weeks are true.
        snapshot: Of the legacy, exported by a session that stays open.
        lsn: The snapshot's position in the legacy's WAL.
        marker: The cut's; None where the snapshot is that of a new slot.
        on_week: Called with each week that is done.
        keep_images: Whether every row that is changed or deleted is kept, so that it can be put back as a repair's.
    """

    plan: StreamPlan
    description: TableDescription
    stream: StreamRecord
    snapshot: str
    lsn: str
    marker: int | None
    on_week: OnWeek | None = None
    keep_images: bool = False


def true_up_weeks(joining: Joining, records: Sequence[SliceRecord]) -> list[TruedUp]:
    """True up every week in a transaction of its own. The caller holds the slices' locks.

    The weeks' states become `streaming`, or stay as they are if nothing differed. They only become true with the
    caller's next transaction; until then the stream's status in the ledger says so.

    Raises:
        DeletionError: Too many rows of a week would be deleted without confirmation.
        SliceMismatchError: A week cannot be made equal.
        psycopg.Error: A server failed. Weeks that are done stay done; run it again.
    """
    plan = joining.plan

    def one(record: SliceRecord) -> TruedUp:
        purpose = f"{record.week.key}:true-up"
        with (
            plan.databases.session("base", purpose, plan.limits.timeouts()) as base,
            plan.databases.session("legacy", purpose, plan.limits.timeouts()) as legacy,
        ):
            attempt = begin_attempt(base, record, "join", plan.run_id)
            try:
                with in_snapshot(legacy, joining.snapshot, [plan.spec.table]), base.transaction():
                    keep_at_rest(base, joining.stream)
                    hold_tables(base, base_tables(base, plan.spec, [record.week]))
                    announce(base, purpose)
                    rows = slice_rows(plan, joining.description, record)
                    repair = (
                        begin_repair(base, record, marker=joining.marker, lsn=joining.lsn, run_id=plan.run_id)
                        if joining.keep_images
                        else None
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
                        Proof(done.legacy, done.base, joining.lsn, joining.marker, done.definitions),
                        "join",
                        plan.run_id,
                        found=done.differences,
                        changed=bool(done.differences.rows),
                    )
                    end_attempt(base, attempt, "succeeded", legacy=done.legacy, base=done.base)
            except BaseException as error:
                note_failure(base, attempt, error)
                raise
        if joining.on_week is not None:
            joining.on_week(done)
        return done

    with ThreadPoolExecutor(max_workers=plan.limits.parallel, thread_name_prefix="true-up") as pool:
        try:
            return list(pool.map(one, records))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


Taken = Iterator[tuple[int, SliceRecord]]
"""What one worker takes: records with their places in the list, the next one whenever it asks."""


def share_out(records: Sequence[SliceRecord], work: Callable[[Taken], None], *, parallel: int, purpose: str) -> None:
    """Process all records in parallel, the largest first; the first error ends the other workers after their week.

    An interrupt of the waiting thread does the same, so that it need not wait for all remaining weeks.

    Args:
        records: Each is taken once.
        work: Called once per worker, in a thread of its own.
        parallel: The largest number of workers.
        purpose: The threads' name.

    Raises:
        BaseException: The first error of a worker, after all have ended.
    """
    todo: SimpleQueue[tuple[int, SliceRecord]] = SimpleQueue()
    for entry in sorted(enumerate(records), key=lambda entry: -(entry[1].base.rows if entry[1].base else 0)):
        todo.put(entry)
    ended = Event()
    raised: list[BaseException] = []

    def take() -> Taken:
        while not ended.is_set():
            try:
                yield todo.get_nowait()
            except Empty:
                return

    def worker() -> None:
        try:
            work(take())
        except BaseException as error:
            raised.append(error)
            ended.set()
            raise

    with ThreadPoolExecutor(max_workers=parallel, thread_name_prefix=purpose) as pool:
        try:
            wait([pool.submit(worker) for _ in range(min(parallel, len(records)))])
        finally:
            ended.set()
    if raised:
        raise raised[0]
