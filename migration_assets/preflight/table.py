"""Examines the table itself as the legacy's catalogue describes it: kind, key, control column, indexes, columns."""

from migration_assets.domain.errors import TableSpecError
from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import QualifiedName, TableSpec, quote_identifier
from migration_assets.preflight.wording import info, judge, listed

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
    """Only an ordinary table has rows of its own that can be published by ranges."""
    kind = _KINDS.get(description.kind, f"of kind {description.kind!r}")
    remedy = (
        "it is partitioned already: set MIGRATION_TABLE to one of its partitions, or migrate it by other means"
        if description.kind == "p"
        else "set MIGRATION_TABLE to the ordinary table that holds the rows"
    )
    return judge("table", Area.TABLE, f"{description.table} is {kind}", good=description.kind == "r", remedy=remedy)


def examine_table(description: TableDescription, spec: TableSpec, base_major: int | None) -> list[Finding]:
    """All that the catalogue alone can tell; reads no row."""
    return [
        _primary_key(description, spec),
        *examine_control_column(description, spec),
        *_deferrable(description, base_major),
        *_indexes(description, spec),
        *_columns(description, base_major),
    ]


def examine_control_column(description: TableDescription, spec: TableSpec) -> list[Finding]:
    """It is there, of a type that weeks can be cut from, and fit for the row filter of a publication."""
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
            f"; in the base ({', '.join((*key, spec.control_column))}), as a partitioned table wants it: that"
            f" ({', '.join(key)}) alone is unique is then proven by the reconciliation, not enforced; and INSERT … ON"
            f" CONFLICT ({', '.join(key)}) fails there, so that applications must name the whole key"
        )
    return judge("primary_key", Area.TABLE, evidence, good=bool(key), remedy=how)


def _deferrable(description: TableDescription, base_major: int | None) -> list[Finding]:
    """Keys that a transaction may break for a while: carried as such, with what that costs the streams."""
    found = [f"unique key {one.name}" for one in description.indexes if one.valid and one.deferrable]
    if not description.primary_key_deferral:
        return [info("deferrable_keys", Area.TABLE, f"{listed(found)}: deferrable in the base, too")] if found else []
    slow = base_major is not None and base_major < _FINDS_BY_ANY_INDEX
    return [
        judge(
            "deferrable_keys",
            Area.TABLE,
            f"{listed(['the primary key', *found])}: deferrable in the base, too. Such a key is no replica identity:"
            " the stream back carries whole old rows"
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
            remedy="INSERT … ON CONFLICT by such a key fails in the base, and applications must do without;"
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
            f"copied as text, which is slower, because the bytes mean something else in another database: "
            f"{listed(text_only)}"
            if text_only
            else f"all {len(description.copied_columns)} copied columns travel in binary form",
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
