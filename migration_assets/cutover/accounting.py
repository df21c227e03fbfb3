"""Accounts for every row that no compared week holds: none may be left behind when the writes move, on either side.

Every row has to lie in a week that is compared (or whose proof is still valid), or in a week that left the base and of
which the legacy has exactly what its archive holds. Any other row stops the cutover or rollback, by name. All is
counted under hold, when nobody writes; it is also looked at before, so that no hold is made in vain.

`find_early` reports rows of the legacy that no open week can take while applications go on writing, and not only at the
cutover. It works from the first time on that the gate of a cutover was passed: then every row was in a week, so what
comes later can be told from what was never migrated. It is cheap: it reads the ends of ranges of the control column's
index and, of weeks that left the base, the versions of the rows where these are few enough. The cutover itself looks at
all of it, exactly.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from psycopg import sql

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
from migration_assets.postgres.sessions import Connected, require_row
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
    """The table's weeks, by where their rows are compared with; a week in neither group has none compared.

    Attributes:
        compared: Weeks that have a leaf, or should have one: the two sides are compared.
        left: Weeks that left the base: the legacy is compared with their archives.
    """

    compared: tuple[SliceRecord, ...]
    left: tuple[LeftWeek, ...]


def weeks_of(base: Connected, plan: CutoverPlan) -> Weeks:
    """Sort the ledger's weeks by what the ledger and the base's partitions say of them."""
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
    """Every row that no week accounts for, and every week that left and of which the legacy has something else now.

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
    """Rows of the base in no compared leaf: they are in partitions that were made by hand."""
    return list(_outside(base, plan, kind, "base", weeks.compared, description))


def outside_of_legacy(
    legacy: Connected, plan: CutoverPlan, kind: CutoverKind, weeks: Weeks, description: TableDescription
) -> Iterator[Unaccounted]:
    """Rows of the legacy that belong to no week; cheap where an index begins with the control column."""
    records = (*weeks.compared, *(week.record for week in weeks.left))
    yield from _outside(legacy, plan, kind, "legacy", records, description)


def require_accounted(plan: CutoverPlan, kind: CutoverKind, found: list[Unaccounted]) -> None:
    """Stop where rows would be left behind.

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


# A look of the watch must be short; what takes longer is left to the gate of the cutover.
_SECONDS = 2.0
_ROWS = 500_000


def note_accounted(base: Connected, legacy: Connected, plan: CutoverPlan) -> None:
    """Note that every row of the legacy is in a week now; from now on the watch reports rows that are in none."""
    file, horizon = state_of_file(legacy, plan.stream)
    base.execute(
        "INSERT INTO migration.accounted (relation, file, horizon) VALUES (%s, %s, %s)"
        " ON CONFLICT (relation) DO UPDATE SET file = excluded.file, horizon = excluded.horizon,"
        " accounted_at = clock_timestamp()",
        [plan.relation, file, horizon],
    )


def find_early(base: Connected, legacy: Connected, plan: CutoverPlan) -> tuple[str, ...] | None:
    """Rows of the legacy that no open week can take, in words; None before the gate of a cutover was ever passed.

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
        legacy.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(f"{int(_SECONDS * 1000)}ms")))
        found = [one.what for one in outside_of_legacy(legacy, plan, CutoverKind.CUTOVER, weeks, description)]
    archived = [(week, week.archive) for week in weeks.left if week.archive is not None]
    if sum(archive.native.rows for _, archive in archived) <= _ROWS:
        for week, archive in archived:
            if not is_unchanged(legacy, plan.stream, AsFound(week, archive.native, description, *known)):
                wrong = read_left(legacy, plan.stream, week).wrong
                found += [wrong] if wrong else []
    return tuple(found)
