"""Brings an archived slice back from its Parquet files, as an attached leaf, or only proves that it could come back.

The archive's columns are matched with those that the table has now.
"""

import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import psycopg
from psycopg import sql

from migration_assets.archive.archiving import archive_store, reread_archive
from migration_assets.archive.columns import StoredColumn, stored_columns
from migration_assets.archive.sql_values import csv_chunks
from migration_assets.archive.verification import slice_relation
from migration_assets.copying.loading import place_leaf
from migration_assets.copying.throttle import CopyLimits
from migration_assets.domain.errors import RestoreError, SliceStateError
from migration_assets.domain.evidence_chain import ChainKind
from migration_assets.domain.fingerprint import METHOD, Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalWeek
from migration_assets.domain.states import SliceState, require_slice_transition
from migration_assets.domain.table_description import Column, TableDescription
from migration_assets.domain.table_spec import QualifiedName, TableSpec, quarter_table_name
from migration_assets.ledger.archives import ArchiveRecord, note_leaf_of_archive, require_archive
from migration_assets.ledger.chain import append_row
from migration_assets.ledger.retirements import read_retirement
from migration_assets.ledger.slices import (
    SliceRecord,
    begin_attempt,
    end_attempt,
    note_failure,
    require_slice,
    slice_lock,
)
from migration_assets.ledger.steps import run_step
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.fingerprints import in_range, take_fingerprint
from migration_assets.postgres.own_schema import own_schema
from migration_assets.postgres.retries import retry_locked
from migration_assets.postgres.server_messages import named, told
from migration_assets.postgres.sessions import Connected, Databases, announce, require_row, set_limits
from migration_assets.postgres.sql_text import table_name
from migration_assets.quarters.base_table import add_keys_and_indexes, like_root
from migration_assets.runtime import Migration


def loadable_columns(week: FiscalWeek, columns: Sequence[StoredColumn], root: TableDescription) -> list[StoredColumn]:
    """The columns that a COPY carries; columns that the table has got since get their defaults.

    Raises:
        RestoreError: A column is gone, has another type, lost a label, or has become generated.
    """
    there = {column.name: column for column in root.columns}
    labels = {column.name: column.labels for column in stored_columns(root)}
    problems: list[str] = []
    for column in columns:
        now = there.get(column.name)
        if now is None:
            problems.append(f"column {column.name} is gone")
        elif now.type_name != column.type_name:
            problems.append(f"column {column.name} was {column.type_name} and is {now.type_name}")
        elif now.is_generated != column.generated:
            problems.append(f"column {column.name} is generated on one side only")
        elif lost := [label for label in column.labels if label not in labels[column.name]]:
            named = ", ".join(map(repr, lost))
            problems.append(f"column {column.name} has a type ({column.type_name}) that lost the label {named}")
    if problems:
        raise RestoreError(
            "the table has changed since the slice was archived: " + "; ".join(problems),
            where=week.key,
            state_left="nothing was changed; the archive can still be queried",
            next_step="change the table, or the type (ALTER TYPE ... RENAME VALUE), back, restore, and change it again;"
            " or query the archive as it is",
        )
    return [column for column in columns if not column.generated]


def as_hashed(columns: Sequence[StoredColumn]) -> tuple[Column, ...]:
    """The columns for the native fingerprint of the archived rows."""
    return tuple(
        Column(
            name=column.name,
            type_name=column.type_name,
            not_null=column.not_null,
            hashing=column.hashing,
            binary_copy=True,
            send_function=column.send_function,
        )
        for column in columns
    )


Kind = Literal["restore", "drill"]
_COLUMN = re.compile(r"^COPY .*, column ([^:]+)", re.MULTILINE)


@dataclass(frozen=True)
class Restoration:
    """What is to be restored, and for which run.

    Attributes:
        spec: The table.
        calendar: Gives the slice's bounds.
        week: The slice.
        columns: The columns as the archive keeps them.
        chunks: Produces the archive's rows as CSV of all columns that are not generated; called once a try.
        limits: Timeouts and patience.
        now: The current time by the settings' clock, kept as the time of the restore.
        run_id: Recorded in the ledger.
    """

    spec: TableSpec
    calendar: FiscalCalendar
    week: FiscalWeek
    columns: Sequence[StoredColumn]
    chunks: Callable[[], Iterable[bytes]]
    limits: CopyLimits
    now: datetime
    run_id: str | None = None


@dataclass(frozen=True)
class Restored:
    """A slice that came back, equal to what was archived."""

    week: FiscalWeek
    archive: ArchiveRecord
    fingerprint: Fingerprint
    seconds: float


def restore_slice(databases: Databases, plan: Restoration) -> Restored:
    """Load the archive's rows into a new leaf, prove it by its native fingerprint, and attach it: all or nothing.

    The slice is then `archived` and not covered by the change stream: `change_stream` takes it in again.

    Raises:
        SliceStateError: The slice has not left the base.
        ArchiveError: There is no archive.
        RestoreError: The table was changed too much since, or the loaded rows are not what was archived.
        SliceBusyError: Another step works on the slice.
    """
    return _load_back(databases, plan, "restore")


def drill_restore(databases: Databases, plan: Restoration) -> Restored:
    """Load into a scratch table, compare, and roll back; the base stays as it is.

    Raises:
        ArchiveError, RestoreError: As `restore_slice`; the latter is kept in the ledger.
        SliceBusyError: Another step works on the slice.
    """
    return _load_back(databases, plan, "drill")


def _load_back(databases: Databases, plan: Restoration, kind: Kind) -> Restored:
    with (
        databases.session("base", f"{plan.week.key}:{kind}", plan.limits.timeouts()) as base,
        slice_lock(base, require_slice(base, plan.spec.relation, plan.week)) as record,
    ):
        if kind == "restore":
            require_slice_transition(record.state, SliceState.ARCHIVED, where=plan.week.key)
            if record.state is not SliceState.RETIRED:
                raise SliceStateError(
                    f"the slice is {record.state}: it is in the base",
                    where=plan.week.key,
                    state_left="nothing was touched",
                    next_step="restore only weeks that were retired; a drill works at any time",
                )
            _require_gone(base, plan)
        archive = require_archive(base, plan.spec.relation, plan.week)
        _require_comparable(plan, archive)
        attempt = begin_attempt(base, record, "restore", plan.run_id)
        started = time.monotonic()
        try:
            found = _load_and_place(base, plan, record, archive, attempt, kind, started)
        except BaseException as error:
            note_failure(base, attempt, error)
            if kind == "drill" and isinstance(error, (RestoreError, psycopg.Error)):
                seconds = time.monotonic() - started
                _note(base, plan, archive, kind, rows=0, seconds=seconds, error=named(error))
            raise
        if kind == "restore":
            base.execute(sql.SQL("ANALYZE {}").format(table_name(plan.spec.table.sibling(record.leaf))))
        return Restored(plan.week, archive, found, time.monotonic() - started)


def _load_and_place(
    base: Connected,
    plan: Restoration,
    record: SliceRecord,
    archive: ArchiveRecord,
    attempt: int,
    kind: Kind,
    started: float,
) -> Fingerprint:
    root = require_table(base, plan.spec.table, "base")
    columns = loadable_columns(plan.week, plan.columns, root)
    bounds = plan.calendar.bound_values(plan.week, root.control_kind(plan.spec.control_column))
    staging = QualifiedName(own_schema(base), record.leaf)
    with ExitStack() as stack:
        stack.enter_context(base.transaction(force_rollback=kind == "drill"))
        base.execute("SET LOCAL max_parallel_maintenance_workers = 0")
        base.execute(
            sql.SQL("CREATE TABLE {} ({}, CONSTRAINT slice_bounds CHECK ({} AND {} IS NOT NULL))").format(
                table_name(staging),
                like_root(plan.spec),
                in_range(plan.spec.control_column, bounds),
                sql.Identifier(plan.spec.control_column),
            )
        )
        announce(base, f"{plan.week.key}:{kind}")
        names = sql.SQL(", ").join(sql.Identifier(column.name) for column in columns)
        copy = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv, FREEZE)").format(table_name(staging), names)
        try:
            with base.cursor().copy(copy) as sink:
                for chunk in plan.chunks():
                    sink.write(chunk)
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            raise _not_taken(plan, error) from error
        indexes = add_keys_and_indexes(base, staging, root, plan.spec)
        found = take_fingerprint(base, staging, as_hashed(plan.columns))
        _require_equal(plan, archive, found)
        if kind == "restore":
            _place(base, plan, record, staging, bounds, indexes)
            note_leaf_of_archive(base, archive.id, plan.spec.table, record.leaf)
            base.execute(
                "UPDATE migration.slices SET state = 'archived', updated_at = clock_timestamp() WHERE lock_key = %s",
                [record.lock_key],
            )
            _note(base, plan, archive, kind, rows=found.rows, seconds=time.monotonic() - started)
            end_attempt(base, attempt, "succeeded", base=found)
    if kind == "drill":
        with base.transaction():
            _note(base, plan, archive, kind, rows=found.rows, seconds=time.monotonic() - started)
            end_attempt(base, attempt, "succeeded", base=found)
    return found


def _place(
    base: Connected,
    plan: Restoration,
    record: SliceRecord,
    staging: QualifiedName,
    bounds: tuple[Any, Any],
    indexes: int,
) -> None:
    parent = plan.spec.table.sibling(quarter_table_name(plan.spec.table.name, plan.week.quarter))
    leaf = plan.spec.table.sibling(record.leaf)

    def place() -> None:
        with base.transaction():  # a savepoint
            set_limits(base, lock=plan.limits.lock_timeout_ms)
            place_leaf(base, staging, leaf, parent=parent, bounds=bounds, indexes=indexes)

    retry_locked(place, patience_seconds=plan.limits.lock_patience_seconds)


def _require_gone(base: Connected, plan: Restoration) -> None:
    """Refuse where the rows are still in the base: they are taken back, not loaded a second time."""
    retirement = read_retirement(base, plan.spec.relation, plan.week)
    if retirement is not None and retirement.under_way:
        raise RestoreError(
            f"its rows are still in the base: its retirement is {retirement.step}",
            where=plan.week.key,
            state_left="nothing was touched",
            next_step="take the leaf back with `migration-assets restore` or the asset restored_slice",
        )


def _require_comparable(plan: Restoration, archive: ArchiveRecord) -> None:
    if archive.method != METHOD:
        raise RestoreError(
            f"its fingerprint was taken by method {archive.method}, this program's is {METHOD}",
            where=plan.week.key,
            state_left="nothing was touched",
            next_step="restore it with the version of this program that archived it",
        )


def _not_taken(plan: Restoration, error: psycopg.Error) -> RestoreError:
    """Refuse where a type has the same name and another meaning now: a domain, a composite, an enum."""
    found = _COLUMN.search(error.diag.context or "")
    return RestoreError(
        f"PostgreSQL does not accept the archived rows: {told(error)}",
        where=f"{plan.week.key}{f', column {found[1]}' if found else ''}",
        state_left="everything was rolled back; the base and the archive are as before",
        next_step="a type or a condition was changed since: change it back, restore, and change it again; or query the"
        " archive as it is",
    )


def _require_equal(plan: Restoration, archive: ArchiveRecord, found: Fingerprint) -> None:
    if found != archive.native:
        raise RestoreError(
            f"what came back is not what was archived. Archived: {archive.native}. Restored: {found}",
            where=plan.week.key,
            state_left="everything was rolled back; the base and the archive are as before",
            next_step="run the job verify_archives for this week, and report this: the files were proven equal",
        )


def _note(
    base: Connected,
    plan: Restoration,
    archive: ArchiveRecord,
    kind: Kind,
    *,
    rows: int,
    seconds: float,
    error: str | None = None,
) -> None:
    with base.transaction():
        row = base.execute(
            "INSERT INTO migration.restores (relation, quarter, week, archive_id, kind, rows, equal, error, seconds,"
            " run_id, restored_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING id",
            [plan.spec.relation, plan.week.quarter.key, plan.week.name, archive.id, kind, rows, error is None, error,
             seconds, plan.run_id, plan.now],
        ).fetchone()  # fmt: skip
        append_row(base, plan.spec.relation, ChainKind.RESTORE, int(require_row(row, "a new restore")[0]))


log = logging.getLogger(__name__)


def restore_week(migration: Migration, week: FiscalWeek, *, run_id: str | None = None) -> Restored:
    """Bring a retired week back from its archive, proven equal; see `restore_slice`.

    Raises:
        ArchiveError: The archive is not what was proven; nothing was restored.
        RestoreError: The loaded rows are not what was archived.
    """
    return _restore(migration, week, run_id, restore_slice)


def drill_week(migration: Migration, week: FiscalWeek, *, run_id: str | None = None) -> Restored:
    """Restore the week into a scratch table, compare, and drop it; see `drill_restore`."""
    return _restore(migration, week, run_id, drill_restore)


def _restore(
    migration: Migration,
    week: FiscalWeek,
    run_id: str | None,
    restore: Callable[..., Restored],
) -> Restored:
    manifest = reread_archive(migration, week, run_id=run_id).manifest
    store = archive_store(migration)
    with store.connect_duckdb() as duck:
        plan = Restoration(
            spec=migration.spec,
            calendar=migration.calendar,
            week=week,
            columns=manifest.columns,
            chunks=lambda: csv_chunks(duck, slice_relation(store, manifest), manifest.columns),
            limits=CopyLimits.of(migration.settings),
            now=migration.now(),
            run_id=run_id,
        )
        return run_step(migration, f"restore of {week.key}", lambda: restore(migration.databases, plan))
