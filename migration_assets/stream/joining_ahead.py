"""Weeks that join the stream without a copy, because they were opened ahead of time and hold few rows or none."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from psycopg import sql

from migration_assets.domain.definitions import Definitions
from migration_assets.domain.errors import StreamError
from migration_assets.domain.fingerprint import EMPTY, Differences, Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.domain.states import SliceState
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import TableSpec
from migration_assets.ledger.definitions import table_states
from migration_assets.ledger.proofs import Proof, record_proof
from migration_assets.ledger.slices import (
    SliceRecord,
    begin_attempt,
    end_attempt,
    read_slices,
)
from migration_assets.ledger.stream import keep_at_rest
from migration_assets.ledger.stream_parts import alterations
from migration_assets.postgres.fingerprints import in_range
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.snapshots import base_tables, hold_tables, in_snapshot
from migration_assets.postgres.sql_text import table_name
from migration_assets.quarters.legacy_weeks import BY_INDEX, large_weeks
from migration_assets.quarters.runway import attached_leaves, read_partitions
from migration_assets.stream.legacy_side import row_filter
from migration_assets.stream.plan import StreamPlan
from migration_assets.stream.true_up import Joining, TruedUp, true_up_weeks


def joins(record: SliceRecord, quarter: FiscalQuarter) -> bool:
    """Return whether the slice joins with its quarter: copied, opened ahead, or returned to the base."""
    if record.week.quarter != quarter or record.under_cdc:
        return False
    returned = record.state is SliceState.ARCHIVED and record.released is not None
    return returned or record.state in {SliceState.ABSENT, SliceState.COPIED}


def in_root(base: Connected, plan: StreamPlan) -> list[SliceRecord]:
    """Every week under CDC, and those with a leaf that may join: after a rollback both sides have all of them."""
    attached = attached_leaves(plan.spec.table, read_partitions(base, plan.spec.table))
    records = read_slices(base, plan.relation)
    return [r for r in records if r.under_cdc or (r.week in attached and joins(r, r.week.quarter))]


def require_leaves(base: Connected, spec: TableSpec, records: Iterable[SliceRecord]) -> None:
    """Refuse if a week has no leaf to put its rows into.

    Raises:
        StreamError: Names the weeks without a leaf.
    """
    attached = attached_leaves(spec.table, read_partitions(base, spec.table))
    lacking = [record.week for record in records if record.week not in attached]
    if lacking:
        quarters = ", ".join(dict.fromkeys(week.quarter.key for week in lacking))
        raise StreamError(
            f"no leaf is attached for {', '.join(week.key for week in lacking)}",
            where=spec.relation,
            state_left="nothing was changed",
            next_step=f"materialize quarter_partitions for {quarters}, then change_stream again",
        )


def require_small(
    plan: StreamPlan, legacy: Connected, description: TableDescription, weeks: Sequence[FiscalWeek]
) -> None:
    """Refuse weeks that were never copied and are too large to be brought in by the true-up alone.

    Raises:
        StreamError: Names these weeks and their row counts.
    """
    most = plan.limits.join_rows
    large = large_weeks(legacy, description, plan.spec, plan.calendar, weeks, most=most)
    if large:
        listed = ", ".join(f"{week.name} (about {rows:,} rows)" for week, rows in large.items())
        raise StreamError(
            f"not copied yet: {listed}; up to {most:,} rows (MIGRATION_JOIN_ROWS) join without a copy",
            where=next(iter(large)).quarter.key,
            state_left="nothing was changed",
            next_step="materialize migrated_slice for these weeks, then change_stream again",
        )


def require_few_deletions(
    plan: StreamPlan, base: Connected, legacy: Connected, description: TableDescription, weeks: Sequence[FiscalWeek]
) -> None:
    """Refuse now, before the stream is touched, what the true-up of weeks that were never copied would refuse later.

    A week that was opened ahead has no rows in the base unless an application or a person wrote there.

    Raises:
        DeletionError: A week has rows in the base that the legacy does not have.
    """
    kind = description.control_kind(plan.spec.control_column)
    for week in weeks:
        where = in_range(plan.spec.control_column, plan.calendar.bound_values(week, kind))
        counted = sql.SQL("SELECT count(*) FROM {} WHERE {}").format(table_name(plan.spec.table), where)
        of_base = int(require_row(base.execute(counted).fetchone(), "a count")[0])
        if of_base:
            of_legacy = int(require_row(legacy.execute(counted).fetchone(), "a count")[0])
            plan.deletions.require(week, max(0, of_base - of_legacy), legacy=of_legacy, base=of_base)


def true_up_joining(joining: Joining, records: Sequence[SliceRecord]) -> list[TruedUp]:
    """As `true_up_weeks`, but weeks without a copy are counted first, all in one query a side.

    Weeks without rows on both sides are equal, and nothing more is read for them: on a legacy without an index, a
    quarter that was opened ahead costs one scan instead of 13. The counts also tell the true-up how many buckets to
    use for the other weeks.
    """
    plan, description = joining.plan, joining.description
    opened = [record for record in records if record.state is SliceState.ABSENT]
    others = [record for record in records if record.state is not SliceState.ABSENT]
    done: list[TruedUp] = []
    if opened:
        with (
            plan.databases.session("base", "join:count", plan.limits.timeouts()) as base,
            plan.databases.session("legacy", "join:count", plan.limits.timeouts()) as legacy,
        ):
            weeks = [record.week for record in opened]
            with in_snapshot(legacy, joining.snapshot, [plan.spec.table]), base.transaction():
                of_legacy = _count(legacy, description, plan, weeks)
                keep_at_rest(base, joining.stream)
                hold_tables(base, base_tables(base, plan.spec, weeks))
                of_base = _count(base, description, plan, weeks)
                empty = [record for record in opened if not of_legacy[record.week] and not of_base[record.week]]
                table = plan.spec.table
                seen = table_states(legacy, [table]).get(table)
                altered = alterations(base, plan.relation)
                states = table_states(base, [table, *(table.sibling(record.leaf) for record in empty)])
                for record in empty:
                    leaf = states.get(table.sibling(record.leaf))
                    definitions = Definitions(seen, states.get(table), leaf, altered)
                    proof = Proof(EMPTY, EMPTY, joining.lsn, joining.marker, definitions)
                    done.append(_record_empty(plan, base, record, proof))
        for one in done:
            if joining.on_week is not None:
                joining.on_week(one)
        held = [record for record in opened if record not in empty]
        others += [_expecting(record, of_legacy[record.week], of_base[record.week]) for record in held]
    return done + true_up_weeks(joining, others)


def _count(
    connection: Connected, description: TableDescription, plan: StreamPlan, weeks: Sequence[FiscalWeek]
) -> Mapping[FiscalWeek, int]:
    """Return the number of rows of each week, in the session's transaction."""
    kind = description.control_kind(plan.spec.control_column)
    ordered = sorted(weeks)
    connection.execute(BY_INDEX)
    rows = connection.execute(
        sql.SQL("SELECT width_bucket({c}, ARRAY[{starts}]), count(*) FROM {t} WHERE {w} GROUP BY 1").format(
            c=sql.Identifier(plan.spec.control_column),
            starts=sql.SQL(", ").join(sql.Literal(plan.calendar.bound_values(week, kind)[0]) for week in ordered),
            t=table_name(plan.spec.table),
            w=row_filter(ordered, description, plan.spec, plan.calendar),
        )
    )
    counted = {int(bucket): int(count) for bucket, count in rows}
    return {week: counted.get(number, 0) for number, week in enumerate(ordered, start=1)}


def _record_empty(plan: StreamPlan, base: Connected, record: SliceRecord, proof: Proof) -> TruedUp:
    attempt = begin_attempt(base, record, "join", plan.run_id)
    record_proof(base, record, proof, "join", plan.run_id)
    end_attempt(base, attempt, "succeeded", legacy=EMPTY, base=EMPTY)
    return TruedUp(record.week, EMPTY, EMPTY, Differences(), proof.definitions)


def _expecting(record: SliceRecord, of_legacy: int, of_base: int) -> SliceRecord:
    # Only the counts are used: they decide the number of buckets, and too few for a large week would fill the memory.
    return replace(record, legacy=Fingerprint(of_legacy, 0, 0), base=Fingerprint(of_base, 0, 0))
