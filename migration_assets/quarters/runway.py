"""Reads the base's partitions from the catalogue and compares them with the ledger: runway and lost leaves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.domain.runway import Places
from migration_assets.domain.samples import Drift, ProblemCode
from migration_assets.domain.states import SliceState, require_slice_transition
from migration_assets.domain.table_spec import QualifiedName, TableSpec, parse_leaf_name, quarter_table_name
from migration_assets.ledger.charge import is_base_in_charge
from migration_assets.ledger.slices import SliceRecord, read_slices
from migration_assets.ledger.stream import read_stream
from migration_assets.postgres.sessions import Connected

LEAF_LEVEL = 2

# Straight from the catalogue: pg_partition_tree would wait for a session that has a partition locked. What is being
# detached is an entry still, and takes no row any more.
_TREE = """
WITH RECURSIVE tree AS (
    SELECT i.inhrelid, i.inhparent, 1 AS level, i.inhdetachpending, NOT i.inhdetachpending AS reached
    FROM pg_inherits i WHERE i.inhparent = to_regclass(%s)
    UNION ALL
    SELECT i.inhrelid, i.inhparent, t.level + 1, i.inhdetachpending, t.reached AND NOT i.inhdetachpending
    FROM pg_inherits i JOIN tree t ON t.inhrelid = i.inhparent
)
SELECT n.nspname, c.relname, pn.nspname, p.relname, t.level, coalesce(pg_get_expr(c.relpartbound, c.oid), ''),
       t.inhdetachpending, t.reached, c.relpersistence <> 'p'
FROM tree t JOIN pg_class c ON c.oid = t.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class p ON p.oid = t.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
ORDER BY t.level, n.nspname, c.relname
"""


@dataclass(frozen=True)
class Partition:
    """One partition below the root.

    Attributes:
        table: Its name.
        parent: What it is a partition of.
        level: 1 for a quarter, 2 for a leaf.
        bounds: As the server writes them: `FOR VALUES FROM (…) TO (…)`, or `DEFAULT`.
        detaching: Whether a concurrent detach of it was begun and not finished.
        reached: Whether it gets rows: neither it nor its parent is being detached.
        unlogged: Whether it is UNLOGGED: a crash empties it, and no stream carries its changes. PostgreSQL prevents
            that only where a publication names the leaf itself.
    """

    table: QualifiedName
    parent: QualifiedName
    level: int
    bounds: str
    detaching: bool
    reached: bool
    unlogged: bool = False


def read_partitions(base: Connected, root: QualifiedName) -> list[Partition]:
    """Read all partitions of the root, quarters first; none where there is no root. Waits for no lock."""
    return [
        Partition(QualifiedName(*row[:2]), QualifiedName(*row[2:4]), *row[4:])
        for row in base.execute(_TREE, [str(root)])
    ]


def attached_leaves(root: QualifiedName, partitions: Sequence[Partition]) -> frozenset[FiscalWeek]:
    """The weeks whose leaf gets rows, by the leaf's name; leaves in another schema than the root's do not count."""
    names = [
        one.table.name
        for one in partitions
        if one.level == LEAF_LEVEL and one.reached and one.table.schema == root.schema
    ]
    weeks = (parse_leaf_name(root.name, name) for name in names)
    return frozenset(week for week in weeks if week is not None)


def read_places(base: Connected, spec: TableSpec) -> Places:
    """Read which weeks have a leaf, and which of them are under CDC. The ledger must exist.

    `under_cdc` is None where there is no stream or the base is in charge: a week then needs nothing but its leaf.
    """
    records = read_slices(base, spec.relation)
    streamed = read_stream(base, spec.relation) is not None and not is_base_in_charge(base, spec.relation)
    return Places(
        attached=attached_leaves(spec.table, read_partitions(base, spec.table)),
        under_cdc=frozenset(record.week for record in records if record.under_cdc) if streamed else None,
        settled=frozenset(record.week for record in records if is_settled(record)),
    )


def is_settled(record: SliceRecord) -> bool:
    """Whether the week has left the base, or is on its way out: not to be opened or joined by itself."""
    return record.state is SliceState.RETIRED or record.released is not None


def missing_leaves(base: Connected, spec: TableSpec) -> tuple[Drift, ...]:
    """Find weeks under CDC without a leaf. The apply worker fails at the first change to one, again and again.

    The ledger is read before the catalogue: a week gets its leaf before it comes under CDC, and loses it afterwards.
    """
    records = [record for record in read_slices(base, spec.relation) if record.under_cdc]
    return tuple(Drift(ProblemCode.LEAF_MISSING, what) for what in _lost(base, spec, records, "is under CDC"))


def lost_leaves(base: Connected, spec: TableSpec) -> tuple[str, ...]:
    """Find, on a base in charge, weeks that should have a leaf and have none, so that their rows cannot be read.

    UNLOGGED leaves are included: the next crash empties them, and the reverse stream does not carry their changes.
    """
    records = [record for record in read_slices(base, spec.relation) if not is_settled(record)]
    unlogged = (
        f"{one.table} is UNLOGGED: a crash empties it, and its changes do not reach the legacy: ALTER TABLE"
        f" {one.table} SET LOGGED; then `migration-assets repair-legacy` over its week"
        for one in read_partitions(base, spec.table)
        if one.unlogged
    )
    return (*_lost(base, spec, records, "has not left the base"), *unlogged)


def _lost(base: Connected, spec: TableSpec, records: Sequence[SliceRecord], why: str) -> Iterator[str]:
    partitions = {one.table: one for one in read_partitions(base, spec.table)}
    lost = [record for record in records if not _is_reached(partitions, spec.table.sibling(record.leaf))]
    loose = _loose_tables(base, spec.table.schema, lost, spec)
    return _losses(spec, records, lost, partitions, frozenset(loose), why)


def _is_reached(partitions: dict[QualifiedName, Partition], table: QualifiedName) -> bool:
    found = partitions.get(table)
    return found is not None and found.reached


def _loose_tables(base: Connected, schema: str, lost: Sequence[SliceRecord], spec: TableSpec) -> list[str]:
    names = {record.leaf for record in lost} | {_quarter_table(spec, record.week.quarter).name for record in lost}
    rows = base.execute(
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = ANY(%s) AND NOT c.relispartition",
        [schema, list(names)],
    )
    return [str(row[0]) for row in rows]


def _losses(
    spec: TableSpec,
    records: Sequence[SliceRecord],
    lost: Sequence[SliceRecord],
    partitions: dict[QualifiedName, Partition],
    loose: frozenset[str],
    why: str,
) -> Iterator[str]:
    for quarter in dict.fromkeys(record.week.quarter for record in lost):
        weeks = [record for record in lost if record.week.quarter == quarter]
        parent = _quarter_table(spec, quarter)
        if not _is_reached(partitions, parent):
            whole = [record for record in records if record.week.quarter == quarter]
            bounds = whole[0].lower_bound, whole[-1].upper_bound
            state = _state(parent, spec.table, bounds, partitions, loose)
            yield f"{quarter.key} {why}, and its partition {parent} {state}"
            continue
        for record in weeks:
            leaf = spec.table.sibling(record.leaf)
            state = _state(leaf, parent, (record.lower_bound, record.upper_bound), partitions, loose)
            yield f"{record.week.key} {why}, and its leaf {leaf} {state}"


def _state(
    table: QualifiedName,
    parent: QualifiedName,
    bounds: tuple[str, str],
    partitions: dict[QualifiedName, Partition],
    loose: frozenset[str],
) -> str:
    attach = f"ALTER TABLE {parent} ATTACH PARTITION {table} FOR VALUES FROM ('{bounds[0]}') TO ('{bounds[1]}');"
    if table in partitions:
        return f"is being detached: ALTER TABLE {parent} DETACH PARTITION {table} FINALIZE; {attach}"
    return f"was detached: {attach}" if table.name in loose else "is gone"


def _quarter_table(spec: TableSpec, quarter: FiscalQuarter) -> QualifiedName:
    return spec.table.sibling(quarter_table_name(spec.table.name, quarter))


def note_lost_rows(
    base: Connected, spec: TableSpec, quarter: FiscalQuarter, made: Sequence[str]
) -> tuple[FiscalWeek, ...]:
    """Note in the ledger that weeks under CDC, whose leaves were just made, lost their rows and are not equal.

    Args:
        base: In the transaction that made the leaves.
        spec: The table.
        quarter: The leaves' quarter.
        made: The leaves' names.

    Returns:
        The weeks that were under CDC.
    """
    lost = [record for record in read_slices(base, spec.relation, quarter) if record.under_cdc and record.leaf in made]
    for record in lost:
        if record.state is not SliceState.STREAMING:
            require_slice_transition(record.state, SliceState.STREAMING, where=record.week.key)
        base.execute(
            "UPDATE migration.slices SET state = %s, validated_equal = false, changed_at = statement_timestamp(),"
            " updated_at = clock_timestamp() WHERE lock_key = %s",
            [SliceState.STREAMING, record.lock_key],
        )
    return tuple(record.week for record in lost)
