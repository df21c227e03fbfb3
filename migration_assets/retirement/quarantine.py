"""A leaf's way out of the root and back: where it is, DETACH CONCURRENTLY, the quarantine schema, ATTACH.

Only catalogue queries and DDL belong here. The ledger's records of it are in `ledger/retirements.py`; the order of the
steps and the decisions are in `leaving.py`.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import psycopg
from psycopg import sql

from migration_assets.domain.errors import PartitionError, RetirementError
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.ledger.session_locks import ALIVE, session_lock
from migration_assets.postgres.activity import APPLICATION, COMMAND, shown
from migration_assets.postgres.catalogue import relation_oid
from migration_assets.postgres.own_schema import own_quarantine
from migration_assets.postgres.retries import is_lock_timeout
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected, require_row, set_limits
from migration_assets.postgres.sql_text import table_name
from migration_assets.quarters.partitions import attach

_SHORTEST_TRY_MS = 100
log = logging.getLogger(__name__)


class Place(StrEnum):
    """Where a leaf is. New queries of the root no longer see the rows of a leaf whose detach is pending."""

    ATTACHED = "attached"
    PENDING = "pending"
    LOOSE = "loose"
    QUARANTINED = "quarantined"
    GONE = "gone"


@dataclass(frozen=True)
class Leaf:
    """A leaf by its place in the root: its own name, its quarter's partition, its name in quarantine, its bounds."""

    table: QualifiedName
    quarter: QualifiedName
    quarantined: QualifiedName
    bounds: tuple[Any, Any]


def place_of(base: Connected, leaf: Leaf) -> Place:
    """Return where the leaf is; a table of its name in its own schema takes precedence over one in quarantine."""
    row = base.execute(
        "SELECT i.inhdetachpending FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " LEFT JOIN pg_inherits i ON i.inhrelid = c.oid WHERE n.nspname = %s AND c.relname = %s",
        [leaf.table.schema, leaf.table.name],
    ).fetchone()
    if row is None:
        return Place.GONE if relation_oid(base, leaf.quarantined) is None else Place.QUARANTINED
    if row[0] is None:
        return Place.LOOSE
    return Place.PENDING if row[0] else Place.ATTACHED


def detach_leaf(base: Connected, leaf: Leaf, *, patience_seconds: float, where: str) -> None:
    """Detach it without holding up readers or writers; finish what a dead run left pending. Safe to repeat.

    Args:
        base: In no transaction; its `lock_timeout` is changed.
        leaf: The leaf.
        patience_seconds: How long to wait for transactions that have used the quarter.
        where: The week, for the error.

    Raises:
        RetirementError: These transactions did not end in time; names them. The leaf may be pending, which a re-run
            finishes.
    """
    deadline = time.monotonic() + patience_seconds

    def late(_who: str = "") -> RetirementError:
        return RetirementError(
            f"transactions that have used {leaf.quarter} did not end within {patience_seconds:g} s. In the way:"
            f" {'; '.join(_in_the_way(base, leaf)) or 'nobody any more'}",
            where=where,
            state_left="its rows are in the base; a detach that has begun hides them from new queries of the root",
            next_step="let these transactions end (or end them: SELECT pg_terminate_backend(pid)), then run this again;"
            " or return the week into the root",
        )

    _wait_at_most(base, patience_seconds)
    try:
        # A quarter can have one pending leaf only: the holder of this lock finds none that a living run waits for.
        with session_lock(base, _lock_of(leaf.quarter), late):
            _patiently(base, deadline, lambda: _detach(base, leaf))
    except psycopg.OperationalError as error:
        if not is_lock_timeout(error):
            raise
        raise late() from None


def _wait_at_most(base: Connected, seconds: float) -> None:
    set_limits(base, lock=max(_SHORTEST_TRY_MS, seconds * 1000), whole_session=True)


def _detach(base: Connected, leaf: Leaf) -> None:
    quarter, name = table_name(leaf.quarter), table_name(leaf.table)
    place = place_of(base, leaf)
    if place is Place.ATTACHED:
        _finish_others(base, leaf)
        base.execute(sql.SQL("ALTER TABLE {} DETACH PARTITION {} CONCURRENTLY").format(quarter, name))
    elif place is Place.PENDING:
        base.execute(sql.SQL("ALTER TABLE {} DETACH PARTITION {} FINALIZE").format(quarter, name))


def _patiently(base: Connected, deadline: float, call: Callable[[], object]) -> None:
    """Make one long try instead of many short ones: nobody queues behind a DETACH that waits.

    The time that is left after a broken deadlock is used for another try.
    """
    while True:
        _wait_at_most(base, deadline - time.monotonic())
        try:
            call()
        except psycopg.OperationalError as error:
            if not is_lock_timeout(error) or time.monotonic() >= deadline:
                raise
            log.warning("a detach is tried again: %s", told(error))
        else:
            return


def _lock_of(quarter: QualifiedName) -> str:
    return f"detach {quarter}"


def _finish_others(base: Connected, leaf: Leaf) -> None:
    """Finish other pending leaves of the quarter that a dead run left: PostgreSQL allows one pending detach only."""
    for schema, name in base.execute(
        "SELECT n.nspname, c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE i.inhdetachpending AND i.inhparent = %s",
        [relation_oid(base, leaf.quarter)],
    ).fetchall():
        base.execute(
            sql.SQL("ALTER TABLE {} DETACH PARTITION {} FINALIZE").format(
                table_name(leaf.quarter), sql.Identifier(schema, name)
            )
        )


def _in_the_way(base: Connected, leaf: Leaf) -> Sequence[str]:
    """Sessions with a lock on the quarter or an older snapshot, the oldest first: FINALIZE waits for both."""
    rows = base.execute(
        sql.SQL(
            "SELECT coalesce('backend ' || a.pid, 'a prepared transaction'), coalesce(a.usename::text, '?'),"
            " {application}, coalesce(a.state, ''),"
            " extract(epoch FROM clock_timestamp() - a.xact_start)::float8, {command}"
            " FROM pg_stat_activity a FULL JOIN (SELECT DISTINCT pid FROM pg_locks WHERE granted"
            "   AND locktype = 'relation' AND relation = ANY(%s)"
            "   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            "   UNION SELECT pid FROM migration.session_locks k WHERE k.name = %s AND {alive}) k"
            " USING (pid) WHERE coalesce(a.pid, 0) <> pg_backend_pid()"
            " AND (k.pid IS NOT NULL OR a.pid IS NULL"
            "      OR (a.datname = current_database() AND a.backend_xmin IS NOT NULL))"
            " ORDER BY a.xact_start NULLS LAST LIMIT 5"
        ).format(application=APPLICATION, command=COMMAND, alive=ALIVE),
        [
            [oid for oid in (relation_oid(base, leaf.quarter), relation_oid(base, leaf.table)) if oid is not None],
            _lock_of(leaf.quarter),
        ],
    )
    return [shown(*row) for row in rows]


def lock_alone(base: Connected, table: QualifiedName) -> None:
    """Lock it against readers and writers until the caller's transaction ends; waits as long as the `lock_timeout`."""
    base.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(table_name(table)))


def make_quarantine(base: Connected) -> None:
    """Make the schema of quarantine, where it is missing; in no transaction."""
    # IF NOT EXISTS does not see a schema that another week is making at this moment, and fails over its name.
    with suppress(psycopg.errors.UniqueViolation, psycopg.errors.DuplicateSchema):
        base.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(own_quarantine(base))))


def move_to_quarantine(base: Connected, leaf: Leaf) -> None:
    """Move the leaf with its indexes from its own schema into quarantine; in a transaction.

    Raises:
        RetirementError: A relation of its name is there already.
    """
    _move(base, leaf.table, leaf.quarantined.schema)


def take_from_quarantine(base: Connected, leaf: Leaf) -> None:
    """Move the leaf back into its own schema; in a transaction.

    Raises:
        RetirementError: A relation of its name is there already.
    """
    _move(base, leaf.quarantined, leaf.table.schema)


def _move(base: Connected, table: QualifiedName, schema: str) -> None:
    try:
        base.execute(sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(table_name(table), sql.Identifier(schema)))
    except psycopg.errors.DuplicateTable as error:
        raise RetirementError(
            f"it cannot move to schema {schema}: {told(error)}",
            where=str(table),
            state_left="it was rolled back; its rows are where they were",
            next_step="look at what is there; rename or drop it, then run this again",
        ) from error


def attach_again(base: Connected, leaf: Leaf) -> None:
    """Attach the leaf without a scan and with its indexes; in a transaction, with a short `lock_timeout`.

    Raises:
        PartitionError: The root has other indexes than the leaf.
    """
    before = _indexes(base, leaf.table)[0]
    # DETACH CONCURRENTLY left a CHECK with the partition's bounds, which lets ATTACH skip the scan.
    attach(base, leaf.quarter, leaf.table, leaf.bounds)
    for (name,) in base.execute(
        "SELECT conname FROM pg_constraint WHERE conrelid = %(leaf)s AND contype = 'c' AND conislocal"
        " AND coninhcount = 0 AND pg_get_expr(conbin, conrelid) = pg_get_partition_constraintdef(%(leaf)s)",
        {"leaf": relation_oid(base, leaf.table)},
    ).fetchall():
        base.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(table_name(leaf.table), sql.Identifier(name)))
    after, loose = _indexes(base, leaf.table)
    if after != before or loose:
        raise PartitionError(
            f"the leaf has {before} indexes, and {after} with those of the root; {loose} exist on the leaf alone:"
            " the root's indexes were changed since it left",
            where=str(leaf.table),
            state_left="it was rolled back; the leaf is where it was",
            next_step="create the same indexes on the leaf (or drop those the root no longer has), then run this again",
        )


def _indexes(base: Connected, table: QualifiedName) -> tuple[int, int]:
    """How many indexes the leaf has, and how many of them belong to no index of the root."""
    row = base.execute(
        "SELECT count(*), count(*) FILTER (WHERE NOT c.relispartition) FROM pg_index i"
        " JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = %s",
        [relation_oid(base, table)],
    ).fetchone()
    count, loose = require_row(row, "the indexes of a leaf")
    return int(count), int(loose)


def drop_quarantined(base: Connected, leaf: Leaf) -> None:
    """Drop the leaf; in the transaction that notes it."""
    base.execute(sql.SQL("DROP TABLE {}").format(table_name(leaf.quarantined)))


def size_of(base: Connected, table: QualifiedName) -> int:
    """Return the size of the table with its indexes in bytes; 0 if it is gone."""
    row = base.execute("SELECT coalesce(pg_total_relation_size(%s), 0)", [relation_oid(base, table)]).fetchone()
    return int(require_row(row, "the size of a table")[0])
