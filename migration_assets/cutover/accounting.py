"""Accounts for every row that no compared week holds, so that none is left behind when the writes move.

A row lies in a week that is compared (or whose proof still stands), or in a week that left the base and whose archive
is what the legacy has of it; any other row stops the cutover or rollback by name. This is counted under hold, when
nobody writes, and looked at before that as well, so that nobody is held in vain.

Before a cutover the watch looks cheaply for new rows of that kind: at the ends of ranges on the control column's index,
and, for weeks that left the base, at the versions of their rows where these are few enough.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from migration_assets.cutover.left_weeks import (
    AsFound,
    LeftWeek,
    has_left,
    is_unchanged,
    left_weeks,
    read_left,
    state_of_file,
    unchanged,
)
from migration_assets.cutover.plan import CutoverPlan
from migration_assets.domain.states import CutoverError, CutoverKind, SideName
from migration_assets.domain.table_description import TableDescription
from migration_assets.ledger.slices import SliceRecord, read_slices
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import Connected, require_row, set_limits
from migration_assets.quarters.runway import attached_leaves, read_partitions
from migration_assets.retirement.checks import how_to_take_in
from migration_assets.stream.uncovered import Found, count_in, places_without, remedy_of


@dataclass(frozen=True)
class Unaccounted:
    """Rows that would be left behind, and what to do about them."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Weeks:
    """The table's weeks by what accounts for their rows. Rows outside both groups are not accounted for.

    `compared` have a leaf, or should have one; `left` have left the base.
    """

    compared: tuple[SliceRecord, ...]
    left: tuple[LeftWeek, ...]


def weeks_of(base: Connected, plan: CutoverPlan) -> Weeks:
    """Read them from the ledger and the base's partitions."""
    known = read_slices(base, plan.relation)
    in_root = attached_leaves(plan.stream.spec.table, read_partitions(base, plan.stream.spec.table))
    compared = tuple(record for record in known if record.under_cdc or record.week in in_root)
    gone = [record for record in known if has_left(record) and record not in compared]
    return Weeks(compared, tuple(left_weeks(base, plan.relation, gone)))


def look_again(
    legacy: Connected,
    plan: CutoverPlan,
    weeks: Weeks,
    before: Mapping[int, AsFound],
    *,
    before_each: Callable[[], object],
) -> tuple[dict[int, AsFound], float]:
    """Look on the legacy at the weeks that left the base; read again those that may have changed since `before`.

    Args:
        legacy: In no transaction.
        plan: Which table.
        weeks: As `weeks_of` returns them.
        before: What an earlier look found, by the key of the week's lock.
        before_each: Called before each week; may raise to stop.

    Returns:
        What was found, by the key of the week's lock; and how many seconds the look took without the weeks that were
        read again. It will take that long when nobody writes any more.
    """
    known = [
        one
        for week in weeks.left
        if (one := before.get(week.record.lock_key)) is not None and one.week.archive_id == week.archive_id
    ]
    began = time.monotonic()
    same = unchanged(legacy, plan.stream, known, before_each=before_each)
    seconds = time.monotonic() - began
    found: dict[int, AsFound] = {}
    for week in weeks.left:
        key = week.record.lock_key
        if key not in same:
            before_each()
        found[key] = before[key] if key in same else read_left(legacy, plan.stream, week)
    return found, seconds


def find_unaccounted(
    base: Connected,
    legacy: Connected,
    plan: CutoverPlan,
    kind: CutoverKind,
    weeks: Weeks,
    left: Iterable[AsFound],
    description: TableDescription,
) -> list[Unaccounted]:
    """Everything that no week accounts for, and weeks that left the base and differ from the legacy now.

    `description` is the table's; it is the same on both sides.
    """
    return [
        *outside_of_base(base, plan, kind, weeks, description),
        *outside_of_legacy(legacy, plan, kind, weeks, description),
        *(Unaccounted(one.wrong, _to_take_in(kind, one)) for one in left if one.wrong),
    ]


def outside_of_base(
    base: Connected, plan: CutoverPlan, kind: CutoverKind, weeks: Weeks, description: TableDescription
) -> list[Unaccounted]:
    """Rows of the base outside all compared leaves, in partitions that somebody made by hand."""
    return list(_outside(base, plan, kind, "base", weeks.compared, description))


def outside_of_legacy(
    legacy: Connected, plan: CutoverPlan, kind: CutoverKind, weeks: Weeks, description: TableDescription
) -> Iterator[Unaccounted]:
    """Rows of the legacy at times that no week has; cheap where an index begins with the control column."""
    records = (*weeks.compared, *(week.record for week in weeks.left))
    yield from _outside(legacy, plan, kind, "legacy", records, description)


def require_accounted(plan: CutoverPlan, kind: CutoverKind, found: list[Unaccounted]) -> None:
    """Refuse to go on where rows would be left behind.

    Raises:
        CutoverError: Names all of these rows, and what to do.
    """
    if found:
        raise CutoverError(
            f"rows would be left behind by the {kind}: " + "; ".join(one.what for one in found),
            where=plan.relation,
            next_step="; ".join(dict.fromkeys(one.remedy for one in found)) + "; then run this again",
        )


def _outside(
    connection: Connected,
    plan: CutoverPlan,
    kind: CutoverKind,
    side: SideName,
    records: Iterable[SliceRecord],
    description: TableDescription,
) -> Iterator[Unaccounted]:
    spec = plan.stream.spec
    control = description.control_kind(spec.control_column)
    places = places_without(plan.stream.calendar.bound_values(record.week, control) for record in records)
    with connection.transaction():
        # So that an index that begins with the control column is used, however few pages the table has.
        connection.execute("SET LOCAL enable_seqscan = off")
        found = count_in(connection, spec, places)
    for one in found:
        on = f" on the {side}" + (f" ({', '.join(one.tables)})" if side == "base" else "")
        yield Unaccounted(f"{one}{on}", _remedy(plan, kind, side, one))


def _remedy(plan: CutoverPlan, kind: CutoverKind, side: SideName, one: Found) -> str:
    spec, tables = plan.stream.spec, ", ".join(one.tables)
    if side == "base" and kind is CutoverKind.CUTOVER:
        return (
            f"{tables} is not one of our leaves: take it out of {spec.table} (ALTER TABLE … DETACH PARTITION {tables}),"
            " or delete its rows"
        )
    if side == "base":
        return (
            f"{tables} is not one of our leaves: keep its rows aside (CREATE TABLE … AS TABLE {tables}), delete them"
            f" there, drop it, open their quarter (materialize quarter_partitions), and insert them into {spec.table}"
        )
    if kind is CutoverKind.CUTOVER:
        return remedy_of(spec, one.place)
    return "`migration-assets repair-legacy --outside` shows these rows, and takes them off the legacy"


def _to_take_in(kind: CutoverKind, one: AsFound) -> str:
    record = one.week.record
    if kind is CutoverKind.CUTOVER:
        return f"{record.week.key}: {how_to_take_in(record)}"
    key = f"{record.week.quarter.key} {record.week.name}"
    return f"`migration-assets restore {key}`, then `migration-assets repair-legacy {key}`"


# A look must be short; the gate of the cutover looks at the rest.
_SECONDS = 2.0
_ROWS = 500_000


def note_accounted(base: Connected, legacy: Connected, plan: CutoverPlan) -> None:
    """Note that every row of the legacy is in a week: from now on the watch raises an alert for rows that are not."""
    file, horizon = state_of_file(legacy, plan.stream)
    base.execute(
        "INSERT INTO migration.accounted (relation, file, horizon) VALUES (%s, %s, %s)"
        " ON CONFLICT (relation) DO UPDATE SET file = excluded.file, horizon = excluded.horizon,"
        " accounted_at = clock_timestamp()",
        [plan.relation, file, horizon],
    )


def find_early(base: Connected, legacy: Connected, plan: CutoverPlan) -> tuple[str, ...] | None:
    """Describe rows that no open week can take; None before the gate was ever passed.

    Raises:
        psycopg.errors.QueryCanceled: The look takes longer than the watch may spend.
    """
    there = base.execute("SELECT to_regclass('migration.accounted') IS NOT NULL").fetchone()
    if not require_row(there, "to_regclass")[0]:
        return None
    known = base.execute(
        "SELECT file, horizon::text FROM migration.accounted WHERE relation = %s", [plan.relation]
    ).fetchone()
    if known is None:
        return None
    weeks = weeks_of(base, plan)
    description = require_table(legacy, plan.stream.spec.table, "legacy")
    with legacy.transaction():
        set_limits(legacy, statement=_SECONDS * 1000)
        found = [one.what for one in outside_of_legacy(legacy, plan, CutoverKind.CUTOVER, weeks, description)]
    archived = [(week, week.archive) for week in weeks.left if week.archive is not None]
    if sum(archive.native.rows for _, archive in archived) <= _ROWS:
        for week, archive in archived:
            if not is_unchanged(legacy, plan.stream, AsFound(week, archive.native, description, *known)):
                wrong = read_left(legacy, plan.stream, week).wrong
                found += [wrong] if wrong else []
    return tuple(found)
