"""Examines the table as the legacy's catalogue describes it, and rehearses the base's DDL."""

import time

import psycopg
from psycopg import errors

from migration_assets.domain.errors import MigrationError, TableSpecError
from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.domain.table_description import (
    TableDescription,
    collated_differences,
    column_differences,
    deferral_differences,
)
from migration_assets.domain.table_spec import QualifiedName, TableSpec, quote_identifier
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.postgres.catalogue import describe_table
from migration_assets.postgres.retries import is_lock_timeout
from migration_assets.postgres.sessions import Connected, require_row, set_limits
from migration_assets.preflight.meaning import run_row_hash
from migration_assets.preflight.plan import Subject, error_text, info, judge, listed
from migration_assets.quarters.base_table import carried_indexes, require_root
from migration_assets.quarters.partitions import ensure_quarter

_KINDS = {
    "r": "an ordinary table",
    "p": "a partitioned table",
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "c": "a composite type",
    "i": "an index",
    "I": "a partitioned index",
}
_IDENTITY_ON_PARTITIONED = 17
_FINDS_BY_ANY_INDEX = 16


def examine_kind(description: TableDescription) -> Finding:
    """Require an ordinary table: only it has rows of its own that can be published by ranges."""
    kind = _KINDS.get(description.kind, f"of kind {description.kind!r}")
    remedy = (
        "it is partitioned already: set MIGRATION_TABLE to one of its partitions, or migrate it by other means"
        if description.kind == "p"
        else "set MIGRATION_TABLE to the ordinary table that holds the rows"
    )
    return judge("table", Area.TABLE, f"{description.table} is {kind}", good=description.kind == "r", remedy=remedy)


def examine_table(description: TableDescription, spec: TableSpec, base_major: int | None) -> list[Finding]:
    """Examine everything that the catalogue alone can tell; reads no row."""
    return [
        _primary_key(description, spec),
        *examine_control_column(description, spec),
        *_deferrable(description, base_major),
        *_indexes(description, spec),
        *_columns(description, base_major),
    ]


def examine_control_column(description: TableDescription, spec: TableSpec) -> list[Finding]:
    """Examine whether the column exists, has a type that weeks can be cut from, and is allowed in a row filter."""
    try:
        column = description.column(spec.control_column)
        kind = description.control_kind(spec.control_column)
    except TableSpecError as error:
        return [judge("control_column", Area.TABLE, error.what, good=False, remedy=error.next_step)]
    name, domain = quote_identifier(column.name), column.type_name != column.base_type
    return [
        judge(
            "control_column",
            Area.TABLE,
            f"{name} is a {kind.value} ({column.type_name})"
            + (": a domain, which PostgreSQL refuses in the row filter of a publication" if domain else ""),
            good=not domain,
            remedy=f"ALTER TABLE {spec.table} ALTER COLUMN {name} TYPE {column.base_type}; -- no rewrite, but a short"
            " exclusive lock",
        )
    ]


def _primary_key(description: TableDescription, spec: TableSpec) -> Finding:
    key = description.primary_key
    candidates = [
        index.name for index in description.indexes if index.unique and index.valid and " WHERE " not in index.tail
    ]
    how = (
        f"ALTER TABLE {spec.table} ADD PRIMARY KEY USING INDEX {quote_identifier(candidates[0])};"
        " -- its columns must be NOT NULL"
        if candidates
        else f"CREATE UNIQUE INDEX CONCURRENTLY … ON {spec.table} (…); ALTER TABLE {spec.table} ADD PRIMARY KEY USING"
        " INDEX …;"
    )
    evidence = "there is no primary key" if not key else f"primary key ({', '.join(key)})"
    if key and spec.control_column not in key:
        evidence += (
            f"; in the base ({', '.join((*key, spec.control_column))}), as a partitioned table requires: that"
            f" ({', '.join(key)}) alone is unique is then checked by the reconciliation, not enforced; and INSERT … ON"
            f" CONFLICT ({', '.join(key)}) fails there, so that applications must name the whole key"
        )
    return judge("primary_key", Area.TABLE, evidence, good=bool(key), remedy=how)


def _deferrable(description: TableDescription, base_major: int | None) -> list[Finding]:
    """Examine deferrable keys: they are carried as such, at a cost for the streams."""
    found = [f"unique key {one.name}" for one in description.indexes if one.valid and one.deferrable]
    if not description.primary_key_deferral:
        return [info("deferrable_keys", Area.TABLE, f"{listed(found)}: deferrable in the base, too")] if found else []
    slow = base_major is not None and base_major < _FINDS_BY_ANY_INDEX
    return [
        judge(
            "deferrable_keys",
            Area.TABLE,
            f"{listed(['the primary key', *found])}: deferrable in the base, too. Such a key cannot be a replica"
            " identity: the reverse stream carries whole old rows"
            + ("; and the base, before PostgreSQL 16, scans the leaf for every update and delete" if slow else ""),
            good=not slow,
            remedy=f"use a base of PostgreSQL {_FINDS_BY_ANY_INDEX} or newer, or make the key immediate in the legacy",
            severity=Severity.WARNING,
        )
    ]


def _indexes(description: TableDescription, spec: TableSpec) -> list[Finding]:
    valid = [index for index in description.indexes if index.valid]
    invalid = [index.name for index in description.indexes if not index.valid]
    weakened = [i.name for i in valid if i.unique and not i.is_unique_with(spec.control_column)]
    return [
        judge(
            "unique_indexes",
            Area.TABLE,
            f"carried as ordinary indexes, since they lack {spec.control_column}: {listed(weakened)}"
            if weakened
            else f"{len(valid)} secondary indexes, none of which loses its uniqueness",
            good=not weakened,
            remedy="INSERT … ON CONFLICT on such a key fails in the base, so applications must avoid it;"
            " let the application or a small table of the keys alone (key PRIMARY KEY) enforce the uniqueness in"
            " the base after the cutover; until then the legacy enforces it",
            severity=Severity.WARNING,
        ),
        judge(
            "invalid_indexes",
            Area.TABLE,
            f"invalid and not carried: {listed(invalid)}" if invalid else "every index is valid",
            good=not invalid,
            remedy="; ".join(f"REINDEX INDEX CONCURRENTLY {QualifiedName(spec.table.schema, name)}" for name in invalid)
            + "; or DROP INDEX CONCURRENTLY what a failed build left behind",
            severity=Severity.WARNING,
        ),
    ]


def _columns(description: TableDescription, base_major: int | None) -> list[Finding]:
    text_only = [column.name for column in description.copied_columns if not column.binary_copy]
    identity = [column.name for column in description.columns if column.identity]
    becomes_default = base_major is not None and base_major < _IDENTITY_ON_PARTITIONED
    return [
        info(
            "copy_format",
            Area.TABLE,
            f"copied as text, which is slower, because their binary form means something else in another database: "
            f"{listed(text_only)}"
            if text_only
            else f"all {len(description.copied_columns)} copied columns are sent in binary form",
        ),
        info(
            "identity_columns",
            Area.TABLE,
            "no identity columns"
            if not identity
            else f"identity columns {listed(identity)}: "
            + (
                f"before PostgreSQL {_IDENTITY_ON_PARTITIONED} a partitioned table has none; the base gets a default"
                " from a sequence of the same name"
                if becomes_default
                else "carried as they are"
            ),
        ),
    ]


_LOCK_MS = 500
_REMEDIES: tuple[tuple[type[psycopg.Error], str], ...] = (
    (errors.InsufficientPrivilege, "grant the role what the message names, in the base"),
    (errors.UndefinedFunction, "create the function in the base: a default, check or index expression calls it"),
    (errors.UndefinedObject, "create in the base what the message names: type, operator class, collation or extension"),
    (errors.UndefinedTable, "create in the base what the message names: a default or expression uses it"),
    (errors.InvalidSchemaName, "create the schema in the base"),
    (errors.FeatureNotSupported, "upgrade the base: its version cannot do this on a partitioned table"),
)


def examine_base_table(base: Connected, subject: Subject) -> list[Finding]:
    """Examine whether a root that already exists fits."""
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
    """Find indexes that the legacy got after the root was created: copies go on, but readiness blocks without them."""
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
        return info("base_table", Area.BASE, f"{spec.table} does not exist in the base and will be created")
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
    """Run `ensure_ledger`, `ensure_quarter` and the row hash over the new root, then roll everything back.

    Only gaps in the ledger's sequence of lock keys remain, because sequences are not transactional.
    """
    start = time.perf_counter()
    try:
        with base.transaction(force_rollback=True):
            set_limits(base, lock=_LOCK_MS)
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
            raise  # the connection is lost, which says nothing about the DDL
        return _failed(error, quarter)
    milliseconds = (time.perf_counter() - start) * 1000
    return info(
        "ddl_rehearsal",
        Area.BASE,
        f"{quarter.key}: {len(opened.leaves)} leaves ({len(opened.created)} of them new) with {indexes} indexes each"
        f" and {len(subject.description.types)} user types rehearsed and rolled back in {milliseconds:,.0f} ms",
    )


def not_rehearsed(codes: list[str]) -> Finding:
    """Return the finding for a rehearsal that could only repeat what other findings say."""
    return judge(
        "ddl_rehearsal",
        Area.BASE,
        f"not rehearsed because of: {listed(codes)}",
        good=False,
        remedy="resolve those findings, then run preflight again",
        severity=Severity.WARNING,
    )


def examine_legacy_hash(legacy: Connected, description: TableDescription) -> Finding:
    """Examine whether the legacy can run the row hash of the real columns (the rehearsal tries the base)."""
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
            f"{quarter.key}: somebody held a conflicting lock for more than {_LOCK_MS} ms",
            good=False,
            remedy="run preflight again when no other run opens a quarter or changes the base's table",
            severity=Severity.WARNING,
        )
    remedy = next((text for kind, text in _REMEDIES if isinstance(error, kind)), "resolve what the message says")
    return judge("ddl_rehearsal", Area.BASE, f"{quarter.key}: {error_text(error)}", good=False, remedy=remedy)


def _count_indexes(base: Connected, leaf: str, subject: Subject) -> int:
    row = base.execute(
        "SELECT count(*) FROM pg_indexes WHERE schemaname = %s AND tablename = %s", [subject.spec.table.schema, leaf]
    ).fetchone()
    return int(require_row(row, "a count of indexes")[0])
