"""Takes rows off the legacy that lie at times that no week has, while the base is in charge, with a way back."""

from dataclasses import dataclass

from psycopg import sql

from migration_assets.cutover.accounting import outside_of_base, require_accounted, weeks_of
from migration_assets.cutover.legacy_writing import (
    PURPOSE,
    ROWS_AT_ONCE,
    both_sides,
    transaction_of,
    writing,
)
from migration_assets.cutover.plan import CutoverPlan
from migration_assets.cutover.reverse import let_reverse_run, reverse_names
from migration_assets.cutover.reverse_cut import ReverseCut, reverse_cut
from migration_assets.cutover.work import forward_names
from migration_assets.domain.cutover_state import CutoverError, CutoverKind
from migration_assets.domain.errors import DeletionError
from migration_assets.domain.table_description import TableDescription
from migration_assets.ledger.cutovers import durably
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import table_name
from migration_assets.stream.slice_rows import same_table
from migration_assets.stream.uncovered import (
    Found,
    any_of,
    count_in,
    places_without,
)


@dataclass(frozen=True)
class OutsideRepaired:
    """Rows of the legacy at times that no week has; `repair_id` names them in the ledger, where they were taken off."""

    found: tuple[Found, ...]
    repair_id: int | None


def repair_outside(plan: CutoverPlan, *, dry_run: bool = True, confirmed: int = 0) -> OutsideRepaired:
    """Take rows off the legacy that lie at times that no week has, where the base has none; a dry run counts them.

    Args:
        plan: Which table.
        dry_run: Change nothing.
        confirmed: So many rows may go; a person looked at their number.

    Raises:
        CutoverError: As `repair_legacy`; or the base has rows at such times as well.
        DeletionError: They are many, and nobody confirmed that.
        StreamError: As `repair_legacy`.
    """
    with both_sides(plan) as (base, legacy, _):
        names = reverse_names(forward_names(base, plan.relation))
        let_reverse_run(legacy, names)
        weeks = weeks_of(base, plan)
        description = same_table(plan.stream, legacy, base)
        kind = description.control_kind(plan.stream.spec.control_column)
        records = (*weeks.compared, *(one.record for one in weeks.left))
        places = places_without(plan.stream.calendar.bound_values(record.week, kind) for record in records)
        with reverse_cut(plan, names, PURPOSE, at_rest=not dry_run) as cut:
            of_base = outside_of_base(cut.base, plan, CutoverKind.ROLLBACK, weeks, description)
            require_accounted(plan, CutoverKind.ROLLBACK, of_base)
            found = tuple(count_in(cut.legacy, plan.stream.spec, places))
            if dry_run or not found:
                return OutsideRepaired(found, None)
            with writing(plan, cut.legacy):
                repair_id = _take_off(plan, base, cut, description, any_of(plan.stream.spec, places), confirmed)
            base.execute("UPDATE migration.repairs SET applied = true WHERE id = %s", [repair_id])
            return OutsideRepaired(found, repair_id)


def _take_off(
    plan: CutoverPlan,
    base: Connected,
    cut: ReverseCut,
    description: TableDescription,
    where: sql.Composable,
    confirmed: int,
) -> int:
    table = table_name(plan.stream.spec.table)
    there = cut.legacy.execute(sql.SQL("SELECT count(*) FROM {} AS t WHERE {}").format(table, where)).fetchone()
    many = int(require_row(there, "a count")[0])
    if many > max(plan.stream.deletions.limit.rows, confirmed):
        raise DeletionError(
            f"{many:,} rows of the legacy would be deleted: they lie at times that no week has",
            where=plan.relation,
            state_left="nothing was changed",
            next_step="see that the fiscal calendar and MIGRATION_CONTROL_COLUMN are right, and that no quarter is"
            f" missing. If they are to go, confirm their number: --confirm-outside {many}",
        )
    key = sql.SQL(", ").join(
        sql.SQL("format('%s', t.{})").format(sql.Identifier(name))
        for name in description.base_primary_key(plan.stream.spec.control_column)
    )
    with durably(base):
        row = base.execute(
            "INSERT INTO migration.repairs (relation, marker, lsn, missing, extra, changed, run_id, side,"
            " legacy_transaction) VALUES (%s, %s, %s, 0, 0, 0, %s, 'legacy', %s) RETURNING id",
            [plan.relation, cut.marker, cut.lsn, plan.stream.run_id, transaction_of(cut.legacy)],
        ).fetchone()
        repair_id = int(require_row(row, "a new repair")[0])
        rows = 0
        with cut.legacy.cursor("outside") as reader, base.cursor() as writer:
            reader.execute(sql.SQL("SELECT ARRAY[{}], (t.*)::text FROM {} AS t WHERE {}").format(key, table, where))
            while found := reader.fetchmany(ROWS_AT_ONCE):
                rows += len(found)
                writer.executemany(
                    "INSERT INTO migration.repaired_rows (repair_id, kind, key, before) VALUES (%s, 'extra', %s, %s)",
                    [(repair_id, list(texts), image) for texts, image in found],
                )
        base.execute("UPDATE migration.repairs SET extra = %s WHERE id = %s", [rows, repair_id])
        gone = cut.legacy.execute(sql.SQL("DELETE FROM {} AS t WHERE {}").format(table, where)).rowcount
        left = cut.legacy.execute(sql.SQL("SELECT EXISTS (SELECT FROM {} AS t WHERE {})").format(table, where))
        if gone != rows or require_row(left.fetchone(), "EXISTS")[0]:
            came = " and others came" if gone == rows else ""
            raise CutoverError(
                f"{rows:,} rows were to be taken off the legacy, and {gone:,} went{came}",
                where=plan.relation,
                state_left="the repair is rolled back; the legacy is as before",
                next_step="see what triggers and rules of the legacy do on DELETE, then run this again",
            )
    return repair_id
