"""Drift: the objects that the stream relies on, compared with how the stream's own steps created them.

Compared are publication, replica identity, TRUNCATE guard, columns, rights and subscription. Every difference was made
by hand, since the stream's own steps hold its lock and write to the ledger first.
"""

from dataclasses import dataclass
from typing import Any

from psycopg import sql
from psycopg.rows import dict_row

from migration_assets.domain.samples import Drift, ProblemCode
from migration_assets.domain.table_description import TableDescription, column_differences, structure_differences
from migration_assets.domain.table_spec import TableSpec
from migration_assets.ledger.stream import StreamRecord
from migration_assets.postgres.catalogue import describe_table
from migration_assets.postgres.own_schema import own_schema
from migration_assets.postgres.refused_changes import RefusedChanges, refused_changes
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.stream.legacy_side import GUARD

_RUN_AS_OWNER_SINCE = 160000
_FULL = "f"


@dataclass(frozen=True)
class LegacySide:
    """The legacy's catalogue now. `published` maps tables to their row filters; `markers` names our marker table."""

    markers: tuple[str, str]
    actions: dict[str, bool] | None
    published: dict[tuple[str, str], str | None]
    column_lists: tuple[str, ...]
    identity: str | None
    guarded: bool
    refused: tuple[RefusedChanges, ...]
    description: TableDescription | None


@dataclass(frozen=True)
class BaseSide:
    """The base's catalogue now."""

    markers: tuple[str, str]
    subscription: dict[str, Any] | None
    subscribed: frozenset[tuple[str, str]]
    rights_missing: tuple[str, ...]
    marker_key: bool
    refused: tuple[RefusedChanges, ...]
    description: TableDescription | None


def examine_legacy(legacy: Connected, spec: TableSpec, publication: str) -> LegacySide:
    """Read the legacy's part; no lock is waited for longer than the session's `lock_timeout`."""
    with legacy.cursor(row_factory=dict_row) as cursor:
        actions = cursor.execute(
            "SELECT pubinsert AS insert, pubupdate AS update, pubdelete AS delete, NOT pubtruncate AS no_truncate,"
            " NOT puballtables AS named_tables FROM pg_publication WHERE pubname = %s",
            [publication],
        ).fetchone()
    published = legacy.execute(
        "SELECT n.nspname, c.relname, pg_get_expr(r.prqual, r.prrelid), r.prattrs IS NOT NULL FROM pg_publication_rel r"
        " JOIN pg_publication p ON p.oid = r.prpubid JOIN pg_class c ON c.oid = r.prrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = %s",
        [publication],
    ).fetchall()
    table = legacy.execute(
        "SELECT c.relreplident, EXISTS (SELECT FROM pg_trigger t"
        " WHERE t.tgrelid = c.oid AND t.tgname = %s AND t.tgenabled = 'A')"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
        [GUARD, spec.table.schema, spec.table.name],
    ).fetchone()
    return LegacySide(
        markers=(own_schema(legacy), "markers"),
        actions=actions,
        published={(row[0], row[1]): row[2] for row in published},
        column_lists=tuple(f"{row[0]}.{row[1]}" for row in published if row[3]),
        identity=str(table[0]) if table else None,
        guarded=bool(table and table[1]),
        # A column list of our own publication is reported separately.
        refused=tuple(refused_changes(legacy, spec.table, own=publication)),
        description=describe_table(legacy, spec.table),
    )


def examine_base(base: Connected, spec: TableSpec, subscription: str) -> BaseSide:
    """Read the base's part."""
    with base.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(
            "SELECT oid::bigint, subslotname AS slot, subpublications AS publications, substream::text AS streaming,"
            " subdisableonerr AS disable_on_error FROM pg_subscription WHERE subname = %s"
            " AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
            [subscription],
        ).fetchone()
    subscribed = base.execute(
        "SELECT n.nspname, c.relname FROM pg_subscription_rel r JOIN pg_class c ON c.oid = r.srrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE r.srsubid = %s AND r.srsubstate = 'r'",
        [found["oid"] if found else 0],
    ).fetchall()
    key = base.execute(
        "SELECT EXISTS (SELECT FROM pg_index WHERE indrelid = 'migration.markers'::regclass"
        " AND indisprimary AND indisvalid AND indimmediate)"
    ).fetchone()
    return BaseSide(
        markers=(own_schema(base), "markers"),
        subscription=found,
        subscribed=frozenset((row[0], row[1]) for row in subscribed),
        rights_missing=_rights_missing(base, spec, found["oid"]) if found else (),
        marker_key=bool(require_row(key, "EXISTS")[0]),
        refused=tuple(refused_changes(base, spec.table)),
        description=describe_table(base, spec.table),
    )


def _rights_missing(base: Connected, spec: TableSpec, subscription: int) -> tuple[str, ...]:
    """Return the rights that the apply worker lacks.

    Since PostgreSQL 16 the worker acts as the table's owner, and the subscription's owner must be able to SET ROLE to
    it; before, and with `run_as_owner`, it acts as the subscription's owner. Only rights on the leaves are checked:
    those on the root may be missing (seen). If the subscription's owner may not log in, the worker ends at every start
    (seen).
    """
    as_owner = "s.subrunasowner" if base.info.server_version >= _RUN_AS_OWNER_SINCE else "true"
    may_become = (
        "pg_has_role(s.subowner, t.owner, 'SET')" if base.info.server_version >= _RUN_AS_OWNER_SINCE else "true"
    )
    rows = base.execute(
        sql.SQL(
            """
            WITH targets AS (
                SELECT root.relowner AS owner, root.relnamespace AS schema, p.relid::oid AS relation
                FROM pg_class root, pg_partition_tree(root.oid) p
                WHERE root.oid = to_regclass({table}) AND p.isleaf
                UNION ALL
                SELECT relowner, relnamespace, oid FROM pg_class WHERE oid = to_regclass('migration.markers')
            ), needed AS (
                SELECT t.*, s.subowner, {as_owner} AS as_owner, {may_become} AS may_become
                FROM targets t, pg_subscription s WHERE s.oid = {subscription}
            )
            SELECT DISTINCT format('%s may not log in', rolname) FROM needed JOIN pg_roles r ON r.oid = subowner
            WHERE NOT rolcanlogin
            UNION ALL
            SELECT DISTINCT format('%s may not become %s', subowner::regrole, owner::regrole) FROM needed
            WHERE NOT as_owner AND NOT may_become
            UNION ALL
            SELECT DISTINCT format('%s lacks USAGE on schema %s', subowner::regrole, schema::regnamespace) FROM needed
            WHERE NOT has_schema_privilege(subowner, schema, 'USAGE')
            UNION ALL
            SELECT format('%s lacks %s on %s%s', role, string_agg(DISTINCT privilege, ', '),
                          min(relation::regclass::text),
                          CASE WHEN count(DISTINCT relation) > 1
                               THEN format(' and %s more', count(DISTINCT relation) - 1) ELSE '' END)
            FROM (SELECT (CASE WHEN as_owner THEN subowner ELSE owner END)::regrole AS role, relation FROM needed) n,
                 unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) privilege
            WHERE NOT has_table_privilege(role, relation, privilege) GROUP BY role
            """
        ).format(
            table=sql.Literal(str(spec.table)),
            as_owner=sql.SQL(as_owner),
            may_become=sql.SQL(may_become),
            subscription=sql.Literal(subscription),
        )
    ).fetchall()
    return tuple(str(row[0]) for row in rows)


def find_drifts(legacy: LegacySide, base: BaseSide, record: StreamRecord, spec: TableSpec) -> tuple[Drift, ...]:
    """Return everything that is not as the stream's steps created it."""
    table = (spec.table.schema, spec.table.name)
    drifts = [*_of_publication(legacy, record, table), *_of_subscription(base, record, table)]

    def add(code: ProblemCode, what: str) -> None:
        drifts.append(Drift(code, what))

    if legacy.description is None or base.description is None:
        side = "legacy" if legacy.description is None else "base"
        add(ProblemCode.COLUMNS_DIFFER, f"the table is gone from the {side}")
        return tuple(drifts)
    if legacy.identity != _FULL:
        add(
            ProblemCode.IDENTITY_ALTERED,
            f"the legacy's table has replica identity {legacy.identity!r} instead of FULL",
        )
    if not legacy.guarded:
        add(ProblemCode.GUARD_MISSING, "the guard against TRUNCATE is gone from the legacy's table, or disabled")
    if not base.marker_key:
        add(ProblemCode.MARKER_KEY_MISSING, "the primary key of the base's markers is gone, or deferrable")
    for what in _of_columns(legacy.description, base.description):
        add(ProblemCode.COLUMNS_DIFFER, what)
    for what in base.rights_missing:
        add(ProblemCode.RIGHTS_MISSING, what)
    for side, refused in (("legacy", legacy.refused), ("base", base.refused)):
        for one in refused:
            add(ProblemCode.UPDATES_REFUSED, f"on the {side}, {one.what}: {one.remedy}")
    return tuple(drifts)


def _of_columns(legacy: TableDescription, base: TableDescription) -> list[str]:
    """Return columns that differ, and differences inside their types with the statements that correct them."""
    inside = structure_differences(legacy, base)
    plain = {one.what for one in inside}
    return [
        *(what for what in column_differences(legacy, base) if what not in plain),
        *(f"{one.what}; {one.remedy}" for one in inside),
    ]


def stricter_in_base(legacy: TableDescription, base: TableDescription) -> tuple[str, ...]:
    """Return what only the base refuses: not a drift by itself, but a possible reason why the worker keeps failing."""
    may_be_null = {column.name for column in legacy.columns if not column.not_null}
    found = [
        f"{column.name} is NOT NULL in the base alone"
        for column in base.columns
        if column.not_null and column.name in may_be_null
    ]
    checks = {check.definition for check in legacy.checks}
    found += [f"the base alone has CHECK {one.name}" for one in base.checks if one.definition not in checks]
    unique = {index.tail for index in legacy.indexes if index.unique}
    found += [
        f"the base alone has unique index {one.name}" for one in base.indexes if one.unique and one.tail not in unique
    ]
    return tuple(found)


def _of_publication(legacy: LegacySide, record: StreamRecord, table: tuple[str, str]) -> list[Drift]:
    if legacy.actions is None:
        return [Drift(ProblemCode.PUBLICATION_MISSING, "the publication is gone from the legacy")]
    found: list[str] = [f"{name} is not as it was set" for name, as_built in legacy.actions.items() if not as_built]
    wanted = {table, legacy.markers}
    found += [f"{'.'.join(name)} is not published any more" for name in sorted(wanted - legacy.published.keys())]
    found += [f"{'.'.join(name)} is published as well" for name in sorted(legacy.published.keys() - wanted)]
    found += [f"only some columns of {name} are published" for name in legacy.column_lists]
    if table in legacy.published and record.row_filter is not None and legacy.published[table] != record.row_filter:
        found.append(f"the filter is {legacy.published[table] or 'gone'} instead of {record.row_filter}")
    if legacy.markers in legacy.published and record.relation not in (legacy.published[legacy.markers] or ""):
        found.append(f"the markers' filter is {legacy.published[legacy.markers] or 'gone'}")
    return [Drift(ProblemCode.PUBLICATION_ALTERED, what) for what in found]


def _of_subscription(base: BaseSide, record: StreamRecord, table: tuple[str, str]) -> list[Drift]:
    if base.subscription is None:
        return []  # a missing subscription has a code of its own
    found: list[str] = []
    if base.subscription["slot"] != record.slot:
        found.append(f"the subscription reads slot {base.subscription['slot']} instead of {record.slot}")
    if base.subscription["publications"] != [record.publication]:
        found.append(f"it follows the publications {base.subscription['publications']}")
    if base.subscription["streaming"] == "p":
        found.append("streaming is parallel, which lets a transaction's end pass a marker")
    if base.subscription["disable_on_error"]:
        found.append("disable_on_error is on, so that every lost connection stops the stream")
    found += [f"it does not carry {'.'.join(name)}" for name in sorted({table, base.markers} - base.subscribed)]
    return [Drift(ProblemCode.SUBSCRIPTION_ALTERED, what) for what in found]
