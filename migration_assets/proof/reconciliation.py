"""Compares a whole quarter at one cut, and looks for keys that the base has twice."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from psycopg import sql

from migration_assets.domain.errors import SliceStateError
from migration_assets.domain.evidence_chain import ChainKind
from migration_assets.domain.fingerprint import EMPTY, Fingerprint
from migration_assets.domain.fiscal_calendar import WEEK_NAMES, FiscalQuarter, FiscalWeek
from migration_assets.domain.table_description import TableDescription
from migration_assets.ledger.chain import append_row
from migration_assets.ledger.charge import legacy_leads
from migration_assets.ledger.definitions import seen_definitions
from migration_assets.ledger.proofs import CutRecord, Proof, changes_of, record_proof
from migration_assets.ledger.slices import SliceRecord, read_slices, slice_locks
from migration_assets.ledger.steps import run_step
from migration_assets.postgres.fingerprints import in_range
from migration_assets.postgres.sessions import ATTENDED, Connected, announce, require_row
from migration_assets.postgres.snapshots import base_tables, in_snapshot
from migration_assets.postgres.sql_text import table_name
from migration_assets.proof.validation import prove, require_streaming_state
from migration_assets.runtime import Migration
from migration_assets.stream.buckets import require_unaltered, slice_rows, table_before_cut
from migration_assets.stream.cut import PairedSnapshots, paired_snapshots
from migration_assets.stream.plan import StreamPlan
from migration_assets.stream.running import require_not_barred
from migration_assets.stream.true_up import Taken, share_out

_SHOWN = 20


@dataclass(frozen=True)
class DuplicateKey:
    """A key that the base has in more than one row: its text, and the values of the control column."""

    key: str
    control_values: tuple[str, ...]


@dataclass(frozen=True)
class Reconciled:
    """13 comparisons at one cut. `duplicates` has at most the first 20."""

    quarter: FiscalQuarter
    cut: CutRecord
    weeks: tuple[tuple[FiscalWeek, Proof], ...]
    duplicates: tuple[DuplicateKey, ...]

    @property
    def equal(self) -> bool:
        """Whether no row was missing, different or too many, and no key was there twice."""
        return all(proof.equal for _, proof in self.weeks) and not self.duplicates

    @property
    def legacy(self) -> Fingerprint:
        """The quarter's fingerprint on the legacy: the sum of its weeks'."""
        return sum((proof.legacy for _, proof in self.weeks), EMPTY)

    @property
    def base(self) -> Fingerprint:
        """The quarter's fingerprint on the base: the sum of its weeks'."""
        return sum((proof.base for _, proof in self.weeks), EMPTY)


def reconcile(plan: StreamPlan, quarter: FiscalQuarter) -> Reconciled:
    """Compare all weeks at one cut, several at a time, without pausing the stream; the ledger records the result.

    Raises:
        SliceStateError: A week is not under CDC.
        SliceBusyError: Another step works on one of the weeks.
        StreamError: The stream does not run.
        CutError: Writers left no free moment for a cut.
    """
    purpose = f"{quarter.key}:reconcile"
    with ExitStack() as stack:
        ledger = stack.enter_context(plan.databases.session("base", purpose, ATTENDED))
        require_not_barred(ledger, plan.relation)
        records = read_slices(ledger, plan.relation, quarter)
        _require_all_under_cdc(records, quarter)
        held = stack.enter_context(slice_locks(ledger, records))
        for record in held:
            require_streaming_state(record)
        description = table_before_cut(plan, ledger, purpose)
        seen = [changes_of(ledger, record) for record in held]
        with paired_snapshots(plan, purpose, [record.week for record in held]) as pair:
            proofs = _compare_all(plan, description, held, pair)
            if not all(proof.equal for proof in proofs):
                require_unaltered(plan, pair.legacy, pair.base, description, quarter.key)
            duplicates = _duplicates(pair.base, plan, description, held)
        done = Reconciled(
            quarter, pair.record, tuple(zip((r.week for r in held), proofs, strict=True)), tuple(duplicates)
        )
        with ledger.transaction():
            for record, proof, changes in zip(held, proofs, seen, strict=True):
                record_proof(ledger, record, proof, "reconcile", plan.run_id, seen=changes)
            row = ledger.execute(
                "INSERT INTO migration.reconciliations (relation, quarter, marker, lsn, equal, duplicate_keys, run_id)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING id",
                [plan.relation, quarter.key, pair.record.marker, pair.record.lsn, done.equal, len(duplicates),
                 plan.run_id],
            ).fetchone()  # fmt: skip
            append_row(ledger, plan.relation, ChainKind.RECONCILIATION, int(require_row(row, "a new one")[0]))
    return done


def _require_all_under_cdc(records: Sequence[SliceRecord], quarter: FiscalQuarter) -> None:
    lacking = [f"{record.week.name} is {record.state}" for record in records if not record.under_cdc]
    if lacking or len(records) != len(WEEK_NAMES):
        raise SliceStateError(
            "not under CDC: " + (", ".join(lacking) or "the quarter is not open in the base"),
            where=quarter.key,
            state_left="nothing was touched",
            next_step=f"materialize change_stream for {quarter.key} first",
        )


def _compare_all(
    plan: StreamPlan, description: TableDescription, records: Sequence[SliceRecord], pair: PairedSnapshots
) -> list[Proof]:
    """Compare several weeks at a time. The tables' definitions are read once and locked until the end."""
    root = plan.spec.table
    seen = seen_definitions(pair.legacy, pair.base, root, [root.sibling(record.leaf) for record in records])
    tables = base_tables(pair.base, plan.spec, [record.week for record in records])
    proofs: dict[int, Proof] = {}

    def work(weeks: Taken) -> None:
        with (
            plan.databases.session("base", "reconcile", plan.limits.timeouts()) as base,
            plan.databases.session("legacy", "reconcile", plan.limits.timeouts()) as legacy,
            in_snapshot(base, pair.base_snapshot, tables),
            in_snapshot(legacy, pair.legacy_snapshot, [root]),
        ):
            for number, record in weeks:
                for side in (base, legacy):
                    announce(side, f"{record.week.key}:reconcile")
                rows = slice_rows(plan, description, record)
                proofs[number] = prove(
                    legacy, base, rows, lsn=pair.record.lsn, marker=pair.record.marker, definitions=seen[rows.leaf]
                )

    share_out(records, work, parallel=plan.limits.parallel, purpose="reconcile")
    return [proofs[number] for number in range(len(records))]


def _duplicates(
    base: Connected, plan: StreamPlan, description: TableDescription, records: Sequence[SliceRecord]
) -> list[DuplicateKey]:
    """Return keys that two rows share: the base's own key includes the control column and allows that.

    Only weeks whose locks we hold are asked: a leaf that is swapped meanwhile would show rows of a later moment.

    If the legacy's key includes the control column itself, the base's primary key rules duplicates out.
    """
    if plan.spec.control_column in description.primary_key:
        return []
    kind = description.control_kind(plan.spec.control_column)
    bounds = [plan.calendar.bound_values(record.week, kind) for record in records]
    key = sql.SQL(", ").join(sql.Identifier(name) for name in description.primary_key)
    # Every leaf's index returns its keys in order; merging them needs neither sorting nor memory for the rows.
    base.execute("SET LOCAL enable_hashagg = off")
    base.execute("SET LOCAL enable_sort = off")
    found = base.execute(
        sql.SQL(
            "SELECT row({key})::text, array_agg({control}::text ORDER BY {control}) FROM {root} WHERE {ranges}"
            " GROUP BY {key} HAVING count(*) > 1 LIMIT {shown}"
        ).format(
            key=key,
            control=sql.Identifier(plan.spec.control_column),
            root=table_name(plan.spec.table),
            ranges=sql.SQL(" OR ").join(
                sql.SQL("({})").format(in_range(plan.spec.control_column, pair)) for pair in bounds
            ),
            shown=_SHOWN,
        )
    )
    return [DuplicateKey(str(text), tuple(values)) for text, values in found]


log = logging.getLogger(__name__)


def reconcile_quarter(migration: Migration, quarter: FiscalQuarter, *, run_id: str | None = None) -> Reconciled:
    """Compare all weeks of the quarter at one cut; see `reconcile`. A difference is a result, not an error."""
    return run_step(
        migration,
        f"reconciliation of {quarter.key}",
        lambda: reconcile(StreamPlan.of(migration, run_id), quarter),
        gate=legacy_leads(migration.spec.relation, "there is nothing to reconcile with, the legacy follows"),
    )
