"""The base's rows as a query engine can read them: as an archive would store them, in the session that reads.

A question over hot and cold rows wants the same types on both sides, and exact ones: DuckDB would read an unconstrained
numeric as a double. What a type cannot show (NaN in a decimal, a two-dimensional array) is NULL in questions.

The view reads the table through a function whose body is a text: PostgreSQL plans it as if it stood in the view, so
that conditions reach partitions and indexes, and yet keeps nobody from altering or dropping a column of the table.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import errors, sql

from migration_assets.archive.expressions import LATEST
from migration_assets.domain.errors import MigrationError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.stored_columns import Storage, StoredColumn, numbered_name
from migration_assets.domain.table_spec import QualifiedName, TableSpec
from migration_assets.ledger.session_locks import take_turn_at_partitions
from migration_assets.postgres.own_schema import own_schema
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected
from migration_assets.postgres.sql_text import raw_sql, table_name

_READERS = """
SELECT DISTINCT r.rolname::text
FROM pg_class c CROSS JOIN aclexplode(c.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE c.oid = to_regclass(%s) AND a.privilege_type = 'SELECT' AND a.grantee <> c.relowner
"""


@dataclass(frozen=True, order=True)
class WeekPlace:
    """Where the rows of a week are: in the base (`attached`), in its archive (by id), or in both."""

    week: FiscalWeek
    lower_bound: str
    upper_bound: str
    attached: bool
    archive: int | None

    @property
    def is_cold(self) -> bool:
        """Whether only the archive has them."""
        return not self.attached and self.archive is not None


def week_places(base: Connected, spec: TableSpec) -> list[WeekPlace]:
    """Every known week and where its rows are now, oldest first; a leaf that is being detached counts as gone."""
    rows = base.execute(
        "SELECT s.quarter || '|' || s.week, s.lower_bound, s.upper_bound, EXISTS ("
        "  SELECT FROM pg_inherits l JOIN pg_class c ON c.oid = l.inhrelid"
        "  JOIN pg_namespace n ON n.oid = c.relnamespace"
        "  JOIN pg_inherits q ON q.inhrelid = l.inhparent"
        "  WHERE c.relname = s.leaf AND n.nspname = %(schema)s AND NOT l.inhdetachpending AND NOT q.inhdetachpending"
        "  AND q.inhparent = to_regclass(%(root)s)), a.id"
        " FROM migration.slices s LEFT JOIN migration.archives a"
        "  ON (a.relation, a.quarter, a.week) = (s.relation, s.quarter, s.week) AND a.superseded_at IS NULL"
        " WHERE s.relation = %(relation)s",
        {"schema": spec.table.schema, "root": str(spec.table), "relation": spec.relation},
    )
    return sorted(WeekPlace(FiscalWeek.parse(key), *rest) for key, *rest in rows)


def _name_of(base: Connected, spec: TableSpec) -> QualifiedName:
    """The view's name, of this table alone."""
    return QualifiedName(own_schema(base), f"hot_{hashlib.sha256(spec.relation.encode()).hexdigest()[:12]}")


def ensure_hot_view(base: Connected, spec: TableSpec, columns: Sequence[StoredColumn]) -> QualifiedName:
    """Make the view, or make it anew where the table's columns have changed since; safe to repeat.

    Raises:
        MigrationError: It is not as it should be, and our role may not make it.
    """
    view = _name_of(base, spec)
    statements = _statements(view, spec, columns)
    digest = hashlib.sha256("".join(one.as_string(base) for one in statements).encode()).hexdigest()
    if _is_made(base, view, digest):
        return view
    with base.transaction():
        try:
            take_turn_at_partitions(base)
        except errors.InsufficientPrivilege as error:
            raise _may_not(view, spec, error) from error
        if _is_made(base, view, digest):
            return view
        readers = base.execute(_READERS, [str(view)]).fetchall()
        try:
            with base.transaction():
                for statement in statements:
                    base.execute(statement)
                for (reader,) in readers:  # a view that is made anew would be read by nobody
                    who = sql.SQL("PUBLIC") if reader is None else sql.Identifier(reader)
                    base.execute(sql.SQL("GRANT SELECT ON {} TO {}").format(table_name(view), who))
                base.execute(sql.SQL("COMMENT ON VIEW {} IS {}").format(table_name(view), sql.Literal(digest)))
        except errors.InsufficientPrivilege as error:
            raise _may_not(view, spec, error) from error
    return view


def _is_made(base: Connected, view: QualifiedName, digest: str) -> bool:
    row = base.execute("SELECT obj_description(to_regclass(%s), 'pg_class')", [str(view)]).fetchone()
    return row is not None and row[0] == digest


def _may_not(view: QualifiedName, spec: TableSpec, error: errors.InsufficientPrivilege) -> MigrationError:
    return MigrationError(
        f"the view {view} has to be made anew, and our role may not: {told(error)}",
        where=f"{spec.relation} in the base",
        state_left="nothing was changed",
        next_step="run the query once as the role that migrates",
    )


def _statements(view: QualifiedName, spec: TableSpec, columns: Sequence[StoredColumn]) -> list[sql.Composed]:
    names = [sql.Identifier(numbered_name(number)) for number in range(len(columns))]
    kinds = [raw_sql(_delivered_type(column)) for column in columns]
    values = [
        sql.SQL("({})::{}").format(_delivered(column, spec.control_column), kind)
        for column, kind in zip(columns, kinds, strict=True)
    ]
    body = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(values), table_name(spec.table))
    results = [sql.SQL("{} {}").format(name, kind) for name, kind in zip(names, kinds, strict=True)]
    # What a function returns has no modifiers: DuckDB would take a numeric without them for a double.
    limits = [raw_sql(_limits(column)) for column in columns]
    shown = [sql.SQL("{}{}").format(*pair) for pair in zip(names, limits, strict=True)]
    shown = [sql.SQL("{} AS {}").format(*pair) for pair in zip(shown, names, strict=True)]
    made = {"view": table_name(view), "function": table_name(view)}
    return [
        sql.SQL("DROP VIEW IF EXISTS {view}").format(**made),
        sql.SQL("DROP FUNCTION IF EXISTS {function}()").format(**made),
        sql.SQL("CREATE FUNCTION {function}() RETURNS TABLE ({results}) LANGUAGE sql STABLE AS {body}").format(
            **made, results=sql.SQL(", ").join(results), body=body.as_string()
        ),
        sql.SQL("CREATE VIEW {view} AS SELECT {shown} FROM {function}()").format(
            **made, shown=sql.SQL(", ").join(shown)
        ),
    ]


_INTEGERS = {2: "smallint", 4: "integer", 8: "bigint"}
_TYPES = {
    Storage.BOOLEAN: "boolean",
    Storage.DECIMAL: "numeric",
    Storage.BYTES: "bytea",
    Storage.UUID: "uuid",
    Storage.DATE: "date",
    Storage.TIMESTAMP: "timestamp",
    Storage.TIMESTAMPTZ: "timestamptz",
}


def _delivered_type(column: StoredColumn) -> str:
    """PostgreSQL's own type, of a domain or a user's type what stands for it."""
    match column.storage:
        case Storage.INTEGER:
            return _INTEGERS[column.width]
        case Storage.FLOAT:
            return "real" if column.width == 4 else "double precision"  # noqa: PLR2004  bytes of a real
        case Storage.LIST:
            if column.element is Storage.INTEGER:
                return f"{_INTEGERS[column.width]}[]"
            return "boolean[]" if column.element is Storage.BOOLEAN else "text[]"
        case Storage.TEXT if _is_numeric(column):
            return "numeric"
        case _:
            return _TYPES.get(column.storage, "text")


def _limits(column: StoredColumn) -> str:
    if column.storage is Storage.DECIMAL:
        return f"::numeric({column.precision},{column.scale})"
    return "::numeric(38,12)" if column.storage is Storage.TEXT and _is_numeric(column) else ""


def _is_numeric(column: StoredColumn) -> bool:
    return column.base_type.partition("(")[0] == "numeric"


def _delivered(column: StoredColumn, control_column: str) -> sql.Composable:
    name = sql.Identifier(column.name)
    as_it_is = "{0}"
    match column.storage:
        case _ if column.name == control_column:
            shown = as_it_is  # so that a condition on it prunes partitions
        case Storage.DECIMAL:
            # Neither NaN nor infinite.
            shown = "CASE WHEN abs({0}) < 'Infinity' THEN {0} END"
        case Storage.LIST:
            shown = "CASE WHEN array_ndims({0}) > 1 OR array_lower({0}, 1) <> 1 THEN NULL ELSE {0} END"
        case Storage.TIMESTAMP | Storage.TIMESTAMPTZ:
            # DuckDB's end; its beginning lies before PostgreSQL's.
            zone = "tz" if column.storage is Storage.TIMESTAMPTZ else ""
            shown = f"CASE WHEN {{0}} < '{LATEST}'::timestamp{zone} OR NOT isfinite({{0}}) THEN {{0}} END"
        case Storage.TEXT if _is_numeric(column):
            # 26 digits before the point and 12 after it: what DECIMAL(38,12) holds. Not for infinities and NaN.
            shown = "CASE WHEN abs({0}) < 1e27 AND abs(round({0}, 12)) < 1e26 THEN round({0}, 12) END"
        case Storage.TEXT if not column.is_text_type:
            shown = "CASE WHEN {0} IS DISTINCT FROM NULL THEN format('%s', {0}) END"
        case _:
            shown = as_it_is
    return raw_sql(shown).format(name)
