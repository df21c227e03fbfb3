"""The base's rows as DuckDB can read them, with the same types and values as in an archive.

A view in the base shows each row as an archive would store it: DuckDB by itself would read an unconstrained numeric as
a double. What a type cannot show (NaN in a decimal, a two-dimensional array) is NULL in questions. The view reads the
table through a function whose body is a text. PostgreSQL plans it as if it stood in the view, so that conditions reach
partitions and indexes; and the view keeps nobody from altering or dropping a column of the table.

In DuckDB the view becomes one branch a week, so that a condition prunes weeks on both sides.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources

import duckdb
from psycopg import errors, sql

from migration_assets.archive.cold_views import QUARTER, WEEK, folder_columns
from migration_assets.archive.columns import Storage, StoredColumn, numbered_name
from migration_assets.archive.export import LATEST
from migration_assets.archive.shown_values import as_shown, is_padded, plain_type
from migration_assets.archive.sql_values import identifier, literal
from migration_assets.domain.errors import ArchiveError, MigrationError
from migration_assets.domain.fiscal_calendar import FiscalWeek
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
    """Where a week's rows are: in the base (`attached`), in the archive with this id, or in both."""

    week: FiscalWeek
    lower_bound: str
    upper_bound: str
    attached: bool
    archive: int | None

    @property
    def is_cold(self) -> bool:
        """Whether only the archive has the rows."""
        return not self.attached and self.archive is not None


def week_places(base: Connected, spec: TableSpec) -> list[WeekPlace]:
    """Return every known week and where its rows are, oldest first; a leaf that is being detached counts as gone."""
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
    """Return the view's name, which is unique to the table."""
    return QualifiedName(own_schema(base), f"hot_{hashlib.sha256(spec.relation.encode()).hexdigest()[:12]}")


def ensure_hot_view(base: Connected, spec: TableSpec, columns: Sequence[StoredColumn]) -> QualifiedName:
    """Create the view, or recreate it when the table's columns have changed; safe to repeat.

    Raises:
        MigrationError: The view is missing or outdated, and our role may not create it; nothing was changed.
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
                for (reader,) in readers:  # the recreated view keeps its readers
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
        f"the view {view} has to be created or renewed, and our role may not do that: {told(error)}",
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
    # A function's result has no type modifiers, and DuckDB reads a numeric without them as a double.
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
    """Return a built-in PostgreSQL type; for a domain or a user's type, the built-in one that carries its values."""
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
            shown = as_it_is  # unchanged, so that a condition on it prunes partitions
        case Storage.DECIMAL:
            # NaN and infinities become NULL.
            shown = "CASE WHEN abs({0}) < 'Infinity' THEN {0} END"
        case Storage.LIST:
            shown = "CASE WHEN array_ndims({0}) > 1 OR array_lower({0}, 1) <> 1 THEN NULL ELSE {0} END"
        case Storage.TIMESTAMP | Storage.TIMESTAMPTZ:
            # The upper limit is DuckDB's; its lower limit lies before PostgreSQL's.
            zone = "tz" if column.storage is Storage.TIMESTAMPTZ else ""
            shown = f"CASE WHEN {{0}} < '{LATEST}'::timestamp{zone} OR NOT isfinite({{0}}) THEN {{0}} END"
        case Storage.TEXT if _is_numeric(column):
            # What DECIMAL(38,12) holds: 26 digits before the point, 12 after it. Infinities and NaN become NULL.
            shown = "CASE WHEN abs({0}) < 1e27 AND abs(round({0}, 12)) < 1e26 THEN round({0}, 12) END"
        case Storage.TEXT if not column.is_text_type:
            shown = "CASE WHEN {0} IS DISTINCT FROM NULL THEN format('%s', {0}) END"
        case _:
            shown = as_it_is
    return raw_sql(shown).format(name)


_ATTACHED = "hot"
# When a connection fails, DuckDB quotes all its parameters. These may include the passphrase of a key or the secret of
# an OAuth client, which DuckDB's own secrets cannot hold.
_PARAMETERS = re.compile(r'(Unable to connect to Postgres) at ".*": ', re.DOTALL)
_SQL_TYPES = {Storage.DATE: "DATE", Storage.TIMESTAMP: "TIMESTAMP", Storage.TIMESTAMPTZ: "TIMESTAMPTZ"}


@dataclass(frozen=True)
class HotSide:
    """How DuckDB reaches the base, and the view that it reads there.

    Attributes:
        connection: libpq's parameters, without the password.
        schema: Schema of the view.
        view: Name of the view.
        control_column: The column that the bounds belong to.
        weeks: Quarter, week, lower and upper bound of every week that is in the base.
        options: libpq's `options`, with settings under which values are written as an archive has them.
        password: The URL's password, if it has one; never shown.
    """

    connection: Mapping[str, str]
    schema: str
    view: str
    control_column: str
    weeks: Sequence[tuple[str, str, str, str]]
    options: str
    password: str | None = field(default=None, repr=False)


def hot_relation(duck: duckdb.DuckDBPyConnection, hot: HotSide, columns: Sequence[StoredColumn]) -> list[str]:
    """Attach the base read-only and return a SELECT for each week: its columns, then fiscal_quarter and fiscal_week.

    The view names its columns by position, because DuckDB takes `"a"` and `"A"` for the same name. DuckDB sends
    conditions on unconverted values to the base (for texts with COLLATE "C"), and evaluates all others itself.

    Raises:
        ArchiveError: DuckDB's PostgreSQL extension does not fit this DuckDB, or the base cannot be reached.
    """
    load_reader(duck)
    secret = ""
    if hot.password is not None:
        duck.execute(f"CREATE SECRET {_ATTACHED} (TYPE postgres, PASSWORD {literal(hot.password)})")
        secret = f", SECRET {_ATTACHED}"
    # READ_ONLY is only DuckDB's promise; this setting makes the server refuse writes in every transaction.
    given = hot.connection.get("options", "")
    options = f"{given} {hot.options} -c default_transaction_read_only=on".strip()
    parameters = {**hot.connection, "options": options}
    conninfo = " ".join(f"{name}={_conninfo_value(value)}" for name, value in parameters.items())
    try:
        duck.execute(f"ATTACH {literal(conninfo)} AS {_ATTACHED} (TYPE postgres, READ_ONLY{secret})")
    except duckdb.Error as error:
        raise ArchiveError(
            f"the base cannot be read by DuckDB: {without_parameters(error)}",
            where="query",
            state_left="nothing was touched",
            next_step="check that the base runs, and that MIGRATION_QUERY_URL is right where it is set",
        ) from None
    place = next(number for number, column in enumerate(columns) if column.name == hot.control_column)
    kind, control = _SQL_TYPES[columns[place].storage], numbered_name(place)
    names = map(numbered_name, range(len(columns)))
    shown = [f"{_shown(column, name)} AS {name}" for column, name in zip(columns, names, strict=True)]
    added = folder_columns(columns)
    source = f"{_ATTACHED}.{identifier(hot.schema)}.{identifier(hot.view)}"
    return [
        f"SELECT {', '.join([*shown, *_folders(added, quarter, week)])} FROM {source}"
        f" WHERE {control} >= {kind} {literal(lower)} AND {control} < {kind} {literal(upper)}"
        for quarter, week, lower, upper in hot.weeks
    ]


def load_reader(duck: duckdb.DuckDBPyConnection) -> None:
    """Load DuckDB's PostgreSQL extension from the installed package; DuckDB would otherwise download it at run time."""
    folder = resources.files("duckdb_extension_postgres_scanner") / "extensions" / f"v{duckdb.__version__}"
    reader = folder / "postgres_scanner.duckdb_extension"
    if not reader.is_file():
        raise ArchiveError(
            f"the installed reader of PostgreSQL is not for DuckDB {duckdb.__version__}",
            state_left="nothing was touched",
            next_step="install duckdb and duckdb-extension-postgres-scanner in the same version, as constraints.txt"
            " says",
        )
    with resources.as_file(reader) as path:
        duck.execute(f"LOAD {literal(str(path))}")


def _folders(added: Sequence[str], quarter: str, week: str) -> list[str]:
    values = {QUARTER: quarter, WEEK: week}
    return [f"{literal(values[name])} AS {name}" for name in added]


def _shown(column: StoredColumn, name: str) -> str:
    """Return a column as questions show it; the view already delivers most columns that way."""
    if column.storage is Storage.JSON:
        return f"CAST({name} AS JSON)"
    arrives_so = column.storage is not Storage.TEXT or plain_type(column) == "numeric" or is_padded(column)
    return name if arrives_so else as_shown(column, name, column)


def _conninfo_value(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def without_parameters(error: BaseException) -> str:
    """Return DuckDB's message without the parameters of the connection to the base."""
    return _PARAMETERS.sub(r"\1: ", str(error)).strip()
