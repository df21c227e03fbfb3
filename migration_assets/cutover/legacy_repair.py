"""Repairs the legacy's rows after the base's, while the base is in charge, and takes such a repair back.

A rollback rests on what the reverse stream brought to the legacy. Where the legacy has something else (a trigger of its
own, a writer who passed the hold), the rows of the weeks are made those of the base at a cut of the reverse stream.

The rows are on the legacy and the ledger is on the base, and no commit spans both. So the images of before, with the
number of the legacy's transaction, are in the ledger before that transaction ends; whether it committed, the legacy
itself says, even if the process dies in between.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from psycopg import RawCursor, errors, sql

from migration_assets.cutover import legacy_writing
from migration_assets.cutover.legacy_writing import (
    PURPOSE,
    ROWS_AT_ONCE,
    OutsideRepaired,
    both_sides,
    require_once,
    transaction_of,
    writing,
)
from migration_assets.cutover.plan import CutoverPlan, cutover_plan
from migration_assets.cutover.reverse import let_reverse_run, reverse_names
from migration_assets.cutover.reverse_cut import ReverseCut, reverse_cut
from migration_assets.cutover.work import forward_names
from migration_assets.domain.errors import LedgerError
from migration_assets.domain.fingerprint import Differences, Fingerprint, Kind
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.states import CutoverError
from migration_assets.domain.table_description import TableDescription
from migration_assets.ledger.cutovers import durably
from migration_assets.ledger.schema import hold_images
from migration_assets.ledger.slices import SliceRecord, require_slice
from migration_assets.ledger.steps import run_step
from migration_assets.postgres.copy_stream import pipe_rows
from migration_assets.postgres.fingerprints import take_fingerprint
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import table_name
from migration_assets.quarters.runway import attached_leaves, read_partitions
from migration_assets.runtime import Migration
from migration_assets.stream.buckets import Compared, SliceRows, compare, same_table, slice_rows
from migration_assets.stream.differences import (
    DifferingKeys,
    Keys,
    differing_keys,
    having_keys,
    key_matches,
    look,
    unnested,
)
from migration_assets.stream.plan import StreamPlan
from migration_assets.stream.repair_records import images_fit, require_no_others, require_put_back
from migration_assets.stream.true_up import chunks, delete_rows

_NAME_IT = "name that week, too: a dry run over the whole quarter (W01-W13) shows which rows differ"
_LOOK = (
    "look at the images of before (the ledger's table repaired_rows), and change by hand what is still wrong, in the"
    " base"
)


@dataclass(frozen=True)
class LegacyRepaired:
    """What differed in one week, seen from the legacy: `missing` rows are missing there.

    Attributes:
        week: Which week.
        dry_run: Whether nothing was changed.
        differences: How many rows differed.
        legacy: The legacy's fingerprint after the repair; in a dry run, as it was found.
        base: The base's fingerprint.
        repair_id: The ledger's id of the images of before; None where nothing was changed.
    """

    week: FiscalWeek
    dry_run: bool
    differences: Differences
    legacy: Fingerprint
    base: Fingerprint
    repair_id: int | None


@dataclass(frozen=True)
class _Found:
    """One week's rows as both sides have them."""

    record: SliceRecord
    rows: SliceRows
    compared: Compared
    batches: tuple[DifferingKeys, ...]

    def count(self, kind: Kind) -> int:
        return sum(len(batch.of(kind)) for batch in self.batches)


def repair_after_base(plan: CutoverPlan, weeks: Sequence[FiscalWeek], *, dry_run: bool = True) -> list[LegacyRepaired]:
    """Make the weeks' rows on the legacy those of the base, all in one transaction; a dry run only reports differences.

    All weeks that differ have to be named at once: a row that the legacy has in another week is deleted there first.

    Args:
        plan: Which table.
        weeks: The weeks to repair.
        dry_run: Change nothing.

    Returns:
        The result of each week, in the same order.

    Raises:
        CutoverError: The legacy is in charge or decommissioned, the reverse stream does not run, or something on the
            legacy changes rows as they are written. Nothing was changed.
        DeletionError: Many rows of a week would be deleted, and nobody confirmed that.
        SliceBusyError, StreamError: Another process works on a week, or on a cutover.
    """
    with both_sides(plan, lambda base, _: _records(base, plan, weeks)) as (base, legacy, records):
        names = reverse_names(forward_names(base, plan.relation))
        let_reverse_run(legacy, names)  # a repair that died may have left it at rest
        description = same_table(plan.stream, legacy, base)
        with reverse_cut(plan, names, PURPOSE, at_rest=not dry_run) as cut:
            if dry_run:
                return [_look(plan, cut, description, record) for record in records]
            return repair_at(plan, base, cut, description, records)


def put_back(plan: CutoverPlan, repair_id: int) -> list[str]:
    """Put back on the legacy what a repair changed there, in all weeks that were repaired in the same transaction.

    These weeks differ from the base again afterwards, as they did before the repair.

    Returns:
        Which weeks these are.

    Raises:
        LedgerError: There is no such repair of the legacy; or it was never committed, or was undone already; or its
            images cannot be inserted any more.
        CutoverError, SliceBusyError, StreamError: As `repair_after_base`.
    """

    def undone(base: Connected, legacy: Connected) -> list[SliceRecord]:
        repairs = _repairs_of(base, legacy, plan, repair_id)
        return _records(base, plan, [week for week in repairs if week is not None])

    with both_sides(plan, undone) as (base, legacy, records):
        repairs = _repairs_of(base, legacy, plan, repair_id)
        weeks = {week: one for week, one in repairs.items() if week is not None}
        names = reverse_names(forward_names(base, plan.relation))
        let_reverse_run(legacy, names)
        description = same_table(plan.stream, legacy, base)
        with reverse_cut(plan, names, PURPOSE, at_rest=True) as cut, writing(plan, cut.legacy):
            before = [(weeks[r.week], slice_rows(plan.stream, description, r)) for r in records]
            with images_fit(plan.relation, repair_id):
                _put_back(plan, base, cut.legacy, description, before, repairs.get(None))
            with durably(base):
                base.execute(
                    "UPDATE migration.repairs SET undone_at = clock_timestamp(), legacy_undo = %s WHERE id = ANY(%s)",
                    [transaction_of(cut.legacy), list(repairs.values())],
                )
    return [week.key for week in sorted(weeks)] + (["rows outside all weeks"] if None in repairs else [])


def _records(base: Connected, plan: CutoverPlan, weeks: Sequence[FiscalWeek]) -> list[SliceRecord]:
    records = [require_slice(base, plan.relation, week) for week in dict.fromkeys(weeks)]
    in_root = attached_leaves(plan.stream.spec.table, read_partitions(base, plan.stream.spec.table))
    gone = [record for record in records if record.week not in in_root]
    if gone:
        key = gone[0].week
        raise CutoverError(
            f"{', '.join(record.week.key for record in gone)} has no leaf in the base: what the legacy should have"
            " of it is in its archive",
            where=plan.relation,
            state_left="nothing was changed",
            next_step=f"`migration-assets restore {key.quarter.key} {key.name}`, then run this again",
        )
    return records


def _look(plan: CutoverPlan, cut: ReverseCut, description: TableDescription, record: SliceRecord) -> LegacyRepaired:
    rows = slice_rows(plan.stream, description, record)
    compared = compare(cut.base, cut.legacy, rows)
    differences = Differences() if compared.equal else look(cut.base, cut.legacy, rows, compared)
    return LegacyRepaired(record.week, True, differences, compared.base, compared.legacy, None)


def repair_at(
    plan: CutoverPlan, base: Connected, cut: ReverseCut, description: TableDescription, records: Sequence[SliceRecord]
) -> list[LegacyRepaired]:
    """Make the weeks on the legacy those of the base at the cut, in one transaction; the images of before are kept.

    Raises:
        CutoverError, DeletionError: As `repair_after_base`.
    """
    legacy = cut.legacy
    done: list[LegacyRepaired] = []
    with writing(plan, legacy):
        found = [_find(plan, cut, description, record) for record in records]
        for one in found:
            rows = {"legacy": one.compared.legacy.rows, "base": one.compared.base.rows}
            plan.stream.deletions.require(one.record.week, one.count(Kind.EXTRA), **rows, side="legacy")
        ids = keep_images(plan, base, cut, found)
        _apply(plan, cut, description, found)
        for one in found:
            now = take_fingerprint(legacy, one.rows.spec.table, one.rows.columns, one.rows.where)
            # Here the base is the source of the comparison.
            if now != one.compared.legacy:
                raise _meddled(plan, one.record.week)
            differences = Differences(one.count(Kind.MISSING), one.count(Kind.EXTRA), one.count(Kind.CHANGED))
            done.append(
                LegacyRepaired(
                    one.record.week, False, differences, now, one.compared.legacy, ids.get(one.record.lock_key)
                )
            )
    base.execute("UPDATE migration.repairs SET applied = true WHERE id = ANY(%s)", [list(ids.values())])
    return done


def _apply(plan: CutoverPlan, cut: ReverseCut, description: TableDescription, found: Sequence[_Found]) -> None:
    batches = [(one.rows, batch) for one in found for batch in one.batches]
    coming = [(rows, keys) for rows, batch in batches for keys in chunks(batch.missing + batch.changed)]
    try:
        # Delete in every week first: on the legacy a key exists once, whatever its time.
        for rows, batch in batches:
            for keys in chunks(batch.extra + batch.changed):
                delete_rows(cut.legacy, rows, keys)
        for rows, keys in coming:
            pipe_rows(cut.base, cut.legacy, description, rows.target, having_keys(rows, keys), freeze=False)
        for _, keys in coming:
            require_once(plan, cut.legacy, description, keys, _NAME_IT)
    except errors.UniqueViolation as error:
        raise CutoverError(
            "a row that the base has is on the legacy in a week that was not named:"
            f" {error.diag.constraint_name} allows its key once",
            where=plan.relation,
            state_left="nothing was changed",
            next_step=_NAME_IT,
        ) from None


def _find(plan: CutoverPlan, cut: ReverseCut, description: TableDescription, record: SliceRecord) -> _Found:
    rows = slice_rows(plan.stream, description, record)
    compared = compare(cut.base, cut.legacy, rows)
    return _Found(record, rows, compared, tuple(differing_keys(cut.base, cut.legacy, rows, compared)))


def keep_images(plan: CutoverPlan, base: Connected, cut: ReverseCut, found: Sequence[_Found]) -> dict[int, int]:
    """Write the images into the ledger, durably, before the legacy commits; returns repair ids by lock key."""
    transaction = transaction_of(cut.legacy)
    ids: dict[int, int] = {}
    with durably(base):
        for one in found:
            if not one.batches:
                continue
            week = one.record.week
            row = base.execute(
                "INSERT INTO migration.repairs (relation, quarter, week, marker, lsn, missing, extra, changed, run_id,"
                " side, legacy_transaction) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, 'legacy', %s) RETURNING id",
                [plan.relation, week.quarter.key, week.name, cut.marker, cut.lsn, one.count(Kind.MISSING),
                 one.count(Kind.EXTRA), one.count(Kind.CHANGED), plan.stream.run_id, transaction],
            ).fetchone()  # fmt: skip
            repair_id = ids[one.record.lock_key] = int(require_row(row, "a new repair")[0])
            with base.cursor() as cursor:
                insert = "INSERT INTO migration.repaired_rows (repair_id, kind, key, before) VALUES (%s, %s, %s, %s)"
                for batch in one.batches:
                    for kind in (Kind.EXTRA, Kind.CHANGED):
                        for keys in chunks(batch.of(kind)):
                            images = _images(cut.legacy, one.rows, keys)
                            cursor.executemany(insert, [(repair_id, str(kind), *image) for image in images])
                    cursor.executemany(insert, [(repair_id, "missing", list(key), None) for key in batch.missing])
    return ids


def _images(legacy: Connected, rows: SliceRows, keys: Sequence[tuple[str, ...]]) -> list[tuple[list[str], str]]:
    """For each key its texts, and the legacy's row as the text of a composite value."""
    texts = sql.SQL(", ").join(sql.SQL("format('%s', t.{})").format(sql.Identifier(c.name)) for c in rows.key)
    found = legacy.execute(
        sql.SQL("SELECT ARRAY[{}], (t.*)::text FROM {} AS t JOIN {} ON {} WHERE {}").format(
            texts, table_name(rows.spec.table), unnested(rows, keys), key_matches(rows), rows.where
        )
    )
    return [(list(key), str(image)) for key, image in found]


def _meddled(plan: CutoverPlan, week: FiscalWeek) -> CutoverError:
    return CutoverError(
        f"{week.key}: something on the legacy changes rows on their way in",
        where=plan.relation,
        state_left="the repair is rolled back; the legacy is as before",
        next_step=f"see the triggers of {plan.relation} on the legacy that are ENABLE ALWAYS or REPLICA (\\d shows"
        " them): disable those that change rows (ALTER TABLE … DISABLE TRIGGER …), since they also change what the"
        " reverse stream brings; then run this again",
    )


def _repairs_of(base: Connected, legacy: Connected, plan: CutoverPlan, repair_id: int) -> dict[FiscalWeek | None, int]:
    """All repairs of the same transaction, by week (None: outside all weeks), if it committed and was not undone."""
    rows = base.execute(
        "SELECT r.quarter, r.week, r.id, r.applied, r.legacy_transaction::text, r.undone_at, r.legacy_undo::text"
        " FROM migration.repairs r JOIN migration.repairs o USING (relation, side, legacy_transaction)"
        " WHERE o.id = %s AND relation = %s AND side = 'legacy'",
        [repair_id, plan.relation],
    ).fetchall()
    what = None
    if not rows:
        what = f"there is no repair {repair_id} of the legacy"
    else:
        *_, applied, transaction, undone_at, undo = rows[0]
        fate = "committed" if applied else _fate(legacy, transaction)
        if fate != "committed":
            what = f"repair {repair_id} " + (
                "never came to be: its process died" if fate == "aborted"
                else "has not ended yet" if fate == "in progress"
                else "may never have come to be: its process died, and the legacy has forgotten what became of it"
            )  # fmt: skip
        elif undone_at is not None and _fate(legacy, undo) != "aborted":
            what = f"repair {repair_id} was undone at {undone_at}"
    if what is not None:
        raise LedgerError(
            what,
            where=plan.relation,
            state_left="nothing was changed",
            next_step="the ledger's table repairs lists them",
        )
    return {FiscalWeek.parse(f"{quarter}|{week}") if week else None: int(one) for quarter, week, one, *_ in rows}


def _fate(legacy: Connected, transaction: str) -> str | None:
    """`committed`, `aborted` or `in progress`; None for a transaction so old that the legacy does not know any more."""
    row = legacy.execute("SELECT pg_xact_status(%s::xid8)", [transaction]).fetchone()
    found: str | None = require_row(row, "a transaction's status")[0]
    return found


def _put_back(
    plan: CutoverPlan,
    base: Connected,
    legacy: Connected,
    description: TableDescription,
    repairs: Sequence[tuple[int, SliceRows]],
    outside: int | None,
) -> None:
    """Delete every row of the repairs' keys and insert the images; generated columns are computed again."""
    ids = [repair_id for repair_id, _ in repairs] + ([] if outside is None else [outside])
    names = [sql.Identifier(column.name) for column in description.copied_columns]
    statement = sql.SQL(
        "INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE SELECT {values}"
        " FROM (SELECT one::{table} AS image FROM unnest($1::text[]) AS one) AS images"
    )
    parts = {
        "table": table_name(description.table),
        "names": sql.SQL(", ").join(names),
        "values": sql.SQL(", ").join(sql.SQL("(images.image).{}").format(name) for name in names),
    }
    with base.transaction():
        hold_images(base, ids, plan.relation)
        for repair_id, rows in repairs:
            for keys in chunks(_keys_of(base, repair_id)[0]):
                delete_rows(legacy, rows, keys)
        with base.cursor("images") as reader:
            reader.execute(
                "SELECT before FROM migration.repaired_rows WHERE repair_id = ANY(%s) AND before IS NOT NULL", [ids]
            )
            while found := reader.fetchmany(ROWS_AT_ONCE):
                images = [image for (image,) in found]
                # Whole rows must not be in the statement's text, which other sessions see and servers log. A raw
                # cursor, because a column's name may have a percent sign.
                RawCursor(legacy).execute(statement.format(**parts), [images])
                require_put_back(legacy, plan.stream.spec, description, images, ids[0])
            reader.execute(
                "SELECT key FROM migration.repaired_rows WHERE repair_id = ANY(%s) AND before IS NOT NULL", [ids]
            )
            while keys := reader.fetchmany(ROWS_AT_ONCE):
                require_once(plan, legacy, description, [tuple(key) for (key,) in keys], _LOOK)
        for repair_id, rows in repairs:
            require_no_others(legacy, rows, *_keys_of(base, repair_id), repair_id)


def _keys_of(base: Connected, repair_id: int) -> tuple[Keys, int]:
    """The keys that the repair changed, and how many of them had a row before."""
    found = base.execute(
        "SELECT key, before IS NOT NULL FROM migration.repaired_rows WHERE repair_id = %s", [repair_id]
    )
    keys = found.fetchall()
    return [tuple(key) for key, _ in keys], sum(1 for _, there in keys if there)


__all__ = ["LegacyRepaired", "OutsideRepaired", "repair_legacy", "repair_outside", "undo_legacy_repair"]

log = logging.getLogger(__name__)


def repair_legacy(
    migration: Migration,
    weeks: Sequence[FiscalWeek],
    *,
    dry_run: bool = True,
    run_id: str | None = None,
    confirmed_deletes: Mapping[FiscalWeek, int] | None = None,
) -> list[LegacyRepaired]:
    """Find out what differs and, unless `dry_run`, mend it on the legacy; see `repair_after_base`."""
    plan = replace(cutover_plan(migration, run_id), stream=StreamPlan.of(migration, run_id, confirmed_deletes))
    return run_step(migration, "repair of the legacy", lambda: repair_after_base(plan, weeks, dry_run=dry_run))


def repair_outside(
    migration: Migration, *, dry_run: bool = True, confirmed: int = 0, run_id: str | None = None
) -> OutsideRepaired:
    """Do the same for rows at times that no week has; see `legacy_writing.repair_outside`."""
    return run_step(
        migration,
        "repair of the legacy's rows outside",
        lambda: legacy_writing.repair_outside(cutover_plan(migration, run_id), dry_run=dry_run, confirmed=confirmed),
    )


def undo_legacy_repair(migration: Migration, repair_id: int, *, run_id: str | None = None) -> list[str]:
    """Put back what the repair changed; returns the keys of the weeks. See `put_back`."""
    return run_step(
        migration,
        f"undoing of repair {repair_id}",
        lambda: put_back(cutover_plan(migration, run_id), repair_id),
        attempts=1,
    )
