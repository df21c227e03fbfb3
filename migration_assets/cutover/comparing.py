"""The exact comparison while both sides stand still, where any two snapshots show the same moment and no cut is needed.

Weeks that changed are validated once more before that, while everybody writes, so that little is left to compare while
writes are held.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice

from migration_assets.cutover.plan import CutoverPlan
from migration_assets.cutover.work import Deadline
from migration_assets.domain.errors import CutError, SliceMismatchError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.states import CutoverError, CutoverKind
from migration_assets.domain.table_description import TableDescription
from migration_assets.ledger.definitions import altered_since, seen_definitions, table_states
from migration_assets.ledger.proofs import Proof, record_proof, weeks_carried
from migration_assets.ledger.slices import SliceRecord, read_slices
from migration_assets.postgres.catalogue import changes_by_leaf
from migration_assets.postgres.sessions import Connected, Timeouts, announce, require_row
from migration_assets.postgres.snapshots import base_tables, reading
from migration_assets.proof.validation import prove, validate_slice
from migration_assets.quarters.runway import attached_leaves, read_partitions
from migration_assets.stream.buckets import slice_rows
from migration_assets.stream.true_up import Taken, share_out

# A lock of each leaf, and of each of its indexes that is read, stays to the end of a snapshot; a server has room for a
# few thousand locks of all its sessions.
_LEAVES_LOCKED, _TAKEN_AT_ONCE = 1_000, 13


@dataclass(frozen=True)
class Compared:
    """How many weeks were found equal and how many rows they hold, with the proofs of weeks that no stream follows."""

    weeks: int
    rows: int
    unfollowed: list[tuple[SliceRecord, Proof]]


def compare_sides(
    plan: CutoverPlan,
    kind: CutoverKind,
    base: Connected,
    legacy: Connected,
    description: TableDescription,
    marker: int | None,
    deadline: Deadline,
    *,
    carried: Collection[int] | None = None,
) -> Compared:
    """Compare every week that matters; the ledger keeps each result.

    Args:
        plan: Which table.
        kind: A cutover or a rollback.
        base: The session that writes to the ledger.
        legacy: The other side.
        description: The legacy's table.
        marker: The marker at which both sides stand, where there is one.
        deadline: Bounds the comparison.
        carried: As for `to_compare`.

    Raises:
        CutoverError: A week differs; the error names it and says how many rows. Or the time is over.
    """
    records = to_compare(base, legacy, plan, kind, carried=carried)
    lsn = str(require_row(legacy.execute("SELECT pg_current_wal_lsn()::text").fetchone(), "a position")[0])
    proofs = _prove_all(plan, records, description, lsn, marker, deadline)
    changes = changes_by_leaf(base, plan.stream.spec.table, [record.leaf for record in records])
    # One commit for all, since each commit waits for the disk while writes are held.
    with base.transaction():
        for record, proof in zip(records, proofs, strict=True):
            if record.under_cdc:
                seen = changes.get(record.leaf, 0)
                record_proof(base, record, proof, "validate", plan.stream.run_id, seen=seen)
    wrong = [
        f"{r.week.key}{'' if r.under_cdc else f' ({r.state}, not under CDC)'}: {p.differences}"
        for r, p in zip(records, proofs, strict=True)
        if not p.equal
    ]
    if wrong:
        raise CutoverError(
            "the sides differ: " + "; ".join(wrong),
            where=plan.relation,
            next_step=_next_step(kind, [r for r, p in zip(records, proofs, strict=True) if not p.equal]),
        )
    unfollowed = [(r, p) for r, p in zip(records, proofs, strict=True) if not r.under_cdc]
    return Compared(len(records), sum(proof.base.rows for proof in proofs), unfollowed)


def _next_step(kind: CutoverKind, differing: Sequence[SliceRecord]) -> str:
    """What can be done about a difference, which depends on the side in charge."""
    steps: list[str] = []
    if kind is CutoverKind.ROLLBACK:
        for quarter in dict.fromkeys(record.week.quarter for record in differing):
            names = " ".join(record.week.name for record in differing if record.week.quarter == quarter)
            steps.append(
                f"`migration-assets repair-legacy {quarter.key} {names}` shows the rows, and with --apply repairs them"
            )
    else:
        if any(record.under_cdc for record in differing):
            steps.append("`migration-assets repair` shows and repairs the rows")
        if not all(record.under_cdc for record in differing):
            steps.append("weeks that are not under CDC have to be copied and to join: migrated_slice, change_stream")
    return "; ".join(steps) + "; then run this again"


def to_compare(
    base: Connected,
    legacy: Connected,
    plan: CutoverPlan,
    kind: CutoverKind = CutoverKind.CUTOVER,
    *,
    carried: Collection[int] | None = None,
) -> list[SliceRecord]:
    """The weeks to compare: those under CDC (or those of them that changed since their last proof), others with a leaf.

    A week may have changed since it was last proven equal if the base's server counted changes of its leaf, or if a
    table was altered or rewritten on either side, which no server counts. Under hold the apply worker has ended and has
    handed over all its counts; before a cutover all other sessions have too (see `require_counted`). A rollback cannot
    wait for that: what applications wrote in the last seconds may not be counted yet. Such a change goes along the
    reverse stream without being compared.

    The other weeks were opened ahead, copied or restored, and no stream follows them. Applications read and write them
    on either side: if a cutover left rows behind there, it could never be rolled back, and the weeks never archived.

    Args:
        base: Has the ledger and the counts.
        legacy: The other side.
        plan: Which table, and whether every week is wanted.
        kind: A cutover also compares weeks whose changes the stream may have skipped since their proof.
        carried: The weeks of which it cannot have skipped any, as `weeks_carried` returns them; for a caller whose
            apply worker has ended already.
    """
    known = read_slices(base, plan.relation)
    in_root = attached_leaves(plan.stream.spec.table, read_partitions(base, plan.stream.spec.table))
    records = [record for record in known if record.under_cdc]
    if not plan.compare_all:
        changes = changes_by_leaf(base, plan.stream.spec.table, [record.leaf for record in records])
        counted_since, counts = _counted_since(base), _counts(base)
        if kind is CutoverKind.ROLLBACK:
            carried = {record.lock_key for record in records}
        elif carried is None:
            carried = weeks_carried(base, plan.relation)
        table = plan.stream.spec.table
        proofs = [(r.week, r.leaf, r.definitions) for r in records]
        altered = altered_since(base, plan.stream.spec, proofs, table_states(legacy, [table]).get(table))
        records = [
            r
            for r in records
            if r.week not in in_root
            or r.validated is None
            or not r.validated.equal
            or r.validated.changes != changes.get(r.leaf, 0)
            # A proof of an older version of this program says nothing of the tables.
            or r.definitions is None
            or r.week in altered
            or r.lock_key not in carried
            or (counted_since is not None and r.validated.at <= counted_since)
            or not counts
        ]
    return records + [r for r in known if not r.under_cdc and r.week in in_root]


def _counts(base: Connected) -> bool:
    """Whether the server counts what sessions change: that can be switched off, also for one role or database."""
    row = base.execute(
        "SELECT current_setting('track_counts') = 'on' AND NOT EXISTS"
        " (SELECT FROM pg_db_role_setting WHERE setdatabase IN (0, (SELECT oid FROM pg_database"
        "   WHERE datname = current_database())) AND 'track_counts' = ANY (SELECT split_part(s, '=', 1)"
        "   FROM unnest(setconfig) s))"
    ).fetchone()
    return bool(require_row(row, "a setting")[0])


def _counted_since(base: Connected) -> datetime | None:
    """When the counters were reset by a crash or by hand; None where they never were."""
    row = base.execute(
        "SELECT greatest((SELECT stats_reset FROM pg_stat_bgwriter),"
        " (SELECT stats_reset FROM pg_stat_database WHERE datname = current_database()))"
    ).fetchone()
    found: datetime | None = require_row(row, "the counters' beginning")[0]
    return found


def _in_pictures(
    records: Sequence[SliceRecord], weeks: Taken, parallel: int
) -> Iterator[tuple[Sequence[SliceRecord], Iterable[tuple[int, SliceRecord]]]]:
    """What a worker compares in one snapshot: the weeks whose leaves it locks, and the weeks that it takes.

    Few weeks give one snapshot; many weeks give several, so that no worker has much left when the others are done.
    """
    if len(records) * parallel <= _LEAVES_LOCKED:
        yield records, weeks
        return
    at_once = max(1, min(_TAKEN_AT_ONCE, len(records) // (4 * parallel)))
    while few := list(islice(weeks, at_once)):
        yield [record for _, record in few], few


def _prove_all(
    plan: CutoverPlan,
    records: Sequence[SliceRecord],
    description: TableDescription,
    lsn: str,
    marker: int | None,
    deadline: Deadline,
) -> list[Proof]:
    """Compare with one session a worker on either side, and with few snapshots and looks at the tables' definitions.

    Writers are held and nothing changes: a question that is asked once a week would make them wait.
    """
    stream, root = plan.stream, plan.stream.spec.table
    proofs: dict[int, Proof] = {}

    def work(weeks: Taken) -> None:
        timeouts = Timeouts(statement=max(1, int(deadline.remaining() * 1000)), idle_in_transaction=0)
        with (
            stream.databases.session("base", "cutover:compare", timeouts) as base,
            stream.databases.session("legacy", "cutover:compare", timeouts) as legacy,
            deadline.watched(base),
            deadline.watched(legacy),
        ):
            for known, taken in _in_pictures(records, weeks, stream.limits.parallel):
                tables = base_tables(base, stream.spec, [record.week for record in known])
                with reading(base, tables), reading(legacy, [root]):
                    seen = seen_definitions(legacy, base, root, [root.sibling(record.leaf) for record in known])
                    for number, record in taken:
                        deadline.check("the comparison")
                        for side in (base, legacy):
                            announce(side, f"{record.week.key}:cutover")
                        rows = slice_rows(stream, description, record)
                        definitions = seen[rows.leaf]
                        proofs[number] = prove(legacy, base, rows, lsn=lsn, marker=marker, definitions=definitions)

    share_out(records, work, parallel=stream.limits.parallel, purpose="cutover")
    return [proofs[number] for number in range(len(records))]


_ROUNDS = 3
log = logging.getLogger(__name__)


def revalidate(plan: CutoverPlan, base: Connected, legacy: Connected) -> list[FiscalWeek]:
    """Validate the weeks that changed since their last validation, and repeat that while it leaves fewer of them.

    To be called before the cutover takes its locks. Each validation takes its own, at a cut that holds writers for
    milliseconds.

    Returns:
        The weeks that changed again meanwhile: applications write to them all the time.

    Raises:
        CutoverError: Weeks differ; the error names them. The cutover has not begun.
        SliceBusyError: Another process works on one of the weeks.
        StreamError: The stream does not run.
    """
    changed = _changed(plan, base, legacy)
    for _ in range(_ROUNDS):
        if not changed:
            break
        log.info("%d weeks changed since their validation; they are validated before writes are held", len(changed))
        with ThreadPoolExecutor(plan.stream.limits.parallel, thread_name_prefix="revalidate") as pool:
            wrong = [text for text in pool.map(partial(_validate, plan), changed) if text]
        if wrong:
            raise CutoverError(
                "the sides differ: " + "; ".join(wrong),
                where=plan.relation,
                state_left="nothing was held",
                next_step="`migration-assets repair` shows and repairs the rows; then run this again",
            )
        before, changed = changed, _changed(plan, base, legacy)
        if len(changed) >= len(before):
            break
    return changed


def _changed(plan: CutoverPlan, base: Connected, legacy: Connected) -> list[FiscalWeek]:
    """The weeks to compare that can be validated at a cut, because they are under CDC."""
    return [record.week for record in to_compare(base, legacy, plan) if record.under_cdc]


def _validate(plan: CutoverPlan, week: FiscalWeek) -> str | None:
    """Describe the difference; None where there is none."""
    try:
        validate_slice(plan.stream, week)
    except SliceMismatchError as error:
        return f"{week.key}: {error.what}"
    except CutError as error:
        # Then it is compared while writes are held, if that ends in time.
        log.warning("%s was not validated before the cutover: %s", week.key, error)
    return None
