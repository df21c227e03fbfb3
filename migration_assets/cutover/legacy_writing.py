"""What every repair of the legacy needs: to be alone, the right to do it, and a transaction that passes the hold.

Rows that lie at times that no week has are taken off the legacy here as well, with a way back.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from psycopg import sql

from migration_assets.cutover.accounting import outside_of_base, require_accounted, weeks_of
from migration_assets.cutover.plan import CutoverPlan
from migration_assets.cutover.reverse import let_reverse_run, reverse_names
from migration_assets.cutover.reverse_cut import ReverseCut, reverse_cut
from migration_assets.cutover.undoing import alone
from migration_assets.cutover.work import forward_names
from migration_assets.domain.errors import DeletionError
from migration_assets.domain.states import CutoverError, CutoverKind
from migration_assets.domain.table_description import TableDescription
from migration_assets.ledger.charge import read_cutover_facts
from migration_assets.ledger.cutovers import durably
from migration_assets.ledger.slices import SliceRecord, slice_locks
from migration_assets.ledger.stream import stream_lock
from migration_assets.postgres.sessions import BULK, Connected, require_row
from migration_assets.postgres.sql_text import raw_sql, table_name
from migration_assets.quarters.own_writes import own_writes
from migration_assets.stream.buckets import same_table
from migration_assets.stream.servers import require_same_servers
from migration_assets.stream.uncovered import Found, any_of, count_in, places_without

PURPOSE = "repair-legacy"
Slices = Callable[[Connected, Connected], Sequence[SliceRecord]]
ROWS_AT_ONCE = 5_000


@contextmanager
def both_sides(
    plan: CutoverPlan, slices: Slices = lambda _base, _legacy: (), *, mending: bool = False
) -> Generator[tuple[Connected, Connected, list[SliceRecord]]]:
    """Sessions on base and legacy while the base is in charge, with slices, stream and cutover locked for the body.

    The slices are locked before the stream, as in every step: in the other order this step and a sign-off would wait
    for each other.

    Args:
        plan: Which table.
        slices: Returns the slices to lock; called once no other repair or cutover can begin.
        mending: The caller makes the reverse stream anew, which is the remedy for a replaced server; so the servers
            are not checked.

    Raises:
        CutoverError: The legacy is in charge or decommissioned, or a cutover is not finished.
        ServerChangedError: A server is not the one that the stream was built on, or it went back in time.
        SliceBusyError, StreamError: Another process is at work.
    """
    databases = plan.stream.databases
    with ExitStack() as stack:
        base = stack.enter_context(databases.session("base", PURPOSE, BULK))
        _require_base_in_charge(base, plan)
        legacy = stack.enter_context(databases.session("legacy", PURPOSE, BULK))
        stack.enter_context(alone(plan, base, legacy))
        if not mending:
            require_same_servers(base, plan.relation, legacy)
        records = stack.enter_context(slice_locks(base, slices(base, legacy)))
        # So that the watch sees that a step keeps the stream at rest.
        stack.enter_context(stream_lock(base, plan.relation))
        _require_base_in_charge(base, plan)
        yield base, legacy, records


def _require_base_in_charge(base: Connected, plan: CutoverPlan) -> None:
    facts = read_cutover_facts(base, plan.relation)
    if facts.in_charge == "legacy":
        what = "the legacy is in charge: its rows are the truth"
        then = "`migration-assets repair QUARTER WEEK` shows what differs in the base; with --apply it repairs it"
    elif facts.decommissioned is not None:
        what, then = "the legacy is decommissioned: there is no rollback any more", "nothing"
    elif facts.under_way is not None:
        what = f"{facts.under_way.name} is not finished"
        then = "let it end; where its process died: `migration-assets release-writes`; then run this again"
    else:
        return
    raise CutoverError(what, where=plan.relation, state_left="nothing was changed", next_step=then)


@contextmanager
def writing(plan: CutoverPlan, legacy: Connected) -> Generator[None]:
    """A transaction on the legacy that passes the hold and fires no ordinary trigger, while nobody else writes.

    Raises:
        TriggersFireError: There are triggers, and our role may not keep them from firing.
    """
    table = plan.stream.spec.table
    with legacy.transaction():
        legacy.execute("SET LOCAL synchronous_commit = on")
        # Readers go on. A session that writes past the hold waits.
        legacy.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(table_name(table)))
        with own_writes(legacy, [table], side="legacy"):
            yield


def transaction_of(legacy: Connected) -> str:
    """The id of the session's transaction."""
    return str(require_row(legacy.execute("SELECT pg_current_xact_id()::text").fetchone(), "a transaction")[0])


def require_once(
    plan: CutoverPlan, legacy: Connected, description: TableDescription, keys: Sequence[tuple[str, ...]], next_step: str
) -> None:
    """Check, after rows were inserted, unique keys that the server itself does not check here.

    A deferrable key is checked by a trigger, which fires for us as little as for an apply worker.

    Args:
        plan: Which table.
        legacy: The session, in the transaction that put the rows in.
        description: The legacy's table.
        keys: Of these rows: the texts of the base's primary key, as the ledger keeps them.
        next_step: For the error.

    Raises:
        CutoverError: A key is there twice; the error names the key's columns and no value.
    """
    deferrable = [index.key_columns for index in description.indexes if index.unique and index.deferrable]
    if description.primary_key_deferral:
        deferrable.append(description.primary_key)
    if not keys or not deferrable:
        return
    names = description.base_primary_key(plan.stream.spec.control_column)
    texts = [sql.Identifier(f"text_{number}") for number in range(len(names))]
    these = sql.SQL(" AND ").join(
        sql.SQL("t.{} {} k.{}::{}").format(
            sql.Identifier(name), raw_sql(description.equality(name)), text, raw_sql(description.column(name).type_name)
        )
        for name, text in zip(names, texts, strict=True)
    )
    for columns in deferrable:
        statement = sql.SQL(
            "SELECT EXISTS (SELECT FROM unnest({arrays}) AS k({texts}) JOIN {table} AS t ON {these}"
            " JOIN {table} AS other ON {same} AND other.ctid <> t.ctid)"
        ).format(
            # Literals instead of parameters: a column's name may have a percent sign.
            arrays=sql.SQL(", ").join(
                sql.SQL("{}::text[]").format(sql.Literal(list(part))) for part in zip(*keys, strict=True)
            ),
            texts=sql.SQL(", ").join(texts),
            table=table_name(description.table),
            these=these,
            same=sql.SQL(" AND ").join(
                sql.SQL("t.{c} {equals} other.{c}").format(
                    c=sql.Identifier(one), equals=raw_sql(description.equality(one))
                )
                for one in columns
            ),
        )
        row = legacy.execute(statement).fetchone()
        if require_row(row, "EXISTS")[0]:
            raise CutoverError(
                "a row that was to be put in has a key that another row of the legacy has:"
                f" ({', '.join(columns)}), which is deferrable",
                where=plan.relation,
                state_left="nothing was changed",
                next_step=next_step,
            )


@dataclass(frozen=True)
class OutsideRepaired:
    """Rows of the legacy at times of no week; `repair_id` is the ledger's repair that took them off, or None."""

    found: tuple[Found, ...]
    repair_id: int | None


def repair_outside(plan: CutoverPlan, *, dry_run: bool = True, confirmed: int = 0) -> OutsideRepaired:
    """Take rows off the legacy that lie at times of no week, where the base has no such rows; a dry run counts them.

    Args:
        plan: Which table.
        dry_run: Change nothing.
        confirmed: How many rows a person allows to be deleted.

    Raises:
        CutoverError: The legacy is in charge or decommissioned, or a cutover is not finished, or there is no cut of the
            reverse stream; or the base has rows at such times too.
        DeletionError: More rows would go than the limit, and nobody confirmed their number.
        SliceBusyError, StreamError: Another process is at work.
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
            next_step="check that the fiscal calendar and MIGRATION_CONTROL_COLUMN are right, and that no quarter is"
            f" missing. If the rows have to go, confirm their number: --confirm-outside {many}",
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
