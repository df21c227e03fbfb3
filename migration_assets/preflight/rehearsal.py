"""Rehearses the base's DDL: the real statements for one quarter, in a transaction that is always rolled back."""

import time

import psycopg
from psycopg import errors

from migration_assets.domain.errors import MigrationError
from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.domain.table_description import (
    TableDescription,
    collated_differences,
    column_differences,
    deferral_differences,
)
from migration_assets.domain.table_spec import quote_identifier
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.postgres.catalogue import describe_table
from migration_assets.postgres.retries import is_lock_timeout
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.preflight.plan import Subject
from migration_assets.preflight.probe import run_row_hash
from migration_assets.preflight.wording import (
    error_text,
    info,
    judge,
    listed,
)
from migration_assets.quarters.base_table import carried_indexes, require_root
from migration_assets.quarters.partitions import ensure_quarter

_LOCK_TIMEOUT = "500ms"
_REMEDIES: tuple[tuple[type[psycopg.Error], str], ...] = (
    (errors.InsufficientPrivilege, "grant the role what the message names, in the base"),
    (errors.UndefinedFunction, "create the function in the base: a default, check or index expression calls it"),
    (errors.UndefinedObject, "create in the base what the message names: type, operator class, collation or extension"),
    (errors.UndefinedTable, "create in the base what the message names: a default or expression uses it"),
    (errors.InvalidSchemaName, "create the schema in the base"),
    (errors.FeatureNotSupported, "upgrade the base: its version cannot do this on a partitioned table"),
)


def examine_base_table(base: Connected, subject: Subject) -> list[Finding]:
    """Whether a root that is there already fits."""
    root = describe_table(base, subject.spec.table)
    found = _examine_root(base, subject, root)
    if root is None:
        return [found]
    return [
        found,
        *(
            Finding("types_differ", Area.BASE, Severity.BLOCKING, one.what, one.remedy)
            for one in (
                *collated_differences(subject.description, root),
                *deferral_differences(subject.description, root),
            )
        ),
        *_missing_indexes(subject, root),
    ]


def _missing_indexes(subject: Subject, root: TableDescription) -> list[Finding]:
    """Made on the legacy since the root was: copies go on without them, and readiness blocks until they are there."""
    table, there = subject.spec.table, {index.tail for index in root.indexes}
    return [
        Finding(
            "base_indexes",
            Area.BASE,
            Severity.WARNING,
            f"index {index.name} of the legacy ({index.tail}) is not in the base",
            f"in the base, soon, while it has few rows: CREATE"
            f" {'UNIQUE ' if index.is_unique_with(subject.spec.control_column) else ''}INDEX"
            f" {quote_identifier(index.name)} ON {table} {index.tail};",
        )
        for index in carried_indexes(subject.description)
        if index.tail not in there
    ]


def _examine_root(base: Connected, subject: Subject, root: TableDescription | None) -> Finding:
    spec = subject.spec
    if root is None:
        return info("base_table", Area.BASE, f"{spec.table} does not exist in the base and will be made")
    differences = column_differences(subject.description, root)
    if differences:
        return judge(
            "base_table",
            Area.BASE,
            f"{spec.table} exists in the base and differs: " + "; ".join(differences),
            good=False,
            remedy="alter the base's table so that its columns match the legacy's, or drop it while it is empty",
        )
    try:
        require_root(base, root, subject.description, spec)
    except MigrationError as error:
        return judge(
            "base_table", Area.BASE, f"{spec.table} in the base: {error.what}", good=False, remedy=error.next_step
        )
    return info("base_table", Area.BASE, f"{spec.table} exists in the base, and its {len(root.columns)} columns match")


def rehearse(base: Connected, subject: Subject, quarter: FiscalQuarter) -> Finding:
    """Run `ensure_ledger` and `ensure_quarter`, and the row hash over the new root; then roll all of it back.

    All that outlives it are gaps in the ledger's sequence of lock keys, which no transaction takes back.
    """
    start = time.perf_counter()
    try:
        with base.transaction(force_rollback=True):
            base.execute("SELECT set_config('lock_timeout', %s, true)", [_LOCK_TIMEOUT])
            ensure_ledger(base)
            opened = ensure_quarter(base, subject.description, subject.spec, subject.calendar, quarter)
            run_row_hash(base, subject.description)
            indexes = _count_indexes(base, opened.leaves[0], subject)
    except MigrationError as error:
        return judge(
            "ddl_rehearsal", Area.BASE, error_text(error), good=False, remedy=error.next_step or "see evidence"
        )
    except psycopg.Error as error:
        if base.closed:
            raise  # the server is gone, which says nothing about the DDL
        return _failed(error, quarter)
    milliseconds = (time.perf_counter() - start) * 1000
    return info(
        "ddl_rehearsal",
        Area.BASE,
        f"{quarter.key}: {len(opened.leaves)} leaves ({len(opened.created)} of them new) with {indexes} indexes each"
        f" and {len(subject.description.types)} user types rehearsed and rolled back in {milliseconds:,.0f} ms",
    )


def not_rehearsed(codes: list[str]) -> Finding:
    """The finding where the rehearsal could only repeat what other findings say."""
    return judge(
        "ddl_rehearsal",
        Area.BASE,
        f"not rehearsed because of: {listed(codes)}",
        good=False,
        remedy="mend those findings, then run preflight again",
        severity=Severity.WARNING,
    )


def examine_legacy_hash(legacy: Connected, description: TableDescription) -> Finding:
    """Whether the legacy can run the row hash of the real columns (the rehearsal tries the base)."""
    try:
        run_row_hash(legacy, description)
    except psycopg.Error as error:
        if legacy.closed:
            raise
        return judge(
            "row_hash",
            Area.LEGACY,
            f"the legacy cannot hash a row: {error_text(error)}",
            good=False,
            remedy="grant what the message names; else report it with the table's definition",
        )
    return info("row_hash", Area.LEGACY, f"the hash of {len(description.columns)} columns runs")


def _failed(error: psycopg.Error, quarter: FiscalQuarter) -> Finding:
    if is_lock_timeout(error):
        return judge(
            "ddl_rehearsal",
            Area.BASE,
            f"{quarter.key}: somebody held a conflicting lock for more than {_LOCK_TIMEOUT}",
            good=False,
            remedy="run preflight again when no other run opens a quarter or changes the base's table",
            severity=Severity.WARNING,
        )
    remedy = next((text for kind, text in _REMEDIES if isinstance(error, kind)), "mend what the message says")
    return judge("ddl_rehearsal", Area.BASE, f"{quarter.key}: {error_text(error)}", good=False, remedy=remedy)


def _count_indexes(base: Connected, leaf: str, subject: Subject) -> int:
    row = base.execute(
        "SELECT count(*) FROM pg_indexes WHERE schemaname = %s AND tablename = %s", [subject.spec.table.schema, leaf]
    ).fetchone()
    return int(require_row(row, "a count of indexes")[0])
