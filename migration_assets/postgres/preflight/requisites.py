"""Examines what the base must have before the table can be made there: types and collations."""

from psycopg import sql

from migration_assets.domain.findings import Area, Finding
from migration_assets.domain.table_description import TableDescription, UserType
from migration_assets.postgres.base_table import type_exists
from migration_assets.postgres.preflight.wording import judge, listed
from migration_assets.postgres.sessions import Connected, require_row

_KINDS = {"c": "composite", "r": "range", "m": "multirange", "b": "base"}


def examine_types(legacy: Connected, base: Connected, description: TableDescription) -> list[Finding]:
    """Enums and domains are made when the table is; all others must be there."""
    missing = [t for t in description.types if not t.can_be_created and not type_exists(base, t)]
    made = [t.name for t in description.types if t.can_be_created and not type_exists(base, t)]
    evidence = f"{len(description.types)} user types are used"
    if made:
        evidence += f", {listed(made)} will be made"
    if missing:
        evidence += ", missing in the base: " + listed(f"{t.name} ({_KINDS.get(t.kind, t.kind)})" for t in missing)
    return [
        judge(
            "types",
            Area.BASE,
            evidence,
            good=not missing,
            # An extension may bring several of them.
            remedy="in the base: " + " ".join(dict.fromkeys(_how_to_create(legacy, t) for t in missing)),
        )
    ]


def examine_collations(legacy: Connected, base: Connected, description: TableDescription) -> list[Finding]:
    """Those that columns name; an index's own are found by the rehearsal."""
    names = dict.fromkeys(column.collation for column in description.columns if column.collation)
    missing = [name for name in names if not _has_collation(base, name)]
    return [
        judge(
            "collations",
            Area.BASE,
            f"missing in the base: {listed(missing)}"
            if missing
            else f"{len(names)} columns' own collations, all of them in the base",
            good=not missing,
            remedy="in the base: " + " ".join(_create_collation(legacy, name) for name in missing),
        )
    ]


def _how_to_create(legacy: Connected, user_type: UserType) -> str:
    row = legacy.execute(
        "SELECT e.extname::text, t.typtype::text, t.typrelid::bigint, to_regtype(%(name)s)::oid::bigint"
        " FROM pg_type t LEFT JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid"
        " AND d.deptype = 'e' LEFT JOIN pg_extension e ON e.oid = d.refobjid WHERE t.oid = to_regtype(%(name)s)",
        {"name": user_type.name},
    ).fetchone()
    extension, kind, relation, oid = require_row(row, "a type of the legacy")
    if extension:
        return sql.SQL("CREATE EXTENSION {};").format(sql.Identifier(extension)).as_string()
    if kind == "c":
        row = legacy.execute(
            "SELECT string_agg(format('%%I %%s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum)"
            " FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped",
            [relation],
        ).fetchone()
        return f"CREATE TYPE {user_type.name} AS ({require_row(row, 'the fields of a type')[0]});"
    if kind == "r":
        row = legacy.execute("SELECT format_type(rngsubtype, NULL) FROM pg_range WHERE rngtypid = %s", [oid]).fetchone()
        return f"CREATE TYPE {user_type.name} AS RANGE (SUBTYPE = {require_row(row, 'the subtype of a range')[0]});"
    if kind == "m":
        row = legacy.execute(
            "SELECT format_type(rngtypid, NULL) FROM pg_range WHERE rngmultitypid = %s", [oid]
        ).fetchone()
        return f"-- {user_type.name} comes with CREATE TYPE {require_row(row, 'the range of a type')[0]} AS RANGE"
    return f"-- install whatever made type {user_type.name} in the legacy;"


def _has_collation(base: Connected, name: str) -> bool:
    # A collation of another encoding has the name and cannot be used.
    row = base.execute(
        "SELECT EXISTS (SELECT FROM pg_collation WHERE oid = to_regcollation(%s)"
        " AND collencoding IN (-1, (SELECT encoding FROM pg_database WHERE datname = current_database())))",
        [name],
    ).fetchone()
    return bool(require_row(row, "a collation")[0])


def _create_collation(legacy: Connected, name: str) -> str:
    row = legacy.execute(
        # As JSON, because the column of the locale was renamed in PostgreSQL 17.
        "SELECT c.collprovider::text, coalesce(j->>'colllocale', j->>'colliculocale', c.collcollate),"
        " c.collisdeterministic FROM pg_collation c, LATERAL to_jsonb(c) AS j WHERE c.oid = to_regcollation(%s)",
        [name],
    ).fetchone()
    provider, locale, deterministic = require_row(row, "a collation of the legacy")
    names = {"c": "libc", "i": "icu", "b": "builtin"}
    parts = [f"provider = {names.get(provider, provider)}", "locale = " + sql.Literal(locale).as_string()]
    if not deterministic:
        parts.append("deterministic = false")
    return f"CREATE COLLATION {name} ({', '.join(parts)});"
