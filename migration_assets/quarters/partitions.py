"""Creates and attaches the base's partitions: a quarter with its 13 empty leaves, or one loaded leaf."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import errors, sql

from migration_assets.domain.errors import PartitionError
from migration_assets.domain.fiscal_calendar import ControlKind, FiscalCalendar, FiscalQuarter, FiscalWeek
from migration_assets.domain.states import SliceState
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import QualifiedName, TableSpec, leaf_name, quarter_table_name
from migration_assets.ledger.session_locks import take_turn_at_partitions
from migration_assets.ledger.slices import read_slices, register_slices
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import table_name
from migration_assets.quarters.base_table import ensure_root, give_identity, like_root
from migration_assets.quarters.fences import follow_root

# Every step that makes or changes partitions of the root holds it for its short transaction.


@dataclass(frozen=True)
class OpenedQuarter:
    """A quarter that is open: its partition, its leaves, and in `created` the leaves that were made now."""

    quarter: FiscalQuarter
    table: QualifiedName
    leaves: tuple[str, ...]
    created: tuple[str, ...]


def ensure_quarter(
    connection: Connected, legacy: TableDescription, spec: TableSpec, calendar: FiscalCalendar, quarter: FiscalQuarter
) -> OpenedQuarter:
    """Make the quarter's partition, its 13 empty leaves and their ledger rows, in one transaction; safe to repeat.

    No lock that it takes blocks readers or writers of the base. A new quarter becomes visible with the commit.

    Raises:
        PartitionError: An existing partition has other bounds than the calendar's, or overlaps.
        psycopg.errors.LockNotAvailable: Others hold a conflicting lock; nothing was changed, and it may be tried again.
    """
    kind = legacy.control_kind(spec.control_column)
    table = spec.table.sibling(quarter_table_name(spec.table.name, quarter))
    weeks = calendar.weeks_of(quarter)
    try:
        with connection.transaction():
            take_turn_at_partitions(connection)
            root = ensure_root(connection, legacy, spec)
            bounds = {week: bound_texts(connection, calendar.bound_values(week, kind)) for week in weeks}
            register_slices(
                connection,
                spec.relation,
                [(week, leaf_name(spec.table.name, week), *bounds[week]) for week in weeks],
            )
            _require_bounds(connection, spec, quarter, bounds)
            created = _make(connection, root, spec, calendar, quarter, kind)
    except errors.InvalidObjectDefinition as error:  # "partition … would overlap partition …"
        raise PartitionError(
            f"cannot open {quarter.key}: {told(error)}",
            where=str(table),
            state_left="nothing was changed",
            next_step="the fiscal calendar's settings differ from those the base was partitioned with: set them back",
        ) from error
    return OpenedQuarter(quarter, table, tuple(leaf_name(spec.table.name, week) for week in weeks), tuple(created))


def _make(
    connection: Connected,
    root: TableDescription,
    spec: TableSpec,
    calendar: FiscalCalendar,
    quarter: FiscalQuarter,
    kind: ControlKind,
) -> list[str]:
    table = spec.table.sibling(quarter_table_name(spec.table.name, quarter))
    retired = {
        record.week for record in read_slices(connection, spec.relation, quarter) if record.state is SliceState.RETIRED
    }
    parent = attached_to(connection, table)
    if parent is None:
        connection.execute(
            sql.SQL("CREATE TABLE {} ({}) PARTITION BY RANGE ({})").format(
                table_name(table), like_root(spec), sql.Identifier(spec.control_column)
            )
        )
        # Before its leaves are made: ATTACH gives the root's identity columns to the quarter only, not to leaves that
        # it already has; and a quarter with identity columns that its leaves lack cannot be detached any more.
        attach(connection, spec.table, table, calendar.bound_values(quarter, kind))
    else:
        # Keeps out swaps: a leaf that is swapped between two catalogue queries would seem to have no bounds.
        # Readers and writers of rows are not blocked; a swap takes milliseconds.
        connection.execute(sql.SQL("LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE").format(table_name(table)))
        _require_partition(connection, table, spec.table, calendar.bound_values(quarter, kind))
    created: list[str] = []
    for week in calendar.weeks_of(quarter):
        leaf = spec.table.sibling(leaf_name(spec.table.name, week))
        if week in retired:
            continue
        if parent is not None and attached_to(connection, leaf) is not None:
            _require_partition(connection, leaf, table, calendar.bound_values(week, kind))
            continue
        if parent is None:
            # No other session sees the quarter yet, so the strong lock that PARTITION OF takes on it blocks none.
            connection.execute(
                sql.SQL("CREATE TABLE {} PARTITION OF {} {}").format(
                    table_name(leaf), table_name(table), for_values(calendar.bound_values(week, kind))
                )
            )
            follow_root(connection, leaf)
        else:
            connection.execute(sql.SQL("CREATE TABLE {} ({})").format(table_name(leaf), like_root(spec)))
            attach(connection, table, leaf, calendar.bound_values(week, kind))
        give_identity(connection, leaf, root.primary_key_deferral)
        created.append(leaf.name)
    return created


def attach(connection: Connected, parent: QualifiedName, child: QualifiedName, bounds: Sequence[Any]) -> None:
    """Attach a partition and fence it like the root. The parent's lock (SHARE UPDATE EXCLUSIVE) lets writes go on."""
    connection.execute(
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} {}").format(
            table_name(parent), table_name(child), for_values(bounds)
        )
    )
    follow_root(connection, child)


def for_values(bounds: Sequence[Any]) -> sql.Composed:
    """FOR VALUES FROM (lower) TO (upper); DDL takes no parameters, so both are literals."""
    lower, upper = bounds
    return sql.SQL("FOR VALUES FROM ({}) TO ({})").format(sql.Literal(lower), sql.Literal(upper))


def attached_to(connection: Connected, table: QualifiedName) -> QualifiedName | None:
    """The parent of a partition; None where the table does not exist.

    Raises:
        PartitionError: A table of that name exists and is not a partition.
    """
    row = connection.execute(
        "SELECT pn.nspname, p.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " LEFT JOIN pg_inherits i ON i.inhrelid = c.oid LEFT JOIN pg_class p ON p.oid = i.inhparent"
        " LEFT JOIN pg_namespace pn ON pn.oid = p.relnamespace WHERE n.nspname = %s AND c.relname = %s",
        [table.schema, table.name],
    ).fetchone()
    if row is None:
        return None
    if row[0] is None:
        raise PartitionError(
            "a table of this name exists and is not a partition",
            where=str(table),
            state_left="nothing was changed",
            next_step="look at what it holds. Attach a leaf again that was detached by hand (the alert leaf_missing has"
            " the statement), rename any other table; then run this again",
        )
    return QualifiedName(row[0], row[1])


def bound_texts(connection: Connected, bounds: Sequence[Any]) -> tuple[str, str]:
    """Both bounds as the server writes them, e.g. `2024-04-01 00:00:00+00`."""
    row = connection.execute(
        sql.SQL("SELECT {}::text, {}::text").format(sql.Literal(bounds[0]), sql.Literal(bounds[1]))
    ).fetchone()
    lower, upper = require_row(row, "the text of two bounds")
    return str(lower), str(upper)


def _require_partition(
    connection: Connected, table: QualifiedName, parent: QualifiedName, bounds: Sequence[Any]
) -> None:
    actual_parent = attached_to(connection, table)
    if actual_parent != parent:
        raise PartitionError(
            f"it is a partition of {actual_parent}, not of {parent}",
            where=str(table),
            state_left="nothing was changed",
            next_step="look at what it holds; attach it where it belongs or rename it, then run this again",
        )
    row = connection.execute(
        "SELECT pg_get_expr(c.relpartbound, c.oid), format('FOR VALUES FROM (%%L) TO (%%L)', %s::text, %s::text)"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
        [*bound_texts(connection, bounds), table.schema, table.name],
    ).fetchone()
    actual, expected = require_row(row, "the bounds of a partition")
    if actual != expected:
        raise PartitionError(
            f"the partition's bounds are {actual}, the calendar's are {expected}",
            where=str(table),
            state_left="nothing was changed",
            next_step="set MIGRATION_FISCAL_* back to what the base was partitioned with",
        )


def _require_bounds(
    connection: Connected, spec: TableSpec, quarter: FiscalQuarter, bounds: dict[FiscalWeek, tuple[str, str]]
) -> None:
    for record in read_slices(connection, spec.relation, quarter):
        if (record.lower_bound, record.upper_bound) != bounds[record.week]:
            raise PartitionError(
                f"the ledger has bounds {record.lower_bound} .. {record.upper_bound},"
                f" the calendar says {' .. '.join(bounds[record.week])}",
                where=record.week.key,
                state_left="nothing was changed",
                next_step="set MIGRATION_FISCAL_* back to what the base was partitioned with",
            )
