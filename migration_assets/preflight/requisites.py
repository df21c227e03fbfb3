"""Examines what the base must have before the table can be made there: types and collations, alike in structure."""

from collections.abc import Iterable

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import parse_identifiers, quote_identifier
from migration_assets.domain.user_types import Collation, UserType, collation_differences, type_differences
from migration_assets.postgres.catalogue import describe_types
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.preflight.wording import judge, listed
from migration_assets.quarters.base_table import type_exists

_KINDS = {"c": "composite", "r": "range", "m": "multirange", "b": "base"}


def examine_types(base: Connected, description: TableDescription) -> list[Finding]:
    """Enums and domains are made when the table is; all others must be there, and all that are there must be alike."""
    absent = [one for one in description.types if not type_exists(base, one)]
    missing = [one for one in absent if not one.can_be_created]
    made = [one.name for one in absent if one.can_be_created]
    evidence = f"{len(description.types)} user types are used"
    if made:
        evidence += f", {listed(made)} will be made"
    if missing:
        evidence += ", missing in the base: " + listed(f"{t.name} ({_KINDS.get(t.kind, t.kind)})" for t in missing)
    findings = [
        judge(
            "types",
            Area.BASE,
            evidence,
            good=not missing,
            remedy="in the base: " + " ".join(_creation(base, description, absent, missing)),
        )
    ]
    if not description.types and not description.collations:
        return findings
    there = describe_types(base, [one.name for one in description.types], [one.name for one in description.collations])
    columns = [(column.name, column.type_name, column.default) for column in description.columns]
    differences = [
        *type_differences(description.types, there.types, columns, str(description.table)),
        *collation_differences(description.collations, there.collations),
    ]
    findings += [Finding("types_differ", Area.BASE, Severity.BLOCKING, one.what, one.remedy) for one in differences]
    return findings


def _creation(
    base: Connected, description: TableDescription, absent: list[UserType], missing: list[UserType]
) -> list[str]:
    """Statements that can be run as they are, in this order; an extension may bring several types."""
    needed = {one.name for one in missing}
    for one in reversed(description.types):  # each after those that it is made of
        if one.name in needed and one in absent:
            needed |= set(one.uses)
    making = [one for one in absent if one.name in needed]
    collations = {one.name: one for one in description.collations}
    statements: list[str] = []
    for one in making:
        wanted = [collations[name] for name in one.collations if name in collations]
        statements += [text for each in wanted if not has_collation(base, each.name) for text in collation_of(each)]
        schemas = {parse_identifiers(one.name)[0]} | ({one.extension.schema} if one.extension else set[str]())
        for schema in sorted(schemas):
            if not _has_schema(base, schema):
                statements.append(f"CREATE SCHEMA IF NOT EXISTS {quote_identifier(schema)};")
        if one.extension is not None and _has_extension(base, one.extension.name):
            statements.append(
                f"ALTER EXTENSION {quote_identifier(one.extension.name)} SET SCHEMA"
                f" {quote_identifier(one.extension.schema)};"
            )
        else:
            statements += one.creation
    return list(dict.fromkeys(statements))


def examine_collations(base: Connected, description: TableDescription) -> list[Finding]:
    """Those that columns, fields, domains and ranges name; an index's own are found by the rehearsal."""
    missing = [one for one in description.collations if not has_collation(base, one.name)]
    return [
        judge(
            "collations",
            Area.BASE,
            f"missing in the base: {listed(one.name for one in missing)}"
            if missing
            else f"{len(description.collations)} collations that the table names, all of them in the base",
            good=not missing,
            remedy="in the base: " + " ".join(_creations(base, missing)),
        )
    ]


def _creations(base: Connected, missing: Iterable[Collation]) -> Iterable[str]:
    for one in missing:
        schema = parse_identifiers(one.name)[0]
        if not _has_schema(base, schema):
            yield f"CREATE SCHEMA IF NOT EXISTS {quote_identifier(schema)};"
        yield from collation_of(one)


def collation_of(one: Collation) -> tuple[str, ...]:
    """What makes it."""
    if parse_identifiers(one.name)[0] == "pg_catalog":
        return (
            f"SELECT pg_import_system_collations('pg_catalog'); -- once the system of the base has locale {one.locale}",
        )
    return (f"CREATE COLLATION IF NOT EXISTS {one.name} ({one.options});",)


def has_collation(base: Connected, name: str) -> bool:
    """Whether the base has it, of an encoding that fits."""
    # A collation of another encoding has the name and cannot be used.
    row = base.execute(
        "SELECT EXISTS (SELECT FROM pg_collation WHERE oid = to_regcollation(%s)"
        " AND collencoding IN (-1, (SELECT encoding FROM pg_database WHERE datname = current_database())))",
        [name],
    ).fetchone()
    return bool(require_row(row, "a collation")[0])


def _has_schema(base: Connected, name: str) -> bool:
    return base.execute("SELECT FROM pg_namespace WHERE nspname = %s", [name]).fetchone() is not None


def _has_extension(base: Connected, name: str) -> bool:
    return base.execute("SELECT FROM pg_extension WHERE extname = %s", [name]).fetchone() is not None
